#include "vmmanager/sandbox/fake_host.h"

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::vm {

void FakeGuests::ServeBackend(FakeBackend& backend) {
  backend.script().on_first_run = [this](FakeComputeSystem& system) {
    if (boot) Connect(system);
  };
}

void FakeGuests::Connect(FakeComputeSystem& system) {
  guest::FakeAgent& agent = Agent(system.id());
  FakeComputeSystem* machine = &system;
  agent.on_shutdown = [this, machine] {
    if (obey) machine->Exit(SystemExit::Cause::kShutdown, "the guest powered off");
  };
  agent.ConnectTo(system.link().MakeDialer());
}

guest::FakeAgent& FakeGuests::Agent(const std::string& vm_id) {
  std::shared_ptr<guest::FakeAgent>& agent = agents_[vm_id];
  if (agent == nullptr) {
    agent = std::make_shared<guest::FakeAgent>(executor_, guest::FakeAgent::Dialer());
  }
  return *agent;
}

void FakeGuests::Stop() {
  for (auto& [id, agent] : agents_) agent->Stop();
}

FakeHost::FakeHost(Executor executor, const std::string& address, const std::string& folder,
                   FakeGuests& guests)
    : store(absl::StrCat("journal of ", address)),
      backend(executor),
      events(executor, store),
      fence(guests.claims()),
      executor_(executor),
      guests_(guests) {
  settings.advertised_address = address;
  settings.state_folder = folder;
  settings.kernel = folder + "/kernel";
  settings.initrd = folder + "/initrd";
  settings.kernel_args = "quiet";
  settings.firmware.folder = folder + "/firmware";
  settings.firmware.code = folder + "/code.fd";
  settings.firmware.variables = folder + "/variables.fd";
  std::filesystem::create_directories(settings.firmware.folder);
  std::ofstream(settings.firmware.code) << "a firmware";
  std::ofstream(settings.firmware.variables) << std::string(4096, '\xff');
  std::ofstream(settings.kernel) << "a kernel";
  std::ofstream(settings.initrd) << "an initramfs";
  guests_.ServeBackend(backend);
  inventory = std::make_unique<VmInventory>(deps());
}

SandboxDeps FakeHost::deps() {
  return {.executor = executor_,
          .backend = backend,
          .store = store,
          .events = events,
          .fence = fence,
          .settings = settings,
          .reads = reads,
          .host_reads = reads,
          .failpoint = [this](const std::string& point) { at_point(point); },
          .overlays = &overlays,
          .scratch = &scratch};
}

Task<absl::StatusOr<std::shared_ptr<UtilityVm>>> FakeHost::Boot(std::string name) {
  v1::CreateVmRequest request;
  request.mutable_spec()->set_name(name);
  CO_ASSIGN_OR_RETURN(std::shared_ptr<UtilityVm> vm, co_await inventory->Create(request));
  CO_RETURN_IF_ERROR(co_await vm->Start());
  co_return vm;
}

Task<absl::Status> FakeHost::Restart(std::map<std::string, AdoptionClaim> claims) {
  co_await inventory->Detach();
  former_.push_back(std::move(inventory));
  inventory = std::make_unique<VmInventory>(deps());
  CO_RETURN_IF_ERROR(co_await inventory->Load());
  co_await inventory->AdoptAll(std::move(claims));
  co_return absl::OkStatus();
}

Task<void> FakeHost::Stop() {
  former_.push_back(std::move(inventory));
  for (const auto& former : former_) {
    for (const auto& vm : former->List()) {
      std::shared_ptr<ComputeSystem> system = vm->system();
      if (system != nullptr) (void)co_await system->Terminate();
    }
  }
  guests_.Stop();
  co_await events.Close();
}

}  // namespace ferry::vm
