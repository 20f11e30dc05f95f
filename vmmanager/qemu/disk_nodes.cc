#include "vmmanager/qemu/disk_nodes.h"

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/parse.hpp>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/qemu/json_text.h"
#include "vmmanager/qemu/qemu_command_line.h"
#include "vmmanager/qemu/qemu_machine.h"

namespace ferry::vm {
namespace {

namespace json = boost::json;

// QEMU allows names of 31 characters, and a stem has at most 20.
constexpr char kOverlaySuffix[] = "-over";

const json::object* ObjectAt(const json::object& fields, const char* key) {
  const json::value* value = fields.if_contains(key);
  return value == nullptr ? nullptr : value->if_object();
}

DiskSnapshot SnapshotOf(const json::object& fields) {
  constexpr uint64_t kMsPerSecond = 1000;
  constexpr uint64_t kNsPerMs = 1'000'000;
  DiskSnapshot snapshot;
  snapshot.tag = TextAt(fields, "name");
  snapshot.vm_state_bytes = WholeNumberAt(fields, "vm-state-size");
  snapshot.taken_unix_ms = WholeNumberAt(fields, "date-sec") * kMsPerSecond +
                           WholeNumberAt(fields, "date-nsec") / kNsPerMs;
  return snapshot;
}

std::vector<DiskSnapshot> SnapshotsIn(const json::object& image) {
  std::vector<DiskSnapshot> snapshots;
  const json::value* all = image.if_contains("snapshots");
  const json::array* entries = all == nullptr ? nullptr : all->if_array();
  if (entries == nullptr) return snapshots;
  for (const json::value& entry : *entries) {
    if (const json::object* fields = entry.if_object()) snapshots.push_back(SnapshotOf(*fields));
  }
  return snapshots;
}

// What a qcow2 file says of the other one that has its data, if there is one.
std::string DataFileOf(const json::object& image) {
  const json::object* specific = ObjectAt(image, "format-specific");
  const json::object* qcow2 = specific == nullptr ? nullptr : ObjectAt(*specific, "data");
  return qcow2 == nullptr ? std::string() : TextAt(*qcow2, "data-file");
}

DiskNode NodeFrom(const json::object& inserted) {
  DiskNode node;
  node.name = TextAt(inserted, "node-name");
  node.driver = TextAt(inserted, "drv");
  node.file = PathInFileName(TextAt(inserted, "file"));
  const json::value* read_only = inserted.if_contains("ro");
  node.read_only = read_only != nullptr && read_only->is_bool() && read_only->get_bool();
  const json::object* image = ObjectAt(inserted, "image");
  if (image == nullptr) return node;
  node.snapshots = SnapshotsIn(*image);
  node.data_file = DataFileOf(*image);
  // A chain is as long as its user has made it.
  for (image = ObjectAt(*image, "backing-image"); image != nullptr;
       image = ObjectAt(*image, "backing-image")) {
    node.below.push_back({TextAt(*image, "filename"), SnapshotsIn(*image)});
  }
  return node;
}

// Whether Ferry has given this name to a node of that disk.
bool IsOurs(const std::string& name, const std::string& stem) {
  absl::string_view rest = name;
  if (!absl::ConsumePrefix(&rest, stem)) return false;
  if (rest == "-fmt" || rest == "-file") return true;
  return absl::ConsumePrefix(&rest, kOverlaySuffix) && !rest.empty() &&
         std::all_of(rest.begin(), rest.end(), absl::ascii_isdigit);
}

}  // namespace

std::string PathInFileName(const std::string& name) {
  constexpr char kJson[] = "json:";
  absl::string_view text = name;
  if (!absl::ConsumePrefix(&text, kJson)) return name;
  boost::system::error_code error;
  const json::value parsed = json::parse(json::string_view(text.data(), text.size()), error);
  const json::object* fields = error ? nullptr : parsed.if_object();
  while (fields != nullptr && !fields->contains("filename")) fields = ObjectAt(*fields, "file");
  return fields == nullptr ? name : TextAt(*fields, "filename");
}

Task<absl::StatusOr<std::map<DiskPlace, DiskNode>>> DiskNodesOf(
    std::shared_ptr<QemuMachine> machine) {
  CO_ASSIGN_OR_RETURN(const json::value answer, co_await machine->Command("query-block"));
  std::map<std::string, DiskNode> by_device;
  const json::array* devices = answer.if_array();
  if (devices == nullptr) co_return absl::InternalError("QEMU does not list its disks");
  for (const json::value& item : *devices) {
    const json::object* device = item.if_object();
    const json::object* inserted = device == nullptr ? nullptr : ObjectAt(*device, "inserted");
    if (inserted == nullptr) continue;
    DiskNode& node = by_device[TextAt(*device, "qdev")];
    node = NodeFrom(*inserted);
    // It is left out of what has no device that could stop.
    node.io_status = device->contains("io-status") ? TextAt(*device, "io-status") : "ok";
  }
  std::map<DiskPlace, DiskNode> nodes;
  for (const auto& [controller, scsi] : machine->document().virtual_machine.devices.scsi) {
    for (const auto& [lun, disk] : scsi.attachments) {
      const auto found = by_device.find(DiskStem(controller, lun, disk));
      if (found != by_device.end()) nodes[{controller, lun}] = std::move(found->second);
    }
  }
  co_return nodes;
}

absl::StatusOr<DiskNode> NodeAt(const std::map<DiskPlace, DiskNode>& nodes,
                                const DiskPlace& place) {
  const auto found = nodes.find(place);
  if (found != nodes.end()) return found->second;
  return absl::NotFoundError(absl::StrCat("there is no disk at ", ToText(place)));
}

Task<absl::StatusOr<std::vector<std::string>>> NodeNamesOf(QemuMachine* machine) {
  json::object flat = {{"flat", true}};
  CO_ASSIGN_OR_RETURN(const json::value answer,
                      co_await machine->Command("query-named-block-nodes", std::move(flat)));
  std::vector<std::string> names;
  const json::array* list = answer.if_array();
  if (list == nullptr) co_return absl::InternalError("QEMU does not list its block nodes");
  for (const json::value& item : *list) {
    if (const json::object* node = item.if_object()) names.push_back(TextAt(*node, "node-name"));
  }
  co_return names;
}

Task<absl::StatusOr<std::string>> NodeOfFile(QemuMachine* machine, std::string file) {
  json::object flat = {{"flat", true}};
  CO_ASSIGN_OR_RETURN(const json::value answer,
                      co_await machine->Command("query-named-block-nodes", std::move(flat)));
  const json::array* list = answer.if_array();
  for (size_t i = 0; list != nullptr && i < list->size(); ++i) {
    const json::object* node = (*list)[i].if_object();
    if (node == nullptr || PathInFileName(TextAt(*node, "file")) != file) continue;
    // Below it is one that only reads its bytes.
    const std::string driver = TextAt(*node, "drv");
    if (driver == "qcow2" || driver == "raw") co_return TextAt(*node, "node-name");
  }
  co_return absl::NotFoundError(absl::StrCat("QEMU does not have ", file, " open"));
}

std::string FreeNodeName(const std::vector<std::string>& taken, const std::string& stem) {
  for (uint64_t number = 1;; ++number) {
    std::string name = absl::StrCat(stem, kOverlaySuffix, number);
    if (std::find(taken.begin(), taken.end(), name) == taken.end()) return name;
  }
}

Task<absl::StatusOr<std::vector<std::string>>> DropUnusedNodes(QemuMachine* machine,
                                                               std::string stem) {
  // One that lies below another goes only after that. QEMU refuses for what is in use.
  std::vector<std::string> kept;
  bool removed = true;
  while (removed) {
    removed = false;
    kept.clear();
    CO_ASSIGN_OR_RETURN(const std::vector<std::string> names, co_await NodeNamesOf(machine));
    for (const std::string& name : names) {
      if (!IsOurs(name, stem)) continue;
      json::object node = {{"node-name", name}};
      const absl::Status gone =
          (co_await machine->Command("blockdev-del", std::move(node))).status();
      if (GotNoAnswer(gone)) co_return gone;
      removed = removed || gone.ok();
      if (!gone.ok()) kept.push_back(name);
    }
  }
  co_return kept;
}

}  // namespace ferry::vm
