#include "vmmanager/containers/fake_container_machine.h"

#include <csignal>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::vm {

Task<absl::StatusOr<guest::ExitStatus>> FakeInit::Wait() {
  co_await exited_.Wait();
  if (exit_.has_value()) co_return *exit_;
  co_return absl::UnavailableError("the guest is gone");
}

Task<absl::StatusOr<bool>> FakeInit::Signal(uint32_t signal) {
  if (exit_.has_value()) co_return false;
  signals.push_back(signal);
  const bool ends = !immortal && (signal == SIGKILL || obeys);
  if (ends) Exit({guest::ExitStatus::Kind::kSignal, signal});
  co_return true;
}

guest::ProcessState FakeInit::migration_state() const {
  guest::ProcessState state;
  state.stdout_port = pid_ * 10;
  state.stderr_port = pid_ * 10 + 1;
  return state;
}

absl::StatusOr<guest::KeptOutput> FakeInit::ReadKept(guest::Stream stream, uint64_t since,
                                                     size_t limit) const {
  const std::string bytes = stream == guest::Stream::kStdout ? printed : "";
  guest::KeptOutput kept = guest::ReadKept(guest::Spool(bytes.size(), 0, bytes), since, limit);
  if (stream == guest::Stream::kStdout) kept.went_back_at = went_back_at;
  return kept;
}

void FakeInit::Exit(guest::ExitStatus status) {
  exit_ = status;
  exited_.Set();
}

void FakeInit::Forget() {
  if (on_forget_ && !on_forget_()) return;
  printed.clear();
}

void FakeContainerGuest::Forget(const std::string& id) {
  Container& container = containers.at(id);
  container.forgotten = true;
  container.init->Forget();
}

Task<absl::Status> FakeContainerGuest::Pass(std::string call) {
  calls.push_back(call);
  if (!blocks_at.empty() && absl::StartsWith(call, blocks_at)) {
    blocked.Set();
    co_await go_on.Wait();
  }
  if (!fails_at.empty() && absl::StartsWith(call, fails_at.front())) {
    fails_at.erase(fails_at.begin());
    co_return absl::InternalError(absl::StrCat("cannot ", call));
  }
  if (!running) co_return absl::FailedPreconditionError("the VM does not run");
  co_return absl::OkStatus();
}

void FakeContainerGuest::Exit(const std::string& id, guest::ExitStatus status) {
  Container& container = containers.at(id);
  container.state = bridge::ContainerState::kStopped;
  if (container.init != nullptr) container.init->Exit(status);
}

Task<absl::Status> FakeContainerMachine::Ready() {
  co_await guest_.agent_there.Wait();
  if (guest_.running) co_return absl::OkStatus();
  co_return absl::FailedPreconditionError("the VM does not run");
}

Task<absl::Status> FakeContainerMachine::AwaitAgent() { co_return co_await Ready(); }

Task<absl::StatusOr<DiskSlot>> FakeContainerMachine::AttachDisk(schema::Attachment disk) {
  CO_RETURN_IF_ERROR(co_await guest_.Pass(absl::StrCat("attach ", disk.path)));
  DiskSlot slot;
  const auto taken = [&] {
    for (const auto& [file, other] : guest_.disks) {
      if (other == slot) return true;
    }
    return false;
  };
  while (taken()) ++slot.lun;
  guest_.disks[disk.path] = slot;
  co_return slot;
}

Task<absl::Status> FakeContainerMachine::DetachDisk(DiskSlot slot) {
  CO_RETURN_IF_ERROR(co_await guest_.Pass(absl::StrCat("detach ", slot.lun)));
  const size_t had =
      std::erase_if(guest_.disks, [&](const auto& disk) { return disk.second == slot; });
  if (had == 0) co_return absl::NotFoundError("there is no such disk");
  co_return absl::OkStatus();
}

std::optional<DiskSlot> FakeContainerMachine::FindDisk(const std::string& file) {
  const auto found = guest_.disks.find(file);
  if (found == guest_.disks.end()) return std::nullopt;
  return found->second;
}

Task<absl::Status> FakeContainerMachine::MountDisk(bridge::MappedVirtualDisk disk) {
  CO_RETURN_IF_ERROR(co_await guest_.Pass(absl::StrCat("mount ", disk.mount_path)));
  if (guest_.mounts.contains(disk.mount_path)) {
    co_return absl::AlreadyExistsError(absl::StrCat(disk.mount_path, " is a mount already"));
  }
  guest_.mounts[disk.mount_path] = absl::StrCat("disk ", disk.lun);
  co_return absl::OkStatus();
}

