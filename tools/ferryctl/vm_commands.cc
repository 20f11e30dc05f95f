#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tools/ferryctl/command.h"
#include "tools/ferryctl/disk_spec.h"
#include "tools/ferryctl/exit_codes.h"
#include "tools/ferryctl/nic_spec.h"
#include "tools/ferryctl/save_options.h"
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
  std::string name, memory = "256M", kernel, initrd, cpu_model, firmware = "bios";
  uint32_t cpus = 1;
  std::optional<uint32_t> layout;
  std::vector<std::string> disks, shares, nics;
  bool stays = false, save_on_stop = false, autostart = false;
};

// Fills `spec`; what is wrong is a usage error.
void CheckCreate(CreateArguments* arguments) {
  arguments->spec.set_name(arguments->name);
  const absl::StatusOr<uint64_t> memory = ParseMemory(arguments->memory);
  if (!memory.ok()) throw CLI::ValidationError("--memory", std::string(memory.status().message()));
  arguments->spec.set_memory_mb(*memory);
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
  for (const std::string& text : arguments->nics) {
    absl::StatusOr<v1::NicSpec> nic = ParseNic(text);
    if (!nic.ok()) throw CLI::ValidationError("--nic", std::string(nic.status().message()));
    *arguments->spec.add_nics() = *nic;
  }
  if (arguments->firmware == "ovmf") arguments->spec.set_firmware(v1::FIRMWARE_OVMF);
  arguments->spec.set_stays(arguments->stays);
  if (arguments->save_on_stop) arguments->spec.set_save_on_stop(v1::SAVE_ON_STOP_YES);
  arguments->spec.set_autostart(arguments->autostart);
  for (const std::string& text : arguments->shares) {
    absl::StatusOr<v1::ShareSpec> share = ParseShare(text);
    if (!share.ok()) throw CLI::ValidationError("--share", std::string(share.status().message()));
    *arguments->spec.add_shares() = *share;
  }
}

