#pragma once

#include "ferry/v1/checkpoint.grpc.pb.h"
#include "vmmanager/saving/checkpoints.h"

namespace ferry::vm {

// ferry.v1.CheckpointService: translates, and posts to the executor. What a caller began goes on
// when the caller is gone; who wants it to end cancels its job.
class CheckpointService final : public v1::CheckpointService::CallbackService {
 public:
  // `checkpoints` must outlive it.
  explicit CheckpointService(Checkpoints& checkpoints) : checkpoints_(checkpoints) {}

  grpc::ServerUnaryReactor* CreateCheckpoint(grpc::CallbackServerContext*,
                                             const v1::CreateCheckpointRequest*,
                                             v1::Checkpoint*) override;
  grpc::ServerUnaryReactor* RevertToCheckpoint(grpc::CallbackServerContext*,
                                               const v1::RevertToCheckpointRequest*,
                                               v1::Checkpoint*) override;
  grpc::ServerUnaryReactor* DeleteCheckpoint(grpc::CallbackServerContext*,
                                             const v1::DeleteCheckpointRequest*,
                                             v1::DeleteCheckpointResponse*) override;
  grpc::ServerUnaryReactor* ListCheckpoints(grpc::CallbackServerContext*,
                                            const v1::ListCheckpointsRequest*,
                                            v1::ListCheckpointsResponse*) override;
  grpc::ServerUnaryReactor* RestoreCheckpointAs(grpc::CallbackServerContext*,
                                                const v1::RestoreCheckpointAsRequest*,
                                                v1::Vm*) override;
  grpc::ServerUnaryReactor* DefineCheckpoint(grpc::CallbackServerContext*,
                                             const v1::DefineCheckpointRequest*,
                                             v1::Checkpoint*) override;

 private:
  Checkpoints& checkpoints_;
};

}  // namespace ferry::vm
