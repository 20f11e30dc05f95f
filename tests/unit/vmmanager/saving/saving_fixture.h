#pragma once

#include <csignal>
#include <filesystem>
#include <memory>
#include <string>

#include "tests/unit/vmmanager/sandbox/sandbox_fixture.h"
#include "vmmanager/saving/saved_states.h"

namespace ferry::vm {

// A host with fakes below it, whose VMs are saved in real files.
class SavingTest : public SandboxTest {
 protected:
  SavingTest() {
    std::signal(SIGPIPE, SIG_IGN);  // as the daemon does: who reads a VM's memory may leave
    Open();
  }

  SavedStatesOptions Options() {
    return {.folder = folder_.path() + "/state/saved",
            .state_folder = folder_.path() + "/state",
            .socket_folder = folder_.path()};
  }
  void Open() {
    saves_ = std::make_unique<SavedStates>(*host_.inventory, nullptr, digests_, Options());
  }
  void RestartDaemon() {
    // What is under way in it goes on, as in a thread that nobody can stop.
    former_.push_back(std::move(saves_));
    SandboxTest::RestartDaemon();
    Open();
    Await(saves_->Sweep());
  }

  std::shared_ptr<UtilityVm> Found() { return *host_.inventory->Find("web"); }
  absl::Status Save(const std::shared_ptr<UtilityVm>& vm, const std::string& to_file = "",
                    bool live = false) {
    v1::SaveVmRequest request;
    request.set_to_file(to_file);
    request.set_live(live);
    return Await(saves_->Save(vm, request));
  }
  absl::StatusOr<SavedStates::Warnings> Start(const std::shared_ptr<UtilityVm>& vm,
                                              const v1::StartVmRequest& request = {}) {
    return Await(saves_->Start(vm, request));
  }
  absl::StatusOr<SavedStates::Warnings> Stop(const std::shared_ptr<UtilityVm>& vm,
                                             const v1::StopVmRequest& request) {
    return Await(saves_->Stop(vm, request, milliseconds(60'000)));
  }

  static std::string FileOf(const UtilityVm& vm) { return vm.Describe(false).saved().file(); }
  // All that lies in the VM's folder.
  size_t FilesOf(const UtilityVm& vm) {
    std::error_code none;
    const std::filesystem::path folder = folder_.path() + "/state/saved/" + vm.id();
    return static_cast<size_t>(
        std::distance(std::filesystem::directory_iterator(folder, none), {}));
  }

  ImageDigests digests_{host_.reads};
  std::unique_ptr<SavedStates> saves_;
  std::vector<std::unique_ptr<SavedStates>> former_;
};

}  // namespace ferry::vm
