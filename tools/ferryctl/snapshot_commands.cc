#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tools/ferryctl/command.h"
#include "tools/ferryctl/output.h"
#include "tools/ferryctl/snapshot_view.h"
#include "tools/ferryctl/units.h"

// `ferryctl snapshot ...`.
namespace ferry::ctl {
namespace {

using SnapshotAsync = v1::SnapshotService::StubInterface::async_interface;

struct SnapshotArguments {
  std::string vm, tag, vmstate;
  std::vector<std::string> devices;
  bool live = false;
};
using Arguments = std::shared_ptr<SnapshotArguments>;

constexpr char kStands[] =
    "The guest stands still, and its host's ferryd can ask nothing of it, for as long as the disks "
    "take; that cannot be cancelled.";

CLI::App* AddVerb(CLI::App* app, const std::string& verb, const std::string& help,
                  const Arguments& arguments) {
  CLI::App* sub = app->add_subcommand(verb, help);
  sub->add_option("vm", arguments->vm, "Name or id")->required();
  return sub;
}

void AddTag(CLI::App* sub, const Arguments& arguments) {
  sub->add_option("tag", arguments->tag, "Its name")->required();
  sub->footer(kStands);
}

std::string SavedSnapshotLine(const v1::Snapshot& snapshot) {
  return absl::StrCat("snapshot ", Printable(snapshot.tag()), " taken; memory (",
                      FormatSize(snapshot.vm_state_bytes()), ") in ", Printable(snapshot.vmstate()),
                      "\n");
}

void AddSaveSnapshot(CLI::App* app, Command* command) {
  auto arguments = std::make_shared<SnapshotArguments>();
  CLI::App* sub = AddVerb(app, "save", "Take a snapshot of a VM inside its disks", arguments);
  AddTag(sub, arguments);
  sub->add_option("--devices", arguments->devices,
                  "All disks that the VM can write to, by name; a container's by its id")
      ->delimiter(',')
      ->required();
  sub->add_option("--vmstate", arguments->vmstate, "Which of them takes the memory")->required();
  sub->add_flag("--live", arguments->live, "Not possible: the guest always stands still");
  sub->callback([arguments, command] {
    if (arguments->live) {
      throw CLI::ValidationError(
          "--live",
          "a snapshot inside disks cannot be taken live: QEMU writes the memory while "
          "the guest stands still; ferryctl save --live is another way");
    }
    v1::SaveSnapshotRequest request;
    request.set_vm(arguments->vm);
    request.set_tag(arguments->tag);
    for (const std::string& device : arguments->devices) request.add_devices(device);
    request.set_vmstate(arguments->vmstate);
    command->action = [arguments, request](Client* client) {
      return CallAndPrint(client, client->snapshots->async(), &SnapshotAsync::SaveSnapshot, request,
                          kSaveTimeout, absl::StrCat("taking a snapshot of VM ", arguments->vm),
                          &SavedSnapshotLine);
    };
  });
}

void AddLoadSnapshot(CLI::App* app, Command* command) {
  auto arguments = std::make_shared<SnapshotArguments>();
  CLI::App* sub = AddVerb(app, "load",
                          "Take a VM back to a snapshot: what it did since is lost, and whoever is "
                          "attached is let go",
                          arguments);
  AddTag(sub, arguments);
  sub->callback([arguments, command] {
    v1::LoadSnapshotRequest request;
    request.set_vm(arguments->vm);
    request.set_tag(arguments->tag);
    command->action = [arguments, request](Client* client) {
      return CallAndPrint(client, client->snapshots->async(), &SnapshotAsync::LoadSnapshot, request,
                          kSaveTimeout, absl::StrCat("taking VM ", arguments->vm, " back"),
                          [vm = arguments->vm](const v1::Snapshot& snapshot) {
                            return absl::StrCat(Printable(vm), " went back to snapshot ",
                                                Printable(snapshot.tag()), " of ",
                                                FormatTime(snapshot.taken_unix_ms()),
                                                snapshot.paused() ? "; it is PAUSED\n" : "\n");
                          });
    };
  });
}

void AddDeleteSnapshot(CLI::App* app, Command* command) {
  auto arguments = std::make_shared<SnapshotArguments>();
  CLI::App* sub = AddVerb(app, "delete", "Delete a snapshot from all of a VM's disks", arguments);
  AddTag(sub, arguments);
  sub->callback([arguments, command] {
    v1::DeleteSnapshotRequest request;
    request.set_vm(arguments->vm);
    request.set_tag(arguments->tag);
    command->action = [arguments, request](Client* client) {
      return CallAndPrint(client, client->snapshots->async(), &SnapshotAsync::DeleteSnapshot,
                          request, kSaveTimeout,
                          absl::StrCat("deleting a snapshot of VM ", arguments->vm),
                          [tag = arguments->tag](const v1::DeleteSnapshotResponse&) {
                            return absl::StrCat("snapshot ", Printable(tag), " deleted\n");
                          });
    };
  });
}

void AddListSnapshots(CLI::App* app, Command* command) {
  auto arguments = std::make_shared<SnapshotArguments>();
  CLI::App* sub = AddVerb(app, "list", "List the snapshots in a VM's disks", arguments);
  sub->callback([arguments, command] {
    v1::ListSnapshotsRequest request;
    request.set_vm(arguments->vm);
    command->action = [arguments, request](Client* client) {
      return CallAndPrint(
          client, client->snapshots->async(), &SnapshotAsync::ListSnapshots, request, kSaveTimeout,
          absl::StrCat("listing the snapshots of VM ", arguments->vm), &SnapshotTable);
    };
  });
}

}  // namespace

void AddSnapshotCommands(CLI::App* app, Command* command) {
  CLI::App* snapshot =
      app->add_subcommand("snapshot", "Take VMs back to instants kept inside their disks");
  snapshot->require_subcommand(1);
  snapshot->fallthrough();
  AddSaveSnapshot(snapshot, command);
  AddLoadSnapshot(snapshot, command);
  AddDeleteSnapshot(snapshot, command);
  AddListSnapshots(snapshot, command);
}

}  // namespace ferry::ctl