Task<absl::Status> FakeContainerMachine::UnmountDisk(bridge::MappedVirtualDisk disk) {
  CO_RETURN_IF_ERROR(co_await guest_.Pass(absl::StrCat("unmount ", disk.mount_path)));
  guest_.mounts.erase(disk.mount_path);
  co_return absl::OkStatus();
}

Task<absl::Status> FakeContainerMachine::ResizeDisk(DiskSlot slot, uint64_t bytes) {
  co_return co_await guest_.Pass(absl::StrCat("resize ", slot.lun, " to ", bytes));
}

Task<absl::Status> FakeContainerMachine::GrowDisk(bridge::MappedVirtualDisk disk) {
  co_return co_await guest_.Pass(absl::StrCat("grow ", disk.mount_path));
}

Task<absl::Status> FakeContainerMachine::EjectDisk(bridge::ScsiDevice disk) {
  co_return co_await guest_.Pass(absl::StrCat("eject ", disk.lun));
}

Task<absl::Status> FakeContainerMachine::MountDirectory(bridge::MappedDirectory directory) {
  CO_RETURN_IF_ERROR(co_await guest_.Pass(absl::StrCat("share ", directory.mount_path)));
  const std::string what = absl::StrCat(directory.share_name, directory.read_only ? " ro" : "");
  const bool is_new = guest_.directories.emplace(directory.mount_path, what).second;
  if (!is_new) co_return absl::AlreadyExistsError("it is a mount already");
  co_return absl::OkStatus();
}

Task<absl::Status> FakeContainerMachine::CombineLayers(bridge::CombinedLayers layers) {
  CO_RETURN_IF_ERROR(co_await guest_.Pass(absl::StrCat("combine ", layers.container_root_path)));
  std::string of;
  for (const auto& layer : layers.layers) {
    if (!guest_.mounts.contains(layer.path)) {
      co_return absl::FailedPreconditionError(absl::StrCat("nothing is mounted at ", layer.path));
    }
    absl::StrAppend(&of, layer.path, " ");
  }
  guest_.mounts[layers.container_root_path] = absl::StrCat(of, "over ", layers.scratch_path);
  co_return absl::OkStatus();
}

Task<absl::Status> FakeContainerMachine::SeparateLayers(bridge::CombinedLayers layers) {
  CO_RETURN_IF_ERROR(co_await guest_.Pass(absl::StrCat("separate ", layers.container_root_path)));
  guest_.mounts.erase(layers.container_root_path);
  co_return absl::OkStatus();
}

Task<absl::Status> FakeContainerMachine::Create(guest::NewContainer container) {
  const std::string id = container.id;
  CO_RETURN_IF_ERROR(co_await guest_.Pass(absl::StrCat("create ", id)));
  FakeContainerGuest::Container& made = guest_.containers[id];
  made.made_of = std::move(container);
  made.init = std::make_shared<FakeInit>(guest_.executor, guest_.next_pid++);
  co_return absl::OkStatus();
}

Task<absl::Status> FakeContainerMachine::SetState(std::string verb, std::string id,
                                                  bridge::ContainerState state) {
  CO_RETURN_IF_ERROR(co_await guest_.Pass(absl::StrCat(verb, " ", id)));
  const auto found = guest_.containers.find(id);
  if (found == guest_.containers.end()) co_return absl::NotFoundError("no such container");
  if (found->second.state != bridge::ContainerState::kStopped) found->second.state = state;
  co_return absl::OkStatus();
}

Task<absl::StatusOr<std::shared_ptr<guest::Process>>> FakeContainerMachine::Start(
    guest::ProcessSpec spec) {
  std::string id = spec.container_id;
  CO_ASSIGN_OR_RETURN(std::shared_ptr<guest::Process> before, co_await AwaitStart(id));
  if (before != nullptr) co_return before;
  CO_RETURN_IF_ERROR(co_await guest_.Pass(absl::StrCat("start ", id)));
  const auto found = guest_.containers.find(id);
  if (found == guest_.containers.end()) co_return absl::NotFoundError("no such container");
  FakeContainerGuest::Container& container = found->second;
  if (container.state != bridge::ContainerState::kCreated) {
    co_return absl::FailedPreconditionError("the container was started already");
  }
  container.state = bridge::ContainerState::kRunning;
  container.started_as = std::move(spec);
  container.known = true;
  const std::shared_ptr<FakeInit> init = container.init;
  if (guest_.holds_answers) co_await guest_.answer.Wait();
  co_return std::shared_ptr<guest::Process>(init);
}