Task<int> CreateVm(Client* client, v1::VmSpec spec) {
  v1::CreateVmRequest request;
  *request.mutable_spec() = spec;
  request.set_request_id(NewRequestId());
  const std::string doing = absl::StrCat("creating VM ", spec.name());
  const absl::StatusOr<v1::Vm> made =
      co_await rpc::CallUnary(client->vms->async(), &VmAsync::CreateVm, request, kCallTimeout);
  if (!made.ok()) co_return Fail(*client, doing, made.status());
  const std::string text =
      client->options.format() == OutputFormat::kJson ? ToJson(*made, true) : NameLine(*made);
  std::fputs(text.c_str(), stdout);
  PrintWarnings(*made);
  co_return kOk;
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
  create
      ->add_option(
          "--nic", arguments->nics,
          "bridge=B|tap=T|user[,name=N][,mac=M][,address=IP/LENGTH|dhcp][,gateway=IP][,dns=IP], "
          "a network card")
      ->allow_extra_args(false);
  create
      ->add_option("--firmware", arguments->firmware,
                   "bios, or ovmf: UEFI, with a variable store of the VM's own")
      ->check(CLI::IsMember({"bios", "ovmf"}))
      ->capture_default_str();
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
  create->add_flag("--save-on-stop", arguments->save_on_stop, "Let stop save it");
  create->add_flag("--autostart", arguments->autostart, "Start it after each boot of this host");
  create->callback([arguments, command] {
    CheckCreate(arguments.get());
    command->action = [arguments](Client* client) { return CreateVm(client, arguments->spec); };
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
  struct Arguments {
    std::string vm, from, key_file;
    bool discard = false, or_boot = false;
  };
  auto arguments = std::make_shared<Arguments>();
  CLI::App* sub = app->add_subcommand(
      "start", "Boot a VM, or let a saved one go on, and wait until it is ready");
  sub->add_option("vm", arguments->vm, "Name or id")->required();
  CLI::Option* from = AddHostFile(sub, "--from", &arguments->from,
                                  "Go on from this file on the VM's host, made by save --to");
  CLI::Option* or_boot = sub->add_flag("--or-boot", arguments->or_boot,
                                       "Boot if what was saved cannot go on; that is put aside");
  sub->add_flag("--discard-saved", arguments->discard, "Boot, and remove what was saved")
      ->excludes(from)
      ->excludes(or_boot);
  AddHostFile(sub, "--key-file", &arguments->key_file,
              "On the VM's host: the key of what was saved (default: where it was then)");
  sub->callback([=] {
    command->action = [=](Client* client) {
      v1::StartVmRequest request;
      request.set_vm(arguments->vm);
      request.set_from_file(arguments->from);
      request.set_discard_saved(arguments->discard);
      request.set_or_boot(arguments->or_boot);
      request.set_key_file(arguments->key_file);
      return CallAndPrint(client, client->vms->async(), &VmAsync::StartVm, std::move(request),
                          kSaveTimeout, absl::StrCat("starting VM ", arguments->vm), &StateLine);
    };
  });
}

struct StopArguments {
  std::string vm;
  bool force = false, save = false, no_save = false, or_shutdown = false;
  SaveFlags flags;
};

v1::StopVmRequest StopRequest(const StopArguments& arguments) {
  v1::StopVmRequest stop;
  stop.set_vm(arguments.vm);
  stop.set_force(arguments.force);
  if (arguments.save || arguments.no_save) stop.set_save(arguments.save);
  stop.set_or_shutdown(arguments.or_shutdown);
  const v1::SaveOptions options = arguments.flags.ToProto();
  if (arguments.flags.given()) *stop.mutable_save_options() = options;
  return stop;
}

void AddStop(CLI::App* app, Command* command) {
  auto arguments = std::make_shared<StopArguments>();
  CLI::App* sub = app->add_subcommand(
      "stop", "Shut a VM down in order, or save it if --save or its settings say so");
  sub->add_option("vm", arguments->vm, "Name or id")->required();
  CLI::Option* force =
      sub->add_flag("--force", arguments->force, "At once, like pulling the plug; never saves");
  CLI::Option* no_save = sub->add_flag("--no-save", arguments->no_save, "Shut it down");
  no_save->excludes(force);
  std::vector<CLI::Option*> of_saving = arguments->flags.AddTo(sub);
  of_saving.push_back(sub->add_flag("--save", arguments->save,
                                    "Write it to a file, from which the next start goes on"));
  of_saving.push_back(
      sub->add_flag("--or-shutdown", arguments->or_shutdown, "Shut it down if it cannot be saved"));
  for (CLI::Option* option : of_saving) option->excludes(force)->excludes(no_save);
  sub->callback([=] {
    const v1::StopVmRequest request = StopRequest(*arguments);
    // Without a word it may be saved as well: its setting, or its host's, decides.
    const milliseconds timeout =
        arguments->force || arguments->no_save ? kLongTimeout : kSaveTimeout;
    command->action = [=](Client* client) {
      return CallAndPrint(client, client->vms->async(), &VmAsync::StopVm, request, timeout,
                          absl::StrCat("stopping VM ", arguments->vm), &StateLine);
    };
  });
}

void AddRestart(CLI::App* app, Command* command) {
  auto arguments = std::make_shared<StopArguments>();
  CLI::App* sub = app->add_subcommand("restart", "Stop a VM and boot it again; never saves");
  sub->add_option("vm", arguments->vm, "Name or id")->required();
  sub->add_flag("--force", arguments->force, "At once, like pulling the plug");
  sub->callback([=] {
    command->action = [=](Client* client) {
      return CallAndPrint(client, client->vms->async(), &VmAsync::RestartVm,
                          StopRequest(*arguments), kLongTimeout,
                          absl::StrCat("restarting VM ", arguments->vm), &StateLine);
    };
  });
}

// Why a VM that was not to be forced is not deleted; empty if it may be.
std::string KeptBecause(const v1::Vm& vm, const std::string& name) {
  switch (vm.state()) {
    case v1::VM_STATE_RUNNING:
    case v1::VM_STATE_PAUSED:
      return absl::StrCat("it is ", VmStateName(vm.state()),
                          "\n  Next:     Stop it first (ferryctl stop ", name,
                          "), or use --force.\n");
    case v1::VM_STATE_SAVED:
      return absl::StrCat("it is saved\n  Next:     Let it go on (ferryctl start ", name,
                          "), or discard what was saved with --force.\n");
    default:
      return "";
  }
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
    if (const std::string why = KeptBecause(*vm, name); !why.empty()) {
      std::fprintf(stderr, "Error: %s failed: %s", doing.c_str(), why.c_str());
      co_return kRefused;
    }
  }
  v1::DeleteVmRequest request;
  request.set_vm(name);
  request.set_discard_saved(force);
  co_return co_await CallAndPrint(client, client->vms->async(), &VmAsync::DeleteVm, request,
                                  kCallTimeout, doing, &Nothing);
}

void AddDelete(CLI::App* app, Command* command) {
  auto name = std::make_shared<std::string>();
  auto force = std::make_shared<bool>(false);
  CLI::App* sub = app->add_subcommand("delete", "Forget a stopped VM");
  sub->add_option("vm", *name, "Name or id")->required();
  sub->add_flag("--force", *force, "Stop it at once if it runs, and discard what was saved");
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
  AddVmSet(vm, command);
  for (CLI::App* parent : {vm, app}) {
    AddList(parent, command);
    AddStart(parent, command);
    AddStop(parent, command);
    AddRestart(parent, command);
    AddSave(parent, command);
  }
}

}  // namespace ferry::ctl
