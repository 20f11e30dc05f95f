#include "vmmanager/qemu/qemu_disks.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/backend/snapshots.h"
#include "vmmanager/qemu/disk_nodes.h"
#include "vmmanager/qemu/qemu_command_line.h"

namespace ferry::vm {
namespace {

namespace json = boost::json;

struct Place {
  std::string controller;
  std::string lun;
};

absl::StatusOr<Place> ParsePath(const std::string& path) {
  const std::vector<std::string> parts = absl::StrSplit(path, '/');
  constexpr size_t kParts = 6;
  if (parts.size() != kParts || parts[0] != "VirtualMachine" || parts[1] != "Devices" ||
      parts[2] != "Scsi" || parts[4] != "Attachments") {
    return absl::UnimplementedError(
        absl::StrCat("the resource '", path, "' cannot be changed while the VM runs"));
  }
  RETURN_IF_ERROR(ParseSlot(parts[3], kMaxControllers, "Devices.Scsi controller").status());
  RETURN_IF_ERROR(ParseSlot(parts[5], schema::Scsi::kMaxLuns, "Devices.Scsi LUN").status());
  return Place{parts[3], parts[5]};
}

// Reads the settings with the rules of a whole document.
absl::StatusOr<schema::Attachment> ParseDisk(const Place& place, const std::string& settings) {
  const std::string text =
      absl::StrCat(R"({"VirtualMachine":{"Devices":{"Scsi":{")", place.controller,
                   R"(":{"Attachments":{")", place.lun, R"(":)", settings, "}}}}}}");
  ASSIGN_OR_RETURN(const schema::ComputeSystem document, schema::ComputeSystemFromJson(text));
  const schema::Attachment disk =
      document.virtual_machine.devices.scsi.at(place.controller).attachments.at(place.lun);
  if (disk.path.empty() || (disk.format != "qcow2" && disk.format != "raw")) {
    return absl::InvalidArgumentError("a disk needs a Path, and the format qcow2 or raw");
  }
  return disk;
}

Task<absl::Status> Run(QemuMachine* machine, std::string command, json::object arguments) {
  co_return (co_await machine->Command(std::move(command), std::move(arguments))).status();
}

// Of a disk whose device is gone, with all files that were put on top of it.
Task<absl::Status> RemoveNodes(QemuMachine* machine, std::string stem) {
  CO_ASSIGN_OR_RETURN(const std::vector<std::string> kept,
                      co_await DropUnusedNodes(machine, std::move(stem)));
  if (kept.empty()) co_return absl::OkStatus();
  co_return absl::InternalError(
      absl::StrCat("QEMU still uses what the disk was: ", absl::StrJoin(kept, ", ")));
}

Task<absl::Status> PlugDisk(QemuMachine* machine, Place place, schema::Attachment disk) {
  const std::string stem = DiskStem(place.controller, place.lun, disk);
  json::object file = {{"driver", "file"},
                       {"node-name", absl::StrCat(stem, "-file")},
                       {"filename", disk.path},
                       {"read-only", disk.read_only}};
  CO_RETURN_IF_ERROR(co_await Run(machine, "blockdev-add", std::move(file)));
  json::object format = {{"driver", disk.format},
                         {"node-name", absl::StrCat(stem, "-fmt")},
                         {"file", absl::StrCat(stem, "-file")},
                         {"read-only", disk.read_only}};
  CO_RETURN_IF_ERROR(co_await Run(machine, "blockdev-add", std::move(format)));
  json::object device = {{"driver", "scsi-hd"},
                         {"id", stem},
                         {"bus", absl::StrCat("scsi", place.controller, ".0")},
                         {"scsi-id", 0},
                         {"lun", std::stoi(place.lun)},
                         {"drive", absl::StrCat(stem, "-fmt")},
                         {"werror", "stop"},
                         {"rerror", "stop"}};
  co_return co_await Run(machine, "device_add", std::move(device));
}

// A QEMU that gives no answer may do it all the same, and later: it is to be removed then.
Task<absl::Status> AddDisk(QemuMachine* machine, Place place, schema::Attachment disk) {
  std::string stem = DiskStem(place.controller, place.lun, disk);
  auto& scsi = machine->document().virtual_machine.devices.scsi;
  scsi[place.controller].attachments[place.lun] = disk;
  const absl::Status status = co_await PlugDisk(machine, place, std::move(disk));
  if (status.ok() || GotNoAnswer(status)) co_return status;
  const absl::Status removed = co_await RemoveNodes(machine, std::move(stem));
  if (removed.ok()) scsi[place.controller].attachments.erase(place.lun);
  co_return status;
}

Task<absl::Status> RemoveDisk(QemuMachine* machine, Place place) {
  auto& attachments =
      machine->document().virtual_machine.devices.scsi[place.controller].attachments;
  const auto found = attachments.find(place.lun);
  if (found == attachments.end()) {
    co_return absl::NotFoundError(
        absl::StrCat("there is no disk at Scsi/", place.controller, "/", place.lun));
  }
  const std::string stem = DiskStem(place.controller, place.lun, found->second);
  const absl::Status unplugged = co_await machine->RemoveDevice(stem);
  // A device that QEMU does not have was on its way when a daemon died, and so may its nodes have
  // been.
  if (!absl::IsNotFound(unplugged)) CO_RETURN_IF_ERROR(unplugged);
  CO_RETURN_IF_ERROR(co_await RemoveNodes(machine, stem));
  attachments.erase(place.lun);
  co_return absl::OkStatus();
}

}  // namespace

Task<absl::Status> ModifyDisks(std::shared_ptr<QemuMachine> machine,
                               schema::ModifySettingRequest request) {
  if (machine->state() != schema::SystemState::kRunning &&
      machine->state() != schema::SystemState::kPaused) {
    co_return machine->WrongState("change its devices");
  }
  CO_ASSIGN_OR_RETURN(Place place, ParsePath(request.resource_path));
  if (request.request_type == "Remove") {
    co_return co_await RemoveDisk(machine.get(), std::move(place));
  }
  if (request.request_type != "Add") {
    co_return absl::UnimplementedError(
        absl::StrCat("'", request.request_type, "' of a disk; Add and Remove are possible"));
  }
  auto& scsi = machine->document().virtual_machine.devices.scsi;
  if (scsi[place.controller].attachments.contains(place.lun)) {
    co_return absl::AlreadyExistsError(
        absl::StrCat("Scsi/", place.controller, "/", place.lun, " holds a disk already"));
  }
  CO_ASSIGN_OR_RETURN(schema::Attachment disk, ParseDisk(place, request.settings_json));
  co_return co_await AddDisk(machine.get(), std::move(place), std::move(disk));
}

}  // namespace ferry::vm
