#pragma once

#include <memory>
#include <string>
#include <vector>

#include "bridge/runtime/blocking_worker.h"
#include "bridge/runtime/unique_fd.h"
#include "vmmanager/images/tool_runner.h"
#include "vmmanager/sandbox/overlay_files.h"

namespace ferry::vm {

// Overlays in qcow2 files, by qemu-img. Thread: the executor's only.
class QemuImgOverlays final : public OverlayFiles {
 public:
  // `tools` must outlive it, and runs as who may write to VMs' disks.
  QemuImgOverlays(Executor executor, ToolRunner& tools)
      : executor_(executor), tools_(tools), files_(std::move(executor)) {}

  Task<absl::StatusOr<std::string>> FreeName(std::string file) override;
  Task<absl::Status> Make(OverlayWish wish) override;
  Task<absl::Status> Merge(std::string overlay) override;
  Task<absl::Status> Create(NewDisk disk) override;
  Task<absl::Status> Shape(DiskShape shape) override;
  Task<absl::Status> Resize(std::string file, std::string format, uint64_t bytes) override;
  Task<absl::Status> CheckIsThere(std::string file) override;
  Task<absl::Status> PutOver(std::string overlay, std::string below, std::string format) override;
  Task<absl::Status> CheckLiesOver(std::string overlay, std::string below) override;
  Task<absl::Status> Remove(std::string file) override;
  Task<absl::Status> RemoveDraft(OverlayWish wish) override;
  Task<absl::StatusOr<uint64_t>> Reserve(std::string file, std::string like) override;
  Task<absl::Status> CheckReserved(std::string file, uint64_t inode) override;
  Task<absl::Status> BringToDisk(std::string file, uint64_t inode) override;
  Task<absl::StatusOr<uint64_t>> Measure(std::string file, std::string format) override;
  Task<absl::StatusOr<Room>> RoomFor(std::string file) override;
  Task<absl::Status> Copy(DiskCopy copy) override;
  Task<absl::StatusOr<DiskImage>> Examine(std::string file, std::string format) override;

 private:
  static ToolCommand CommandOf(std::vector<std::string> arguments);
  Task<absl::Status> Run(std::vector<std::string> arguments);
  Task<absl::StatusOr<std::string>> Ask(ToolCommand command);
  Task<absl::StatusOr<std::shared_ptr<UniqueFd>>> OpenReservedFile(std::string file,
                                                                   uint64_t inode);

  const Executor executor_;
  ToolRunner& tools_;
  BlockingWorker files_;
};

}  // namespace ferry::vm
