#include "vmmanager/saving/host_turns.h"

#include <spdlog/spdlog.h>

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "vmmanager/images/durable_file.h"

namespace ferry::vm {
namespace {

constexpr milliseconds kReadLimit{10'000};
constexpr size_t kMostBootId = 256;

bool IsUp(const UtilityVm& vm) {
  return vm.state() == v1::VM_STATE_RUNNING || vm.state() == v1::VM_STATE_PAUSED;
}

// Whoever waits for what is under way with it finds it up, or not.
bool ComesUpOrDown(const UtilityVm& vm) {
  return vm.state() == v1::VM_STATE_STARTING || vm.state() == v1::VM_STATE_SAVING ||
         vm.state() == v1::VM_STATE_RESTORING;
}

struct Rest {
  explicit Rest(Executor executor) : done(std::move(executor)) {}
  size_t count = 0;
  AsyncEvent done;
};

Task<void> StopOne(SavedStates* saves, std::shared_ptr<UtilityVm> vm, HostDownOptions options,
                   std::shared_ptr<Rest> rest) {
  v1::StopVmRequest request;
  request.set_or_shutdown(options.or_shutdown);
  // Whoever set the host's default wants it kept then, as much as who set the VM's.
  if (saves->SavesOnStop(*vm, request)) request.set_save(true);
  auto stopped = co_await saves->Stop(vm, request, options.within);
  // Who wants it to run on does not know that its host goes down.
  if (absl::IsCancelled(stopped.status()) && options.or_shutdown) {
    request.set_save(false);
    stopped = co_await saves->Stop(vm, request, options.within);
  }
  if (!stopped.ok()) {
    spdlog::error("vm {}: it was not stopped with its host: {}", vm->name(),
                  stopped.status().ToString());
  } else {
    for (const std::string& warning : *stopped) spdlog::warn("vm {}: {}", vm->name(), warning);
  }
  if (--rest->count == 0) rest->done.Set();
}

Task<void> StartOne(SavedStates* saves, EventLog* events, std::shared_ptr<UtilityVm> vm) {
  v1::StartVmRequest request;
  request.set_vm(vm->id());
  const auto started = co_await saves->Start(vm, std::move(request));
  if (started.ok()) {
    for (const std::string& warning : *started) spdlog::warn("vm {}: {}", vm->name(), warning);
    co_return;
  }
  spdlog::error("vm {}: it was not started with its host: {}", vm->name(),
                started.status().ToString());
  events->Publish("vm.autostart_failed", vm->id(),
                  {{"name", vm->name()}, {"error", std::string(started.status().message())}});
}

}  // namespace

Task<void> StopAll(VmInventory& vms, SavedStates& saves, HostDownOptions options) {
  SavedStates* const how = &saves;
  const Executor executor = vms.deps().executor;
  auto rest = std::make_shared<Rest>(executor);
  for (const auto& vm : vms.List()) {
    if (!IsUp(*vm) && !ComesUpOrDown(*vm)) continue;
    ++rest->count;
    Spawn(executor, StopOne(how, vm, options, rest));
  }
  if (rest->count == 0) co_return;
  const absl::Status all =
      co_await WithDeadline(options.within, "stopping all VMs", rest->done.Wait());
  if (!all.ok()) spdlog::error("{} VMs have not stopped in time", rest->count);
}

Task<void> StartAfterBoot(VmInventory& vms, SavedStates& saves, std::string state_file,
                          std::string boot_id) {
  VmInventory* const all = &vms;
  SavedStates* const how = &saves;
  EventLog* const events = &vms.deps().events;
  BlockingWorker files(all->deps().executor);
  auto known = std::make_shared<std::string>();
  std::function<absl::Status()> read = [state_file, known] {
    auto text = ReadWhole(state_file, kMostBootId);
    if (text.ok()) *known = *std::move(text);
    return absl::OkStatus();
  };
  const absl::Status ignored = co_await files.Run(kReadLimit, "reading a file", std::move(read));
  if (*known == boot_id) co_return;
  for (const auto& vm : all->List()) {
    if (vm->spec().autostart() && !IsUp(*vm)) co_await StartOne(how, events, vm);
  }
  std::function<absl::Status()> write = [state_file, boot_id] {
    return WriteDurably(state_file, boot_id, state_file.substr(0, state_file.rfind('/')));
  };
  const absl::Status written = co_await files.Run(kReadLimit, "writing a file", std::move(write));
  if (!written.ok()) spdlog::warn("autostart: {}", written.ToString());
}

}  // namespace ferry::vm
