#pragma once

#include "ferry/v1/disk.grpc.pb.h"
#include "vmmanager/disks/disks.h"

namespace ferry::vm {

// ferry.v1.DiskService: translates, and posts to the executor. What a caller began goes on when the
// caller is gone.
class DiskService final : public v1::DiskService::CallbackService {
 public:
  // `disks` must outlive it.
  explicit DiskService(Disks& disks) : disks_(disks) {}

  grpc::ServerUnaryReactor* CreateDisk(grpc::CallbackServerContext*, const v1::CreateDiskRequest*,
                                       v1::Disk*) override;
  grpc::ServerUnaryReactor* ListDisks(grpc::CallbackServerContext*, const v1::ListDisksRequest*,
                                      v1::ListDisksResponse*) override;
  grpc::ServerUnaryReactor* AttachDisk(grpc::CallbackServerContext*, const v1::AttachDiskRequest*,
                                       v1::Disk*) override;
  grpc::ServerUnaryReactor* DetachDisk(grpc::CallbackServerContext*, const v1::DetachDiskRequest*,
                                       v1::DetachDiskResponse*) override;
  grpc::ServerUnaryReactor* MoveDisk(grpc::CallbackServerContext*, const v1::MoveDiskRequest*,
                                     v1::Disk*) override;
  grpc::ServerUnaryReactor* ResizeDisk(grpc::CallbackServerContext*, const v1::ResizeDiskRequest*,
                                       v1::Disk*) override;

 private:
  Disks& disks_;
};

}  // namespace ferry::vm
