#pragma once

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/unit/vmmanager/saving/saving_fixture.h"
#include "vmmanager/containers/empty_qcow2.h"
#include "vmmanager/saving/checkpoints.h"

namespace ferry::vm {

inline constexpr uint64_t kDiskBytes = uint64_t{64} << 20;

// A VM with two disks, without containers.
class CheckpointsTest : public SavingTest {
 protected:
  CheckpointsTest() { OpenCheckpoints(); }

  void OpenCheckpoints() {
    CheckpointsOptions options;
    options.folder = folder_.path() + "/state/checkpoints";
    options.state_folder = folder_.path() + "/state";
    checkpoints_ = std::make_unique<Checkpoints>(*host_.inventory, nullptr, *saves_, digests_,
                                                 std::move(options));
    std::filesystem::create_directories(folder_.path() + "/state");
  }
  std::string File(const std::string& name) const { return folder_.path() + "/" + name; }

  std::shared_ptr<UtilityVm> CreateWithDisks() {
    v1::CreateVmRequest request;
    request.mutable_spec()->set_name("web");
    for (const char* name : {"root", "data"}) {
      v1::DiskSpec* disk = request.mutable_spec()->add_disks();
      disk->set_name(name);
      disk->set_file(File(std::string(name) + ".qcow2"));
      disk->set_format("qcow2");
      std::ofstream(disk->file()) << EmptyQcow2(kDiskBytes);
    }
    auto vm = Await(host_.inventory->Create(request));
    EXPECT_TRUE(vm.ok()) << vm.status();
    return *vm;
  }
  std::shared_ptr<UtilityVm> BootWithDisks() {
    auto vm = CreateWithDisks();
    const absl::Status started = Await(vm->Start());
    EXPECT_TRUE(started.ok()) << started;
    return vm;
  }

  static v1::CreateCheckpointRequest Request(const std::string& name) {
    v1::CreateCheckpointRequest request;
    request.set_vm("web");
    request.set_name(name);
    return request;
  }
  absl::StatusOr<v1::Checkpoint> Take(const v1::CreateCheckpointRequest& request) {
    auto taken = Await(checkpoints_->Create(request));
    MakeOverlayFiles();
    return taken;
  }
  // Up to a VM that runs while its memory is written.
  auto BeginLive(const std::string& name) {
    host_.backend.script().Block("SaveBehindRunning");
    v1::CreateCheckpointRequest request = Request(name);
    request.set_live(true);
    auto taking = Begin(checkpoints_->Create(request));
    Await(host_.backend.script().WaitBlocked("SaveBehindRunning"));
    Settle();
    return taking;
  }
  absl::StatusOr<v1::Checkpoint> Take(const std::string& name) { return Take(Request(name)); }
  absl::StatusOr<v1::Checkpoint> Revert(
      const std::string& name,
      v1::RevertToCheckpointRequest::Then then = v1::RevertToCheckpointRequest::THEN_UNSPECIFIED) {
    v1::RevertToCheckpointRequest request;
    request.set_vm("web");
    request.set_name(name);
    request.set_then(then);
    auto back = Await(checkpoints_->Revert(request));
    MakeOverlayFiles();
    return back;
  }
  auto BeginDelete(const std::string& name) {
    for (const auto& [file, below] : host_.overlays.files) {
      host_.backend.script().backing_files[file] = below;
    }
    v1::DeleteCheckpointRequest request;
    request.set_vm("web");
    request.set_name(name);
    return Begin(checkpoints_->Delete(request));
  }
  absl::Status Delete(const std::string& name) {
    auto deleting = BeginDelete(name);
    return Finish(deleting);
  }
  std::vector<std::string> Names() {
    v1::ListCheckpointsRequest request;
    request.set_vm("web");
    const auto all = Await(checkpoints_->List(request));
    std::vector<std::string> names;
    for (const v1::Checkpoint& one : *all) names.push_back(one.name());
    return names;
  }
  // The next checkpoint looks at them.
  void MakeOverlayFiles() {
    for (const auto& [file, below] : host_.overlays.files) {
      if (!std::filesystem::exists(file)) std::ofstream(file) << EmptyQcow2(kDiskBytes);
    }
  }
  std::string DiskOf(const UtilityVm& vm, int disk) { return vm.spec().disks(disk).file(); }
  void Restart() {
    former_checkpoints_.push_back(std::move(checkpoints_));
    RestartDaemon();
    OpenCheckpoints();
    Await(checkpoints_->Sweep());
    Await(checkpoints_->Settle());
  }

  std::unique_ptr<Checkpoints> checkpoints_;
  std::vector<std::unique_ptr<Checkpoints>> former_checkpoints_;
};

}  // namespace ferry::vm
