#pragma once

#include "ferry/v1/snapshot.grpc.pb.h"
#include "vmmanager/saving/snapshots.h"

namespace ferry::vm {

// ferry.v1.SnapshotService: translates, and posts to the executor. What a caller began goes on when
// the caller is gone: none of it can be cancelled.
class SnapshotService final : public v1::SnapshotService::CallbackService {
 public:
  // `snapshots` must outlive it.
  explicit SnapshotService(Snapshots& snapshots) : snapshots_(snapshots) {}

  grpc::ServerUnaryReactor* SaveSnapshot(grpc::CallbackServerContext*,
                                         const v1::SaveSnapshotRequest*, v1::Snapshot*) override;
  grpc::ServerUnaryReactor* LoadSnapshot(grpc::CallbackServerContext*,
                                         const v1::LoadSnapshotRequest*, v1::Snapshot*) override;
  grpc::ServerUnaryReactor* DeleteSnapshot(grpc::CallbackServerContext*,
                                           const v1::DeleteSnapshotRequest*,
                                           v1::DeleteSnapshotResponse*) override;
  grpc::ServerUnaryReactor* ListSnapshots(grpc::CallbackServerContext*,
                                          const v1::ListSnapshotsRequest*,
                                          v1::ListSnapshotsResponse*) override;

 private:
  Snapshots& snapshots_;
};

}  // namespace ferry::vm
