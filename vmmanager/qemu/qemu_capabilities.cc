#include "vmmanager/qemu/qemu_capabilities.h"

#include <boost/json/array.hpp>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/qemu/json_text.h"
#include "vmmanager/qemu/qemu_command_line.h"
#include "vmmanager/qemu/qemu_probe.h"

namespace ferry::vm {
namespace {

namespace json = boost::json;

// Those that every VM has and that have both interfaces.
constexpr const char* kVirtioDevices[] = {"virtio-serial-pci", "virtio-scsi-pci", "virtio-rng-pci"};

// The texts under `key` of a list of objects.
std::set<std::string> Names(const json::value& list, const char* key) {
  std::set<std::string> names;
  if (const json::array* items = list.if_array()) {
    for (const json::value& item : *items) {
      if (const json::object* object = item.if_object()) names.insert(TextAt(*object, key));
    }
  }
  return names;
}

std::string VersionOf(const json::value& reply) {
  const json::object* root = reply.if_object();
  const json::value* qemu = root == nullptr ? nullptr : root->if_contains("qemu");
  const json::object* numbers = qemu == nullptr ? nullptr : qemu->if_object();
  if (numbers == nullptr) return "unknown";
  std::string version;
  for (const char* part : {"major", "minor", "micro"}) {
    const json::value* number = numbers->if_contains(part);
    const int64_t* digits = number == nullptr ? nullptr : number->if_int64();
    absl::StrAppend(&version, version.empty() ? "" : ".", digits == nullptr ? 0 : *digits);
  }
  return version;
}

absl::Status CheckNeeds(const std::string& binary, const QemuCapabilities& found) {
  for (const char* name : {"events", "return-path", "pause-before-switchover",
                           "late-block-activate", "validate-uuid"}) {
    if (!found.migration.contains(name)) {
      return absl::FailedPreconditionError(
          absl::StrCat(binary, " ", found.version, " lacks the migration capability ", name));
    }
  }
  std::vector<std::string> devices(std::begin(kVirtioDevices), std::end(kVirtioDevices));
  devices.push_back("scsi-hd");
  for (const std::string& name : devices) {
    if (!found.devices.contains(name)) {
      return absl::FailedPreconditionError(
          absl::StrCat(binary, " ", found.version, " lacks the device ", name));
    }
  }
  if (found.machine_type.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(binary, " lacks the machine type q35"));
  }
  return absl::OkStatus();
}

// The names of a type's properties; a QEMU that does not say has none.
Task<std::set<std::string>> PropertiesOf(QmpClient* qmp, const char* command, std::string type) {
  json::object arguments = {{"typename", type}};
  const absl::StatusOr<json::value> list = co_await qmp->Execute(command, std::move(arguments));
  co_return Names(list.value_or(json::array()), "name");
}

// Whether this QEMU can make a machine of the lean layout.
Task<bool> CanBeLean(QmpClient* qmp, std::string machine_type) {
  const std::set<std::string> machine =
      co_await PropertiesOf(qmp, "qom-list-properties", std::move(machine_type));
  for (const MachineOption& option : kLeanMachine) {
    if (!machine.contains(option.name)) co_return false;
  }
  for (const char* type : kVirtioDevices) {
    std::string name = type;
    const std::set<std::string> device =
        co_await PropertiesOf(qmp, "device-list-properties", std::move(name));
    if (!device.contains("disable-modern") || !device.contains("disable-legacy")) co_return false;
  }
  co_return true;
}

Task<absl::StatusOr<QemuCapabilities>> Ask(QmpClient* qmp) {
  QemuCapabilities found;
  CO_ASSIGN_OR_RETURN(const json::value version, co_await qmp->Execute("query-version"));
  found.version = VersionOf(version);
  CO_ASSIGN_OR_RETURN(const json::value machines, co_await qmp->Execute("query-machines"));
  found.machine_types = Names(machines, "name");
  if (const json::array* items = machines.if_array()) {
    for (const json::value& item : *items) {
      const json::object* machine = item.if_object();
      if (machine != nullptr && TextAt(*machine, "alias") == "q35") {
        found.machine_type = TextAt(*machine, "name");
      }
    }
  }
  CO_ASSIGN_OR_RETURN(const json::value capabilities,
                      co_await qmp->Execute("query-migrate-capabilities"));
  found.migration = Names(capabilities, "capability");
  json::object compression = {{"multifd-compression", "zstd"}};
  found.multifd_zstd =
      (co_await qmp->Execute("migrate-set-parameters", std::move(compression))).ok();
  json::object implements = {{"implements", "device"}};
  CO_ASSIGN_OR_RETURN(const json::value devices,
                      co_await qmp->Execute("qom-list-types", std::move(implements)));
  found.devices = Names(devices, "name");
  std::string machine_type = absl::StrCat(found.machine_type, "-machine");
  found.lean_machine = co_await CanBeLean(qmp, std::move(machine_type));
  co_return found;
}
}  // namespace

Task<absl::StatusOr<QemuCapabilities>> ProbeCapabilities(std::string binary) {
  CO_ASSIGN_OR_RETURN(const std::unique_ptr<QemuProbe> probe,
                      co_await QemuProbe::Launch(binary, /*accelerator=*/""));
  absl::StatusOr<QemuCapabilities> found = co_await Ask(&probe->qmp());
  co_await probe->End();
  CO_RETURN_IF_ERROR(found.status());
  CO_RETURN_IF_ERROR(CheckNeeds(binary, *found));
  co_return found;
}

}  // namespace ferry::vm
