#include "vmmanager/service/checkpoint_service.h"

#include "vmmanager/rpc/unary_reactor.h"

namespace ferry::vm {

grpc::ServerUnaryReactor* CheckpointService::CreateCheckpoint(
    grpc::CallbackServerContext* context, const v1::CreateCheckpointRequest* request,
    v1::Checkpoint* response) {
  return rpc::ServeUnary(
      context, checkpoints_.executor(), request, response,
      [this](const v1::CreateCheckpointRequest& create) -> Task<absl::StatusOr<v1::Checkpoint>> {
        co_return co_await checkpoints_.Create(create);
      });
}

grpc::ServerUnaryReactor* CheckpointService::RevertToCheckpoint(
    grpc::CallbackServerContext* context, const v1::RevertToCheckpointRequest* request,
    v1::Checkpoint* response) {
  return rpc::ServeUnary(
      context, checkpoints_.executor(), request, response,
      [this](const v1::RevertToCheckpointRequest& revert) -> Task<absl::StatusOr<v1::Checkpoint>> {
        co_return co_await checkpoints_.Revert(revert);
      });
}

grpc::ServerUnaryReactor* CheckpointService::DeleteCheckpoint(
    grpc::CallbackServerContext* context, const v1::DeleteCheckpointRequest* request,
    v1::DeleteCheckpointResponse* response) {
  return rpc::ServeUnary(context, checkpoints_.executor(), request, response,
                         [this](const v1::DeleteCheckpointRequest& wanted)
                             -> Task<absl::StatusOr<v1::DeleteCheckpointResponse>> {
                           const absl::Status deleted = co_await checkpoints_.Delete(wanted);
                           if (!deleted.ok()) co_return deleted;
                           co_return v1::DeleteCheckpointResponse();
                         });
}

grpc::ServerUnaryReactor* CheckpointService::ListCheckpoints(
    grpc::CallbackServerContext* context, const v1::ListCheckpointsRequest* request,
    v1::ListCheckpointsResponse* response) {
  return rpc::ServeUnary(
      context, checkpoints_.executor(), request, response,
      [this](const v1::ListCheckpointsRequest& list)
          -> Task<absl::StatusOr<v1::ListCheckpointsResponse>> {
        auto listed = co_await checkpoints_.List(list);
        if (!listed.ok()) co_return listed.status();
        v1::ListCheckpointsResponse all;
        for (v1::Checkpoint& checkpoint : *listed) *all.add_checkpoints() = std::move(checkpoint);
        co_return all;
      },
      rpc::OnCallerGone::kCancel);
}

grpc::ServerUnaryReactor* CheckpointService::RestoreCheckpointAs(
    grpc::CallbackServerContext* context, const v1::RestoreCheckpointAsRequest* request,
    v1::Vm* response) {
  return rpc::ServeUnary(
      context, checkpoints_.executor(), request, response,
      [this](const v1::RestoreCheckpointAsRequest& restore) -> Task<absl::StatusOr<v1::Vm>> {
        co_return co_await checkpoints_.RestoreAs(restore);
      });
}

grpc::ServerUnaryReactor* CheckpointService::DefineCheckpoint(
    grpc::CallbackServerContext* context, const v1::DefineCheckpointRequest* request,
    v1::Checkpoint* response) {
  return rpc::ServeUnary(
      context, checkpoints_.executor(), request, response,
      [this](const v1::DefineCheckpointRequest& define) -> Task<absl::StatusOr<v1::Checkpoint>> {
        co_return co_await checkpoints_.Define(define);
      });
}

}  // namespace ferry::vm