Task<absl::StatusOr<std::shared_ptr<guest::Process>>> FakeContainerMachine::AwaitStart(
    std::string id) {
  std::shared_ptr<guest::Process> init;
  const auto found = guest_.containers.find(id);
  if (found != guest_.containers.end() && std::exchange(found->second.starting, false)) {
    found->second.known = true;
    init = found->second.init;
  }
  co_return init;
}

bool FakeContainerMachine::StartIsAwaited(const std::string& id) {
  const auto found = guest_.containers.find(id);
  return found != guest_.containers.end() && found->second.starting;
}

std::shared_ptr<guest::Process> FakeContainerMachine::FindStarted(const std::string& id) {
  const auto found = guest_.containers.find(id);
  if (found == guest_.containers.end() || !found->second.known) return nullptr;
  return found->second.forgotten ? nullptr : found->second.init;
}

Task<absl::Status> FakeContainerMachine::Persist() { return guest_.Pass("persist"); }

Task<absl::Status> FakeContainerMachine::Pause(std::string id) {
  return SetState("pause", std::move(id), bridge::ContainerState::kPaused);
}
Task<absl::Status> FakeContainerMachine::Resume(std::string id) {
  return SetState("resume", std::move(id), bridge::ContainerState::kRunning);
}

Task<absl::Status> FakeContainerMachine::Update(std::string id, std::string linux_resources) {
  CO_RETURN_IF_ERROR(co_await guest_.Pass(absl::StrCat("update ", id)));
  guest_.containers.at(id).resources = std::move(linux_resources);
  co_return absl::OkStatus();
}

Task<absl::Status> FakeContainerMachine::Delete(std::string id) {
  CO_RETURN_IF_ERROR(co_await guest_.Pass(absl::StrCat("delete ", id)));
  const auto found = guest_.containers.find(id);
  if (found == guest_.containers.end()) co_return absl::NotFoundError("no such container");
  if (found->second.state == bridge::ContainerState::kRunning &&
      !found->second.init->exit_status().has_value()) {
    co_return absl::FailedPreconditionError("its init runs");
  }
  guest_.containers.erase(id);
  co_return absl::OkStatus();
}

Task<absl::StatusOr<bridge::ContainerProperties>> FakeContainerMachine::Properties(
    std::string id, std::vector<std::string> types) {
  CO_RETURN_IF_ERROR(co_await guest_.Pass(absl::StrCat("properties ", id)));
  const auto found = guest_.containers.find(id);
  if (found == guest_.containers.end()) co_return absl::NotFoundError("no such container");
  bridge::ContainerProperties properties;
  for (const std::string& type : types) {
    if (type == "State") properties.state = found->second.state;
    if (type == "Statistics") properties.metrics = guest_.metrics;
  }
  co_return properties;
}

std::string FakeContainerMachine::OutputFile(uint32_t port) {
  return guest_.output_folder.empty() ? "" : absl::StrCat(guest_.output_folder, "/", port);
}

Task<bool> FakeContainerMachine::AwaitNotice(std::string id) {
  guest_.calls.push_back(absl::StrCat("await ", id));
  const auto found = guest_.containers.find(id);
  if (found == guest_.containers.end()) co_return false;
  const std::shared_ptr<FakeInit> init = found->second.init;
  const auto exit = co_await init->Wait();
  co_return exit.ok();
}

std::shared_ptr<guest::Process> FakeContainerMachine::FindProcess(uint32_t pid) {
  for (const auto& [id, container] : guest_.containers) {
    if (container.init->pid() == pid && !container.forgotten) return container.init;
  }
  return nullptr;
}

std::shared_ptr<guest::Process> FakeContainerMachine::FindInit(const std::string& id,
                                                               uint32_t pid) {
  const auto found = guest_.containers.find(id);
  if (found == guest_.containers.end() || found->second.forgotten) return nullptr;
  return found->second.init->pid() == pid ? found->second.init : nullptr;
}

}  // namespace ferry::vm
