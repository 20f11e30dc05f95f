#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "tools/ferryctl/command.h"
#include "tools/ferryctl/disk_spec.h"
#include "tools/ferryctl/disk_view.h"
#include "tools/ferryctl/output.h"
#include "tools/ferryctl/units.h"

// `ferryctl disk ...`.
namespace ferry::ctl {
namespace {

using DiskAsync = v1::DiskService::StubInterface::async_interface;

struct DiskArguments {
  std::string vm, disk, file, format, size;
  bool keep = false;
};
using Arguments = std::shared_ptr<DiskArguments>;

uint64_t SizeOf(const std::string& option, const std::string& text) {
  const absl::StatusOr<uint64_t> size = ParseSize(text);
  if (!size.ok()) throw CLI::ValidationError(option, std::string(size.status().message()));
  return *size;
}

std::string SizeLine(const v1::Disk& disk, const std::string& what) {
  return absl::StrCat(what, " has ", FormatSize(disk.bytes()), "\n");
}

void AddCreate(CLI::App* app, Command* command) {
  auto arguments = std::make_shared<DiskArguments>();
  CLI::App* sub = app->add_subcommand("create", "Make a file with an empty disk on the host");
  sub->add_option("file", arguments->file, "Its path on the host, absolute")->required();
  sub->add_option("--size", arguments->size, "As a guest sees it, e.g. 10G")->required();
  sub->add_option("--format", arguments->format, "qcow2 (default) or raw");
  sub->footer("It takes no room until something is written. Attach it: ferryctl disk attach");
  sub->callback([arguments, command] {
    v1::CreateDiskRequest request;
    request.set_file(arguments->file);
    request.set_format(arguments->format);
    request.set_bytes(SizeOf("--size", arguments->size));
    command->action = [arguments, request](Client* client) {
      return CallAndPrint(
          client, client->disks->async(), &DiskAsync::CreateDisk, request, kLongTimeout,
          absl::StrCat("making ", arguments->file),
          [](const v1::Disk& disk) { return SizeLine(disk, Printable(disk.file())); });
    };
  });
}

void AddList(CLI::App* app, Command* command) {
  auto arguments = std::make_shared<DiskArguments>();
  CLI::App* sub = app->add_subcommand(
      "list", "List the disks of a VM, or of all: its own, and what its containers write to");
  sub->add_option("vm", arguments->vm, "Name or id");
  sub->callback([arguments, command] {
    v1::ListDisksRequest request;
    request.set_vm(arguments->vm);
    command->action = [request](Client* client) {
      return CallAndPrint(client, client->disks->async(), &DiskAsync::ListDisks, request,
                          kLongTimeout, "listing disks", &DiskTable);
    };
  });
}

void AddAttach(CLI::App* app, Command* command) {
  auto arguments = std::make_shared<DiskArguments>();
  CLI::App* sub = app->add_subcommand("attach", "Give a VM a disk, also while it runs");
  sub->add_option("vm", arguments->vm, "Name or id")->required();
  sub->add_option("disk", arguments->disk, "name=N,file=F[,format=qcow2|raw][,ro]")->required();
  sub->footer("The VM has it from then on, until it is detached.");
  sub->callback([arguments, command] {
    const absl::StatusOr<v1::DiskSpec> disk = ParseDisk(arguments->disk);
    if (!disk.ok()) throw CLI::ValidationError("disk", std::string(disk.status().message()));
    v1::AttachDiskRequest request;
    request.set_vm(arguments->vm);
    *request.mutable_disk() = *disk;
    command->action = [arguments, request](Client* client) {
      return CallAndPrint(
          client, client->disks->async(), &DiskAsync::AttachDisk, request, kLongTimeout,
          absl::StrCat("giving VM ", arguments->vm, " a disk"), [](const v1::Disk& disk) {
            return absl::StrCat(Printable(disk.vm()), " has disk ", Printable(disk.name()),
                                " at LUN ", disk.lun(), "\n");
          });
    };
  });
}

void AddDetach(CLI::App* app, Command* command) {
  auto arguments = std::make_shared<DiskArguments>();
  CLI::App* sub = app->add_subcommand(
      "detach", "Take a disk from a VM; let its guest unmount it first. The file stays");
  sub->add_option("vm", arguments->vm, "Name or id")->required();
  sub->add_option("disk", arguments->disk, "Its name")->required();
  sub->callback([arguments, command] {
    v1::DetachDiskRequest request;
    request.set_vm(arguments->vm);
    request.set_disk(arguments->disk);
    command->action = [arguments, request](Client* client) {
      return CallAndPrint(client, client->disks->async(), &DiskAsync::DetachDisk, request,
                          kLongTimeout, absl::StrCat("taking a disk from VM ", arguments->vm),
                          [disk = arguments->disk](const v1::DetachDiskResponse&) {
                            return absl::StrCat("disk ", Printable(disk), " detached\n");
                          });
    };
  });
}

void AddMove(CLI::App* app, Command* command) {
  auto arguments = std::make_shared<DiskArguments>();
  CLI::App* sub = app->add_subcommand(
      "move", "Let a disk of a VM go on in another file or folder, also while the VM runs");
  sub->add_option("vm", arguments->vm, "Name or id")->required();
  sub->add_option("disk", arguments->disk, "Its name")->required();
  sub->add_option("to", arguments->file, "On the host, absolute; a folder if it ends with \"/\"")
      ->required();
  sub->add_flag("--keep", arguments->keep, "The former file stays, as a copy of that moment");
  sub->footer(
      "It is a job: ferryctl job list, and job cancel. The former file is removed when it is "
      "done.");
  sub->callback([arguments, command] {
    v1::MoveDiskRequest request;
    request.set_vm(arguments->vm);
    request.set_disk(arguments->disk);
    request.set_file(arguments->file);
    request.set_keep(arguments->keep);
    command->action = [arguments, request](Client* client) {
      return CallAndPrint(client, client->disks->async(), &DiskAsync::MoveDisk, request,
                          kCopyTimeout, absl::StrCat("moving a disk of VM ", arguments->vm),
                          [](const v1::Disk& disk) {
                            return absl::StrCat("disk ", Printable(disk.name()), " is in ",
                                                Printable(disk.file()), " now\n");
                          });
    };
  });
}

void AddResize(CLI::App* app, Command* command) {
  auto arguments = std::make_shared<DiskArguments>();
  CLI::App* sub = app->add_subcommand("resize", "Make a disk of a VM larger, also while it runs");
  sub->add_option("vm", arguments->vm, "Name or id")->required();
  sub->add_option("disk", arguments->disk, "Its name")->required();
  sub->add_option("size", arguments->size, "As its guest sees it, e.g. 20G")->required();
  sub->footer(
      "Filesystems and partitions on it are the guest's to enlarge. A container's name or id in "
      "place of a disk's: what it writes to, with its filesystem.");
  sub->callback([arguments, command] {
    v1::ResizeDiskRequest request;
    request.set_vm(arguments->vm);
    request.set_disk(arguments->disk);
    request.set_bytes(SizeOf("size", arguments->size));
    command->action = [arguments, request](Client* client) {
      return CallAndPrint(client, client->disks->async(), &DiskAsync::ResizeDisk, request,
                          kLongTimeout, absl::StrCat("enlarging a disk of VM ", arguments->vm),
                          [](const v1::Disk& disk) {
                            return SizeLine(disk, absl::StrCat("disk ", Printable(disk.name())));
                          });
    };
  });
}

}  // namespace

void AddDiskCommands(CLI::App* app, Command* command) {
  CLI::App* disk =
      app->add_subcommand("disk", "Make, attach, detach, list, enlarge and move disks");
  disk->require_subcommand(1);
  disk->fallthrough();
  AddCreate(disk, command);
  AddList(disk, command);
  AddAttach(disk, command);
  AddDetach(disk, command);
  AddResize(disk, command);
  AddMove(disk, command);
}

}  // namespace ferry::ctl
