#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tools/ferryctl/checkpoint_options.h"
#include "tools/ferryctl/checkpoint_view.h"
#include "tools/ferryctl/command.h"
#include "tools/ferryctl/exit_codes.h"
#include "tools/ferryctl/output.h"
#include "tools/ferryctl/save_options.h"
#include "vmmanager/rpc/error_info.h"

// `ferryctl checkpoint ...`.
namespace ferry::ctl {
namespace {

using CheckpointAsync = v1::CheckpointService::StubInterface::async_interface;

struct CreateCheckpointArguments {
  v1::CreateCheckpointRequest request;
  bool live = false, disk_only = false, memory_only = false, halt = false, paused = false;
  bool quiesce = false;
  bool no_metadata = false, reuse_existing = false;
  std::string description, memory_file;
  std::vector<std::string> disks;
  SaveFlags flags;
};

struct DefineCheckpointArguments {
  v1::DefineCheckpointRequest request;
  std::string description, memory_file, key_file, parent;
  bool current = false;
  std::vector<std::string> disks;
};

struct CheckpointArguments {
  std::string vm, name;
  bool running = false, stopped = false;
};

CLI::App* AddVerbOfVm(CLI::App* app, const std::string& verb, const std::string& help,
                      std::string* vm) {
  CLI::App* sub = app->add_subcommand(verb, help);
  sub->add_option("vm", *vm, "Name or id")->required();
  return sub;
}

CLI::App* AddVerbOfCheckpoint(CLI::App* app, const std::string& verb, const std::string& help,
                              CheckpointArguments* arguments) {
  CLI::App* sub = AddVerbOfVm(app, verb, help, &arguments->vm);
  sub->add_option("name", arguments->name, "The checkpoint's name")->required();
  return sub;
}

v1::ListCheckpointsRequest ListRequestOf(const std::string& vm) {
  v1::ListCheckpointsRequest request;
  request.set_vm(vm);
  return request;
}

// What is wrong is a usage error.
std::vector<v1::CheckpointDiskWish> DiskWishesOf(const std::vector<std::string>& texts) {
  auto wishes = ParseDiskWishes(texts);
  if (wishes.ok()) return *std::move(wishes);
  throw CLI::ValidationError("--diskspec", std::string(wishes.status().message()));
}

// Fills the request; what is wrong is a usage error.
void CheckCreateCheckpoint(CreateCheckpointArguments* arguments) {
  v1::CreateCheckpointRequest& request = arguments->request;
  request.set_description(arguments->description);
  request.set_live(arguments->live);
  request.set_disk_only(arguments->disk_only);
  request.set_memory_only(arguments->memory_only);
  request.set_halt(arguments->halt);
  request.set_paused(arguments->paused);
  request.set_quiesce(arguments->quiesce);
  request.set_memory_file(arguments->memory_file);
  const v1::SaveOptions options = arguments->flags.ToProto();
  if (arguments->flags.given()) *request.mutable_options() = options;
  request.set_no_metadata(arguments->no_metadata);
  request.set_reuse_existing(arguments->reuse_existing);
  if (arguments->no_metadata && !arguments->disk_only && arguments->memory_file.empty()) {
    throw CLI::ValidationError("--no-metadata",
                               "needs --memspec FILE, or --disk-only: nobody would know where the "
                               "memory is");
  }
  if (arguments->memory_only && arguments->reuse_existing) {
    throw CLI::ValidationError("--reuse-existing",
                               "is about files of disks, of which --memory-only keeps none");
  }
  request.clear_disks();
  for (const v1::CheckpointDiskWish& wish : DiskWishesOf(arguments->disks)) {
    if (arguments->memory_only && !wish.left_out()) {
      throw CLI::ValidationError(
          "--diskspec", absl::StrCat("disk \"", wish.name(),
                                     "\" cannot be part of a checkpoint that is --memory-only"));
    }
    *request.add_disks() = wish;
  }
}

void AddWhatIsTaken(CLI::App* sub, CreateCheckpointArguments* arguments) {
  CLI::Option* disk_only = sub->add_flag("--disk-only", arguments->disk_only,
                                         "Without memory: what a power cut would leave");
  sub->add_flag("--memory-only", arguments->memory_only,
                "Without disks: of a VM that cannot write to any")
      ->excludes(disk_only);
  sub->add_flag("--quiesce", arguments->quiesce,
                "Have the guest freeze its filesystems meanwhile, so that what is kept needs no "
                "repair")
      ->needs(disk_only);
  sub->add_flag("--live", arguments->live,
                "Let it run while its memory is written (default: it stands still)")
      ->excludes(disk_only);
  AddHostFile(sub, "--memspec", &arguments->memory_file,
              "Put the memory in this file on the VM's host (default: in ferryd's folder)")
      ->excludes(disk_only);
  sub->add_option("--diskspec", arguments->disks,
                  "NAME[,snapshot=no|external][,file=PATH]: leave the disk out, or name the file "
                  "on the VM's host in which it goes on")
      ->allow_extra_args(false);
  for (CLI::Option* option : arguments->flags.AddTo(sub)) option->excludes(disk_only);
}

// A daemon that has never heard of --quiesce takes the checkpoint without it, and says nothing.
absl::Status CheckQuiesced(const v1::CreateCheckpointRequest& asked, const v1::Checkpoint& taken) {
  if (!asked.quiesce() || taken.quiesced()) return absl::OkStatus();
  return rpc::ErrorWithReason(
      absl::StatusCode::kFailedPrecondition,
      absl::StrCat("checkpoint ", Printable(asked.name()),
                   " was taken without --quiesce: this ferryd is older and does not know of it"),
      "checkpoint_not_quiesced",
      absl::StrCat("It is what a power cut would leave. Delete it: ferryctl checkpoint delete ",
                   Printable(asked.vm()), " ", Printable(asked.name())));
}

Task<int> CreateCheckpoint(Client* client, v1::CreateCheckpointRequest create) {
  const std::string doing = absl::StrCat("taking a checkpoint of VM ", create.vm());
  const absl::StatusOr<v1::Checkpoint> taken = co_await rpc::CallUnary(
      client->checkpoints->async(), &CheckpointAsync::CreateCheckpoint, create, kSaveTimeout);
  if (!taken.ok()) co_return Fail(*client, doing, taken.status());
  const absl::Status quiesced = CheckQuiesced(create, *taken);
  if (!quiesced.ok()) co_return Fail(*client, doing, quiesced);
  const std::string text = client->options.format() == OutputFormat::kJson
                               ? ToJson(*taken, true)
                               : TakenCheckpointLine(create, *taken);
  std::fputs(text.c_str(), stdout);
  co_return kOk;
}

void AddCreateCheckpoint(CLI::App* app, Command* command) {
  auto arguments = std::make_shared<CreateCheckpointArguments>();
  v1::CreateCheckpointRequest& request = arguments->request;
  CLI::App* sub =
      AddVerbOfVm(app, "create",
                  "Keep a VM's disks and memory as they are now; from then on it writes to new "
                  "files",
                  request.mutable_vm());
  sub->add_option("name", *request.mutable_name(), "The checkpoint's name")->required();
  AddWhatIsTaken(sub, arguments.get());
  CLI::Option* halt = sub->add_flag("--halt", arguments->halt, "End it afterwards");
  sub->add_flag("--paused", arguments->paused, "Leave it paused afterwards")->excludes(halt);
  sub->add_option("--description", arguments->description, "What it is for");
  sub->add_flag("--no-metadata", arguments->no_metadata,
                "Remember nothing of it: what the disks were is yours to look after");
  sub->add_flag("--reuse-existing", arguments->reuse_existing,
                "The files of --diskspec are there already: empty qcow2 files over the disks");
  sub->callback([arguments, command] {
    CheckCreateCheckpoint(arguments.get());
    command->action = [arguments](Client* client) {
      return CreateCheckpoint(client, arguments->request);
    };
  });
}

void AddRevertCheckpoint(CLI::App* app, Command* command) {
  auto arguments = std::make_shared<CheckpointArguments>();
  CLI::App* sub = AddVerbOfCheckpoint(
      app, "revert",
      "Take a VM back to a checkpoint: what it did since the last one is lost, and whoever is "
      "attached is let go",
      arguments.get());
  CLI::Option* stopped =
      sub->add_flag("--stopped", arguments->stopped, "It goes on from there when it is started");
  sub->add_flag("--running", arguments->running,
                "It runs afterwards, however it was then; without memory it boots")
      ->excludes(stopped);
  sub->callback([arguments, command] {
    v1::RevertToCheckpointRequest request;
    request.set_vm(arguments->vm);
    request.set_name(arguments->name);
    if (arguments->running) request.set_then(v1::RevertToCheckpointRequest::THEN_RUNNING);
    if (arguments->stopped) request.set_then(v1::RevertToCheckpointRequest::THEN_STOPPED);
    command->action = [request](Client* client) {
      return CallAndPrint(client, client->checkpoints->async(),
                          &CheckpointAsync::RevertToCheckpoint, request, kSaveTimeout,
                          absl::StrCat("taking VM ", request.vm(), " back"),
                          [request](const v1::Checkpoint& checkpoint) {
                            return RevertedCheckpointLine(request, checkpoint);
                          });
    };
  });
}

void AddDeleteCheckpoint(CLI::App* app, Command* command) {
  auto arguments = std::make_shared<CheckpointArguments>();
  CLI::App* sub = AddVerbOfCheckpoint(
      app, "delete", "Forget a checkpoint; what was written since is merged into its files",
      arguments.get());
  sub->callback([arguments, command] {
    v1::DeleteCheckpointRequest request;
    request.set_vm(arguments->vm);
    request.set_name(arguments->name);
    command->action = [request](Client* client) {
      return CallAndPrint(client, client->checkpoints->async(), &CheckpointAsync::DeleteCheckpoint,
                          request, kSaveTimeout,
                          absl::StrCat("deleting a checkpoint of VM ", request.vm()),
                          [request](const v1::DeleteCheckpointResponse&) {
                            return absl::StrCat("checkpoint ", Printable(request.name()), " of VM ",
                                                Printable(request.vm()), " deleted\n");
                          });
    };
  });
}

void AddRestoreCheckpointAs(CLI::App* app, Command* command) {
  auto request = std::make_shared<v1::RestoreCheckpointAsRequest>();
  auto disks = std::make_shared<std::vector<std::string>>();
  auto disk_only = std::make_shared<bool>(false);
  CLI::App* sub = AddVerbOfVm(
      app, "restore-as", "Make another VM of a checkpoint, with copies of its disks and memory",
      request->mutable_vm());
  sub->add_option("name", *request->mutable_name(), "The checkpoint's name")->required();
  sub->add_option("newname", *request->mutable_new_name(), "Name of the new VM")->required();
  sub->add_flag("--disk-only", *disk_only, "Without memory: it boots from the disks of then");
  sub->add_option("--diskspec", *disks,
                  "NAME,file=PATH: put the copy of that disk there, on the VM's host")
      ->allow_extra_args(false);
  sub->callback([request, disks, disk_only, command] {
    request->set_disk_only(*disk_only);
    request->clear_disks();
    for (const v1::CheckpointDiskWish& wish : DiskWishesOf(*disks)) {
      if (wish.left_out()) {
        throw CLI::ValidationError("--diskspec", "the new VM has all of the disks");
      }
      *request->add_disks() = wish;
    }
    command->action = [request](Client* client) {
      return CallAndPrint(client, client->checkpoints->async(),
                          &CheckpointAsync::RestoreCheckpointAs, *request, kSaveTimeout,
                          absl::StrCat("making VM ", request->new_name()),
                          [request](const v1::Vm& vm) { return ClonedVmLine(*request, vm); });
    };
  });
}

void AddDefineCheckpoint(CLI::App* app, Command* command) {
  auto arguments = std::make_shared<DefineCheckpointArguments>();
  v1::DefineCheckpointRequest& request = arguments->request;
  CLI::App* sub =
      AddVerbOfVm(app, "define", "Have a VM have a checkpoint of files that were made elsewhere",
                  request.mutable_vm());
  sub->add_option("name", *request.mutable_name(), "The checkpoint's name")->required();
  sub->add_option("--diskspec", arguments->disks,
                  "NAME,file=PATH: what the disk was then, on the VM's host")
      ->allow_extra_args(false);
  CLI::Option* memory = AddHostFile(sub, "--memory-file", &arguments->memory_file,
                                    "The memory of then, on the VM's host");
  AddHostFile(sub, "--key-file", &arguments->key_file, "Key of the memory, on the VM's host")
      ->needs(memory);
  sub->add_option("--parent", arguments->parent,
                  "The checkpoint that it came after (default: as the disks say)");
  sub->add_flag("--current", arguments->current, "What the VM does now comes after it");
  sub->add_option("--description", arguments->description, "What it is for");
  sub->callback([arguments, command] {
    v1::DefineCheckpointRequest& define = arguments->request;
    define.set_memory_file(arguments->memory_file);
    define.set_key_file(arguments->key_file);
    define.set_parent(arguments->parent);
    define.set_current(arguments->current);
    define.set_description(arguments->description);
    define.clear_disks();
    for (const v1::CheckpointDiskWish& wish : DiskWishesOf(arguments->disks)) {
      if (wish.file().empty()) {
        throw CLI::ValidationError("--diskspec",
                                   absl::StrCat("the file of disk \"", wish.name(),
                                                "\" is missing; write NAME,file=PATH"));
      }
      *define.add_disks() = wish;
    }
    if (define.disks().empty() && define.memory_file().empty()) {
      throw CLI::ValidationError("--diskspec", "name a file, or the memory (--memory-file)");
    }
    command->action = [arguments](Client* client) {
      const v1::DefineCheckpointRequest& wanted = arguments->request;
      return CallAndPrint(client, client->checkpoints->async(), &CheckpointAsync::DefineCheckpoint,
                          wanted, kSaveTimeout,
                          absl::StrCat("defining a checkpoint of VM ", wanted.vm()),
                          [arguments](const v1::Checkpoint& checkpoint) {
                            return DefinedCheckpointLine(arguments->request.vm(), checkpoint);
                          });
    };
  });
}

// `list` and `tree` tell the same in two ways.
void AddListCheckpoints(CLI::App* app, Command* command, const std::string& verb,
                        const std::string& help,
                        std::string (*show)(const std::string& vm,
                                            const v1::ListCheckpointsResponse& response)) {
  auto vm = std::make_shared<std::string>();
  AddVerbOfVm(app, verb, help, vm.get())->callback([vm, show, command] {
    command->action = [vm, show](Client* client) {
      return CallAndPrint(
          client, client->checkpoints->async(), &CheckpointAsync::ListCheckpoints,
          ListRequestOf(*vm), kCallTimeout, absl::StrCat("listing the checkpoints of VM ", *vm),
          [vm, show](const v1::ListCheckpointsResponse& response) { return show(*vm, response); });
    };
  });
}

Task<int> InspectCheckpoint(Client* client, std::string vm, std::string name) {
  const std::string doing = absl::StrCat("inspecting a checkpoint of VM ", vm);
  const absl::StatusOr<v1::ListCheckpointsResponse> listed =
      co_await rpc::CallUnary(client->checkpoints->async(), &CheckpointAsync::ListCheckpoints,
                              ListRequestOf(vm), kCallTimeout);
  if (!listed.ok()) co_return Fail(*client, doing, listed.status());
  for (const v1::Checkpoint& checkpoint : listed->checkpoints()) {
    if (checkpoint.name() != name) continue;
    std::fputs(ToJson(checkpoint, true).c_str(), stdout);
    co_return kOk;
  }
  co_return Fail(*client, doing,
                 rpc::ErrorWithReason(
                     absl::StatusCode::kNotFound,
                     absl::StrCat("VM ", vm, " has no checkpoint ", name), "no_such_checkpoint",
                     absl::StrCat("See those there are: ferryctl checkpoint list ", vm)));
}

void AddInspectCheckpoint(CLI::App* app, Command* command) {
  auto arguments = std::make_shared<CheckpointArguments>();
  CLI::App* sub =
      AddVerbOfCheckpoint(app, "inspect", "Show one checkpoint as JSON", arguments.get());
  sub->callback([arguments, command] {
    command->action = [arguments](Client* client) {
      return InspectCheckpoint(client, arguments->vm, arguments->name);
    };
  });
}

}  // namespace

void AddCheckpointCommands(CLI::App* app, Command* command) {
  CLI::App* checkpoint =
      app->add_subcommand("checkpoint", "Take VMs back to instants kept in files of their host");
  checkpoint->require_subcommand(1);
  checkpoint->fallthrough();
  AddCreateCheckpoint(checkpoint, command);
  AddListCheckpoints(checkpoint, command, "list", "List a VM's checkpoints",
                     [](const std::string&, const v1::ListCheckpointsResponse& response) {
                       return CheckpointTable(response);
                     });
  AddInspectCheckpoint(checkpoint, command);
  AddListCheckpoints(checkpoint, command, "tree", "Draw which of them was taken after which",
                     &CheckpointTree);
  AddRevertCheckpoint(checkpoint, command);
  AddDeleteCheckpoint(checkpoint, command);
  AddRestoreCheckpointAs(checkpoint, command);
  AddDefineCheckpoint(checkpoint, command);
}

}  // namespace ferry::ctl
