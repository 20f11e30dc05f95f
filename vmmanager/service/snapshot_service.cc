#include "vmmanager/service/snapshot_service.h"

#include "vmmanager/rpc/unary_reactor.h"

namespace ferry::vm {

grpc::ServerUnaryReactor* SnapshotService::SaveSnapshot(grpc::CallbackServerContext* context,
                                                        const v1::SaveSnapshotRequest* request,
                                                        v1::Snapshot* response) {
  return rpc::ServeUnary(
      context, snapshots_.executor(), request, response,
      [this](const v1::SaveSnapshotRequest& save) -> Task<absl::StatusOr<v1::Snapshot>> {
        co_return co_await snapshots_.Save(save);
      });
}

grpc::ServerUnaryReactor* SnapshotService::LoadSnapshot(grpc::CallbackServerContext* context,
                                                        const v1::LoadSnapshotRequest* request,
                                                        v1::Snapshot* response) {
  return rpc::ServeUnary(
      context, snapshots_.executor(), request, response,
      [this](const v1::LoadSnapshotRequest& load) -> Task<absl::StatusOr<v1::Snapshot>> {
        co_return co_await snapshots_.Load(load);
      });
}

grpc::ServerUnaryReactor* SnapshotService::DeleteSnapshot(grpc::CallbackServerContext* context,
                                                          const v1::DeleteSnapshotRequest* request,
                                                          v1::DeleteSnapshotResponse* response) {
  return rpc::ServeUnary(context, snapshots_.executor(), request, response,
                         [this](const v1::DeleteSnapshotRequest& wanted)
                             -> Task<absl::StatusOr<v1::DeleteSnapshotResponse>> {
                           const absl::Status deleted = co_await snapshots_.Delete(wanted);
                           if (!deleted.ok()) co_return deleted;
                           co_return v1::DeleteSnapshotResponse();
                         });
}

grpc::ServerUnaryReactor* SnapshotService::ListSnapshots(grpc::CallbackServerContext* context,
                                                         const v1::ListSnapshotsRequest* request,
                                                         v1::ListSnapshotsResponse* response) {
  return rpc::ServeUnary(
      context, snapshots_.executor(), request, response,
      [this](
          const v1::ListSnapshotsRequest& list) -> Task<absl::StatusOr<v1::ListSnapshotsResponse>> {
        auto listed = co_await snapshots_.List(list);
        if (!listed.ok()) co_return listed.status();
        v1::ListSnapshotsResponse all;
        for (v1::Snapshot& snapshot : *listed) *all.add_snapshots() = std::move(snapshot);
        co_return all;
      },
      rpc::OnCallerGone::kCancel);
}

}  // namespace ferry::vm
