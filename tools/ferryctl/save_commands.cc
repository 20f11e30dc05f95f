#include <map>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "tools/ferryctl/command.h"
#include "tools/ferryctl/save_options.h"
#include "tools/ferryctl/units.h"

// `ferryctl save` and `ferryctl vm set`.
namespace ferry::ctl {
namespace {

using VmAsync = v1::VmService::StubInterface::async_interface;

struct SaveArguments {
  std::string vm, to;
  bool live = false;
  SaveFlags flags;
};

// What became of the VM is only said where it is not what "saved" says already.
std::string SavedLine(const v1::Vm& vm, const std::string& to) {
  std::string file = vm.saved().file();
  if (file.empty()) file = to;
  std::string line = absl::StrCat(Printable(vm.name()), " saved");
  if (vm.saved().file_bytes() != 0) {
    absl::StrAppend(&line, ": ", FormatSize(vm.saved().file_bytes()));
  }
  if (!file.empty()) absl::StrAppend(&line, " in ", Printable(file));
  if (vm.state() != v1::VM_STATE_SAVED) {
    absl::StrAppend(&line, "; it is ", VmStateName(vm.state()));
  }
  return line + "\n";
}

std::string SettingsLine(const v1::Vm& vm) {
  return absl::StrCat(Printable(vm.name()), ": memory: ", FormatSize(vm.spec().memory_mb() << 20),
                      ", CPUs: ", vm.spec().cpus(),
                      ", save on stop: ", SaveOnStopName(vm.spec().save_on_stop()),
                      ", autostart: ", vm.spec().autostart() ? "yes" : "no", "\n");
}

struct SetArguments {
  std::string vm;
  std::optional<std::string> save_on_stop, autostart, memory;
  std::optional<uint32_t> cpus;
};

v1::SetVmRequest SetRequest(const SetArguments& arguments) {
  static const std::map<std::string, v1::SaveOnStop> words = {
      {"yes", v1::SAVE_ON_STOP_YES},
      {"no", v1::SAVE_ON_STOP_NO},
      {"default", v1::SAVE_ON_STOP_UNSPECIFIED}};
  v1::SetVmRequest request;
  request.set_vm(arguments.vm);
  if (arguments.save_on_stop) request.set_save_on_stop(words.at(*arguments.save_on_stop));
  if (arguments.autostart) request.set_autostart(*arguments.autostart == "yes");
  if (arguments.cpus) request.set_cpus(*arguments.cpus);
  if (!arguments.memory) return request;
  const absl::StatusOr<uint64_t> memory = ParseMemory(*arguments.memory);
  if (!memory.ok()) throw CLI::ValidationError("--memory", std::string(memory.status().message()));
  request.set_memory_mb(*memory);
  return request;
}

}  // namespace

void AddSave(CLI::App* app, Command* command) {
  auto arguments = std::make_shared<SaveArguments>();
  CLI::App* sub = app->add_subcommand(
      "save", "Write a VM to a file and end it; ferryctl start lets it go on from there");
  sub->add_option("vm", arguments->vm, "Name or id")->required();
  CLI::Option* to = AddHostFile(sub, "--to", &arguments->to,
                                "This file on the VM's host; start --from goes on from it");
  sub->add_flag("--live", arguments->live,
                "Let it go on afterwards; only without writable disks, and with --to")
      ->needs(to);
  arguments->flags.AddTo(sub);
  sub->callback([arguments, command] {
    v1::SaveVmRequest request;
    request.set_vm(arguments->vm);
    request.set_to_file(arguments->to);
    request.set_live(arguments->live);
    *request.mutable_options() = arguments->flags.ToProto();
    command->action = [arguments, request](Client* client) {
      return CallAndPrint(client, client->vms->async(), &VmAsync::SaveVm, request, kSaveTimeout,
                          absl::StrCat("saving VM ", arguments->vm),
                          [to = arguments->to](const v1::Vm& vm) { return SavedLine(vm, to); });
    };
  });
}

void AddVmSet(CLI::App* vm, Command* command) {
  auto arguments = std::make_shared<SetArguments>();
  CLI::App* sub = vm->add_subcommand("set", "Change what may be changed of a VM at any time");
  sub->add_option("vm", arguments->vm, "Name or id")->required();
  sub->add_option("--save-on-stop", arguments->save_on_stop,
                  "Whether stop saves it; default: as its host is configured")
      ->check(CLI::IsMember({"yes", "no", "default"}));
  sub->add_option("--autostart", arguments->autostart,
                  "Whether it is started after each boot of its host")
      ->check(CLI::IsMember({"yes", "no"}));
  sub->add_option("--memory", arguments->memory, "Memory from its next boot on, e.g. 1G");
  sub->add_option("--cpus", arguments->cpus, "Virtual CPUs from its next boot on")
      ->check(CLI::PositiveNumber);
  sub->callback([arguments, command] {
    const v1::SetVmRequest request = SetRequest(*arguments);
    if (!arguments->save_on_stop && !arguments->autostart && !arguments->memory &&
        !arguments->cpus) {
      throw CLI::ValidationError("vm set",
                                 "there is nothing to change; give --save-on-stop, --autostart, "
                                 "--memory or --cpus");
    }
    command->action = [arguments, request](Client* client) {
      return CallAndPrint(client, client->vms->async(), &VmAsync::SetVm, request, kCallTimeout,
                          absl::StrCat("changing VM ", arguments->vm), &SettingsLine);
    };
  });
}

}  // namespace ferry::ctl
