#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "vmmanager/containers/container_machine.h"

namespace ferry::vm {

// A container's init without a guest.
class FakeInit final : public guest::Process {
 public:
  FakeInit(Executor executor, uint32_t pid) : pid_(pid), exited_(std::move(executor)) {}

  uint32_t pid() const override { return pid_; }
  const guest::ProcessSpec& spec() const override { return spec_; }
  uint64_t created_unix_ms() const override { return 1; }
  std::optional<guest::ExitStatus> exit_status() const override { return exit_; }
  bool attached() const override { return false; }
  Task<absl::StatusOr<guest::ExitStatus>> Wait() override;
  Task<absl::StatusOr<bool>> Signal(uint32_t signal) override;
  Task<absl::Status> ResizeConsole(uint32_t, uint32_t) override { co_return absl::OkStatus(); }
  Task<void> AwaitInput(std::string) override { co_return; }
  void SettleInput() override {}
  absl::StatusOr<std::unique_ptr<guest::Attachment>> Attach(guest::AttachOptions,
                                                            guest::AttachSink&) override {
    return absl::UnimplementedError("the fake has no stdio");
  }

  guest::ProcessState migration_state() const override;
  absl::StatusOr<guest::KeptOutput> ReadKept(guest::Stream stream, uint64_t since,
                                             size_t limit) const override;
  void set_on_forget(std::function<bool()> callback) override { on_forget_ = std::move(callback); }

  void Exit(guest::ExitStatus status);
  // Its exit status was taken.
  void Forget();
  // The guest went away for good.
  void Lose() { exited_.Set(); }

  std::vector<uint32_t> signals;
  bool obeys = true;  // ends by SIGTERM; it ends by SIGKILL in any case
  bool immortal = false;
  std::string printed;        // to stdout, and kept
  uint64_t went_back_at = 0;  // of that

 private:
  const uint32_t pid_;
  const guest::ProcessSpec spec_;
  std::optional<guest::ExitStatus> exit_;
  std::function<bool()> on_forget_;
  AsyncEvent exited_;
};

// A guest that only keeps books: what is attached, mounted and made in it. It outlives its machines
// as a guest outlives a daemon.
class FakeContainerGuest {
 public:
  explicit FakeContainerGuest(Executor its_executor) : executor(std::move(its_executor)) {
    agent_there.Set();
  }

  const Executor executor;

  // Everything that was asked for, in order, e.g. "attach /images/x", "create 0123".
  std::vector<std::string> calls;
  // One call each that begins like this fails, in this order.
  std::vector<std::string> fails_at;
  // Calls that begin like this wait until it is cleared and `go_on` is set.
  std::string blocks_at;
  AsyncEvent go_on{executor};
  AsyncEvent blocked{executor};

  std::map<std::string, DiskSlot> disks;      // by file
  std::map<std::string, std::string> mounts;  // by path: what of
  struct Container {
    bridge::ContainerState state = bridge::ContainerState::kCreated;
    guest::NewContainer made_of;
    guest::ProcessSpec started_as;
    std::shared_ptr<FakeInit> init;
    std::string resources;
    bool forgotten = false;  // its exit was taken
    bool starting = false;   // somebody else had it started, and did not hear of it
    bool known = false;      // the host has heard that its init runs
  };
  std::map<std::string, Container> containers;  // by id
  bridge::ContainerMetrics metrics;
  AsyncEvent agent_there{executor};  // reset: the agent is away
  bool holds_answers = false;        // to Start, until `answer` is set
  AsyncEvent answer{executor};
  std::string output_folder;  // has a file per port; empty: none are kept
  uint64_t boots = 1;
  bool running = true;

  std::map<std::string, std::string> directories;  // shared ones, by mount path: their name
  // Nothing is in it: as before the first container. Shared folders stay.
  bool empty() const { return disks.empty() && mounts.empty() && containers.empty(); }
  void Exit(const std::string& id, guest::ExitStatus status);
  // The exit status of its init was taken.
  void Forget(const std::string& id);

  Task<absl::Status> Pass(std::string call);
  uint32_t next_pid = 100;
};

class FakeContainerMachine final : public ContainerMachine {
 public:
  explicit FakeContainerMachine(FakeContainerGuest& guest) : guest_(guest) {}

  uint64_t boot() override { return guest_.boots; }
  bool runs() override { return guest_.running; }
  Task<absl::Status> Ready() override;
  Task<absl::Status> AwaitAgent() override;
  Task<absl::StatusOr<DiskSlot>> AttachDisk(schema::Attachment disk) override;
  Task<absl::Status> DetachDisk(DiskSlot slot) override;
  Task<absl::Status> ResizeDisk(DiskSlot slot, uint64_t bytes) override;
  std::optional<DiskSlot> FindDisk(const std::string& file) override;
  Task<absl::Status> MountDisk(bridge::MappedVirtualDisk disk) override;
  Task<absl::Status> UnmountDisk(bridge::MappedVirtualDisk disk) override;
  Task<absl::Status> GrowDisk(bridge::MappedVirtualDisk disk) override;
  Task<absl::Status> EjectDisk(bridge::ScsiDevice disk) override;
  Task<absl::Status> MountDirectory(bridge::MappedDirectory directory) override;
  Task<absl::Status> CombineLayers(bridge::CombinedLayers layers) override;
  Task<absl::Status> SeparateLayers(bridge::CombinedLayers layers) override;
  Task<absl::Status> Create(guest::NewContainer container) override;
  Task<absl::StatusOr<std::shared_ptr<guest::Process>>> Start(guest::ProcessSpec spec) override;
  Task<absl::StatusOr<std::shared_ptr<guest::Process>>> AwaitStart(std::string id) override;
  std::shared_ptr<guest::Process> FindStarted(const std::string& id) override;
  bool StartIsAwaited(const std::string& id) override;
  Task<absl::Status> Pause(std::string id) override;
  Task<absl::Status> Resume(std::string id) override;
  Task<absl::Status> Update(std::string id, std::string linux_resources) override;
  Task<absl::Status> Delete(std::string id) override;
  Task<absl::StatusOr<bridge::ContainerProperties>> Properties(
      std::string id, std::vector<std::string> types) override;
  Task<bool> AwaitNotice(std::string id) override;
  std::shared_ptr<guest::Process> FindProcess(uint32_t pid) override;
  std::shared_ptr<guest::Process> FindInit(const std::string& id, uint32_t pid) override;
  std::string OutputFile(uint32_t port) override;
  Task<absl::Status> Persist() override;

 private:
  Task<absl::Status> SetState(std::string verb, std::string id, bridge::ContainerState state);

  FakeContainerGuest& guest_;
};

}  // namespace ferry::vm
