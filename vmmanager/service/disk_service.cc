#include "vmmanager/service/disk_service.h"

#include "vmmanager/rpc/unary_reactor.h"

namespace ferry::vm {

grpc::ServerUnaryReactor* DiskService::CreateDisk(grpc::CallbackServerContext* context,
                                                  const v1::CreateDiskRequest* request,
                                                  v1::Disk* response) {
  return rpc::ServeUnary(
      context, disks_.executor(), request, response,
      [this](const v1::CreateDiskRequest& create) -> Task<absl::StatusOr<v1::Disk>> {
        co_return co_await disks_.Create(create);
      });
}

grpc::ServerUnaryReactor* DiskService::ListDisks(grpc::CallbackServerContext* context,
                                                 const v1::ListDisksRequest* request,
                                                 v1::ListDisksResponse* response) {
  return rpc::ServeUnary(
      context, disks_.executor(), request, response,
      [this](const v1::ListDisksRequest& list) -> Task<absl::StatusOr<v1::ListDisksResponse>> {
        co_return co_await disks_.List(list);
      },
      rpc::OnCallerGone::kCancel);
}

grpc::ServerUnaryReactor* DiskService::AttachDisk(grpc::CallbackServerContext* context,
                                                  const v1::AttachDiskRequest* request,
                                                  v1::Disk* response) {
  return rpc::ServeUnary(
      context, disks_.executor(), request, response,
      [this](const v1::AttachDiskRequest& attach) -> Task<absl::StatusOr<v1::Disk>> {
        co_return co_await disks_.Attach(attach);
      });
}

grpc::ServerUnaryReactor* DiskService::DetachDisk(grpc::CallbackServerContext* context,
                                                  const v1::DetachDiskRequest* request,
                                                  v1::DetachDiskResponse* response) {
  return rpc::ServeUnary(
      context, disks_.executor(), request, response,
      [this](const v1::DetachDiskRequest& wanted) -> Task<absl::StatusOr<v1::DetachDiskResponse>> {
        const absl::Status detached = co_await disks_.Detach(wanted);
        if (!detached.ok()) co_return detached;
        co_return v1::DetachDiskResponse();
      });
}

grpc::ServerUnaryReactor* DiskService::ResizeDisk(grpc::CallbackServerContext* context,
                                                  const v1::ResizeDiskRequest* request,
                                                  v1::Disk* response) {
  return rpc::ServeUnary(
      context, disks_.executor(), request, response,
      [this](const v1::ResizeDiskRequest& resize) -> Task<absl::StatusOr<v1::Disk>> {
        co_return co_await disks_.Resize(resize);
      });
}

grpc::ServerUnaryReactor* DiskService::MoveDisk(grpc::CallbackServerContext* context,
                                                const v1::MoveDiskRequest* request,
                                                v1::Disk* response) {
  return rpc::ServeUnary(context, disks_.executor(), request, response,
                         [this](const v1::MoveDiskRequest& move) -> Task<absl::StatusOr<v1::Disk>> {
                           co_return co_await disks_.Move(move);
                         });
}

}  // namespace ferry::vm
