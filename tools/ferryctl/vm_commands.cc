#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tools/ferryctl/command.h"
#include "tools/ferryctl/disk_spec.h"
#include "tools/ferryctl/exit_codes.h"
#include "tools/ferryctl/units.h"

// `ferryctl vm ...`, and its most used commands at the top level.
namespace ferry::ctl {
namespace {

using VmAsync = v1::VmService::StubInterface::async_interface;

std::string NameLine(const v1::Vm& vm) { return vm.name() + "\n"; }
std::string StateLine(const v1::Vm& vm) {
  return absl::StrCat(vm.name(), " ", VmStateName(vm.state()), "\n");
}
std::string Nothing(const v1::DeleteVmResponse&) { return ""; }

v1::VmRef Ref(const std::string& name) {
  v1::VmRef ref;
  ref.set_vm(name);
  return ref;
}

struct CreateArguments {
  v1::VmSpec spec;
  std::string name, memory = "256M", kernel, initrd, cpu_model;
  uint32_t cpus = 1;
  std::optional<uint32_t> layout;
  std::vector<std::string> disks, shares;
  bool stays = false;
};

// Fills `spec`; what is wrong is a usage error.
void CheckCreate(CreateArguments* arguments) {
  arguments->spec.set_name(arguments->name);
  absl::StatusOr<uint64_t> memory = ParseSize(arguments->memory);
  if (!memory.ok()) throw CLI::ValidationError("--memory", std::string(memory.status().message()));
  if (*memory < (1 << 20) || *memory % (1 << 20) != 0) {
    throw CLI::ValidationError("--memory", "must be whole MiB");
  }
  arguments->spec.set_memory_mb(*memory >> 20);
  arguments->spec.set_cpus(arguments->cpus);
  arguments->spec.set_kernel(arguments->kernel);
  arguments->spec.set_initrd(arguments->initrd);
  arguments->spec.set_cpu_model(arguments->cpu_model);
  if (arguments->layout) arguments->spec.set_layout(*arguments->layout);
  for (const std::string& text : arguments->disks) {
    absl::StatusOr<v1::DiskSpec> disk = ParseDisk(text);
    if (!disk.ok()) throw CLI::ValidationError("--disk", std::string(disk.status().message()));
    *arguments->spec.add_disks() = *disk;
  }
  arguments->spec.set_stays(arguments->stays);
  for (const std::string& text : arguments->shares) {
    absl::StatusOr<v1::ShareSpec> share = ParseShare(text);
    if (!share.ok()) throw CLI::ValidationError("--share", std::string(share.status().message()));
    *arguments->spec.add_shares() = *share;
  }
}

void AddCreate(CLI::App* app, Command* command) {
  auto arguments = std::make_shared<CreateArguments>();
  CLI::App* create = app->add_subcommand("create", "Define a VM; start it with: ferryctl start");
  create->add_option("name", arguments->name, "The VM's name")->required();
  create->add_option("--memory", arguments->memory, "Memory, e.g. 1G")->capture_default_str();
  create->add_option("--cpus", arguments->cpus, "Virtual CPUs")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  create->add_option("--disk", arguments->disks, "name=N,file=F[,format=qcow2|raw][,ro]")
      ->allow_extra_args(false);
  create->add_option("--kernel", arguments->kernel, "Kernel instead of the host's default");
  create->add_option("--initrd", arguments->initrd, "Initramfs instead of the host's default");
  create->add_option(
      "--cpu-model", arguments->cpu_model,
      "CPU model that all its hosts have, e.g. Nehalem (default: all that this host's "
      "has)");
  create->add_option("--layout", arguments->layout,
                     "Of the machine: 0 for hosts of an older release (default: the newest)");
  create->add_flag("--stays", arguments->stays, "Let it stay on this host: it cannot be migrated");
  create->add_option("--share", arguments->shares, "DIR[:ro], a folder for run -v; needs --stays")
      ->allow_extra_args(false);
  create->callback([arguments, command] {
    CheckCreate(arguments.get());
    command->action = [arguments](Client* client) {
      v1::CreateVmRequest request;
      *request.mutable_spec() = arguments->spec;
      request.set_request_id(NewRequestId());
      return CallAndPrint(client, client->vms->async(), &VmAsync::CreateVm, std::move(request),
                          kCallTimeout, absl::StrCat("creating VM ", arguments->name), &NameLine);
    };
  });
}

void AddList(CLI::App* app, Command* command) {
  app->add_subcommand("list", "List the host's VMs")->callback([command] {
    command->action = [](Client* client) {
      return CallAndPrint(client, client->vms->async(), &VmAsync::ListVms, v1::ListVmsRequest(),
                          kCallTimeout, "listing VMs", &VmTable);
    };
  });
}

// Commands that need only the VM's name and answer with the VM.
void AddByName(CLI::App* app, Command* command, const std::string& verb, const std::string& help,
               const std::string& doing,
               void (VmAsync::*method)(grpc::ClientContext*, const v1::VmRef*, v1::Vm*,
                                       std::function<void(grpc::Status)>),
               std::string (*table)(const v1::Vm&)) {
  auto name = std::make_shared<std::string>();
  CLI::App* sub = app->add_subcommand(verb, help);
  sub->add_option("vm", *name, "Name or id")->required();
  sub->callback([=] {
    command->action = [=](Client* client) {
      return CallAndPrint(client, client->vms->async(), method, Ref(*name), kCallTimeout,
                          absl::StrCat(doing, " VM ", *name), table);
    };
  });
}

void AddStart(CLI::App* app, Command* command) {
  auto name = std::make_shared<std::string>();
  CLI::App* sub = app->add_subcommand("start", "Boot a VM and wait until it is ready");
  sub->add_option("vm", *name, "Name or id")->required();
  sub->callback([=] {
    command->action = [=](Client* client) {
      v1::StartVmRequest request;
      request.set_vm(*name);
      return CallAndPrint(client, client->vms->async(), &VmAsync::StartVm, std::move(request),
                          kLongTimeout, absl::StrCat("starting VM ", *name), &StateLine);
    };
  });
}

void AddStop(CLI::App* app, Command* command, bool restart) {
  auto name = std::make_shared<std::string>();
  auto force = std::make_shared<bool>(false);
  CLI::App* sub =
      app->add_subcommand(restart ? "restart" : "stop",
                          restart ? "Stop a VM and boot it again" : "Shut a VM down in order");
  sub->add_option("vm", *name, "Name or id")->required();
  sub->add_flag("--force", *force, "At once, like pulling the plug");
  sub->callback([=] {
    command->action = [=](Client* client) {
      v1::StopVmRequest stop;
      stop.set_vm(*name);
      stop.set_force(*force);
      using Method = void (VmAsync::*)(grpc::ClientContext*, const v1::StopVmRequest*, v1::Vm*,
                                       std::function<void(grpc::Status)>);
      Method method = &VmAsync::StopVm;
      if (restart) method = &VmAsync::RestartVm;
      return CallAndPrint(client, client->vms->async(), method, std::move(stop), kLongTimeout,
                          absl::StrCat(restart ? "restarting VM " : "stopping VM ", *name),
                          &StateLine);
    };
  });
}

Task<int> Delete(Client* client, std::string name, bool force) {
  const std::string doing = absl::StrCat("deleting VM ", name);
  if (force) {
    v1::StopVmRequest stop;
    stop.set_vm(name);
    stop.set_force(true);
    absl::StatusOr<v1::Vm> stopped =
        co_await rpc::CallUnary(client->vms->async(), &VmAsync::StopVm, stop, kLongTimeout);
    if (!stopped.ok()) co_return Fail(*client, doing, stopped.status());
  } else {
    const v1::VmRef ref = Ref(name);
    absl::StatusOr<v1::Vm> vm =
        co_await rpc::CallUnary(client->vms->async(), &VmAsync::GetVm, ref, kCallTimeout);
    if (!vm.ok()) co_return Fail(*client, doing, vm.status());
    if (vm->state() == v1::VM_STATE_RUNNING || vm->state() == v1::VM_STATE_PAUSED) {
      std::fprintf(stderr,
                   "Error: %s failed: it is %s\n  Next:     Stop it first (ferryctl stop %s), or "
                   "use --force.\n",
                   doing.c_str(), VmStateName(vm->state()).c_str(), name.c_str());
      co_return kRefused;
    }
  }
  v1::DeleteVmRequest request;
  request.set_vm(name);
  co_return co_await CallAndPrint(client, client->vms->async(), &VmAsync::DeleteVm, request,
                                  kCallTimeout, doing, &Nothing);
}

void AddDelete(CLI::App* app, Command* command) {
  auto name = std::make_shared<std::string>();
  auto force = std::make_shared<bool>(false);
  CLI::App* sub = app->add_subcommand("delete", "Forget a stopped VM");
  sub->add_option("vm", *name, "Name or id")->required();
  sub->add_flag("--force", *force, "Stop it at once if it runs");
  sub->callback(
      [=] { command->action = [=](Client* client) { return Delete(client, *name, *force); }; });
}

}  // namespace

void AddVmCommands(CLI::App* app, Command* command) {
  CLI::App* vm = app->add_subcommand("vm", "Create, run and delete VMs");
  vm->require_subcommand(1);
  vm->fallthrough();
  AddCreate(vm, command);
  AddByName(vm, command, "inspect", "Show one VM", "inspecting", &VmAsync::GetVm, &VmDetails);
  AddByName(vm, command, "pause", "Stop a VM's clock", "pausing", &VmAsync::PauseVm, &StateLine);
  AddByName(vm, command, "resume", "Let a paused VM go on", "resuming", &VmAsync::ResumeVm,
            &StateLine);
  AddDelete(vm, command);
  for (CLI::App* parent : {vm, app}) {
    AddList(parent, command);
    AddStart(parent, command);
    AddStop(parent, command, false);
    AddStop(parent, command, true);
  }
}

}  // namespace ferry::ctl
