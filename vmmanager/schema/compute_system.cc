#include "vmmanager/schema/compute_system.h"

#include <boost/json/array.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "vmmanager/schema/json.h"
#include "vmmanager/schema/migration_json.h"

namespace ferry::schema {
namespace {

namespace json = boost::json;

json::object AttachmentObject(const Attachment& attachment) {
  json::object object;
  object["Type"] = attachment.type;
  object["Path"] = attachment.path;
  PutUnlessDefault(object, "ReadOnly", attachment.read_only);
  json::object ferry;
  PutUnlessDefault(ferry, "Name", attachment.name);
  if (attachment.format != Attachment{}.format) ferry["Format"] = attachment.format;
  if (!ferry.empty()) object["Ferry"] = std::move(ferry);
  return object;
}

void ReadAttachment(JsonReader& reader, Attachment& attachment) {
  reader.Read("Type", attachment.type);
  reader.Read("Path", attachment.path);
  reader.Read("ReadOnly", attachment.read_only);
  reader.Object("Ferry", [&](JsonReader& ferry) {
    ferry.Read("Name", attachment.name);
    ferry.Read("Format", attachment.format);
  });
}

// HCS keys controllers and LUNs by their number as text; another spelling of the same number would
// make two entries of one.
void CheckNumberKey(JsonReader& reader, const std::string& key) {
  uint32_t number = 0;
  if (!absl::SimpleAtoi(key, &number) || StrCat(number) != key) {
    reader.Fail(absl::InvalidArgumentError(
        StrCat(reader.MemberPath(key), " must be keyed by a number such as \"0\"")));
  }
}

json::object AdapterObject(const NetworkAdapter& adapter) {
  json::object object;
  object["MacAddress"] = adapter.mac_address;
  json::object ferry;
  PutUnlessDefault(ferry, "Name", adapter.name);
  PutUnlessDefault(ferry, "Bridge", adapter.bridge);
  PutUnlessDefault(ferry, "Tap", adapter.tap);
  PutUnlessDefault(ferry, "User", adapter.user);
  object["Ferry"] = std::move(ferry);
  return object;
}

json::object DevicesObject(const Devices& devices) {
  json::object object;
  json::object scsi;
  for (const auto& [controller, content] : devices.scsi) {
    json::object attachments;
    for (const auto& [lun, attachment] : content.attachments) {
      attachments[lun] = AttachmentObject(attachment);
    }
    json::object entry;
    if (!attachments.empty()) entry["Attachments"] = std::move(attachments);
    scsi[controller] = std::move(entry);
  }
  if (!scsi.empty()) object["Scsi"] = std::move(scsi);
  json::object adapters;
  for (const auto& [number, adapter] : devices.network_adapters) {
    adapters[number] = AdapterObject(adapter);
  }
  if (!adapters.empty()) object["NetworkAdapters"] = std::move(adapters);
  if (devices.hv_socket) {
    json::object config;
    if (devices.hv_socket->guest_cid != 0) {
      json::object ferry;
      ferry["GuestCid"] = devices.hv_socket->guest_cid;
      config["Ferry"] = std::move(ferry);
    }
    json::object hv_socket;
    hv_socket["HvSocketConfig"] = std::move(config);
    object["HvSocket"] = std::move(hv_socket);
  }
  json::object shares;
  for (const auto& [number, share] : devices.shares) {
    json::object entry;
    entry["Path"] = share.path;
    PutUnlessDefault(entry, "ReadOnly", share.read_only);
    shares[number] = std::move(entry);
  }
  if (!shares.empty()) object["Ferry"] = json::object{{"VirtioFs", std::move(shares)}};
  return object;
}

void ReadScsi(JsonReader& reader, Devices& devices) {
  reader.EachObject([&](const std::string& controller, JsonReader& entry) {
    CheckNumberKey(reader, controller);
    Scsi& scsi = devices.scsi[controller];
    entry.Object("Attachments", [&](JsonReader& attachments) {
      attachments.EachObject([&](const std::string& lun, JsonReader& attachment) {
        CheckNumberKey(attachments, lun);
        ReadAttachment(attachment, scsi.attachments[lun]);
      });
    });
  });
}

void ReadAdapters(JsonReader& reader, Devices& devices) {
  reader.EachObject([&](const std::string& number, JsonReader& entry) {
    CheckNumberKey(reader, number);
    NetworkAdapter& adapter = devices.network_adapters[number];
    entry.Read("MacAddress", adapter.mac_address);
    entry.Object("Ferry", [&](JsonReader& ferry) {
      ferry.Read("Name", adapter.name);
      ferry.Read("Bridge", adapter.bridge);
      ferry.Read("Tap", adapter.tap);
      ferry.Read("User", adapter.user);
    });
  });
}

void ReadShares(JsonReader& reader, Devices& devices) {
  reader.EachObject([&](const std::string& number, JsonReader& entry) {
    CheckNumberKey(reader, number);
    SharedFolder& share = devices.shares[number];
    entry.Read("Path", share.path);
    entry.Read("ReadOnly", share.read_only);
  });
}

void ReadDevices(JsonReader& reader, Devices& devices) {
  reader.Object("Scsi", [&](JsonReader& scsi) { ReadScsi(scsi, devices); });
  reader.Object("NetworkAdapters", [&](JsonReader& adapters) { ReadAdapters(adapters, devices); });
  reader.Object("HvSocket", [&](JsonReader& hv_socket) {
    hv_socket.Object("HvSocketConfig", [&](JsonReader& config) {
      HvSocketSystemConfig& value = devices.hv_socket.emplace();
      config.Object("Ferry", [&](JsonReader& ferry) { ferry.Read("GuestCid", value.guest_cid); });
    });
  });
  reader.Object("Ferry", [&](JsonReader& ferry) {
    ferry.Object("VirtioFs", [&](JsonReader& shares) { ReadShares(shares, devices); });
  });
}

json::object ChipsetObject(const Chipset& chipset) {
  json::object object;
  if (chipset.uefi) {
    json::object ferry;
    ferry["CodeFilePath"] = chipset.uefi->code_path;
    ferry["StoreFilePath"] = chipset.uefi->store_path;
    object["Uefi"] = json::object{{"Ferry", std::move(ferry)}};
  }
  if (chipset.linux_kernel_direct) {
    const LinuxKernelDirect& kernel = *chipset.linux_kernel_direct;
    json::object direct;
    PutUnlessDefault(direct, "KernelFilePath", kernel.kernel_file_path);
    PutUnlessDefault(direct, "InitRdPath", kernel.init_rd_path);
    PutUnlessDefault(direct, "KernelCmdLine", kernel.kernel_cmd_line);
    object["LinuxKernelDirect"] = std::move(direct);
  }
  return object;
}

void ReadChipset(JsonReader& reader, Chipset& chipset) {
  reader.Object("Uefi", [&](JsonReader& uefi) {
    Uefi& value = chipset.uefi.emplace();
    uefi.Object("Ferry", [&](JsonReader& ferry) {
      ferry.Read("CodeFilePath", value.code_path);
      ferry.Read("StoreFilePath", value.store_path);
    });
  });
  reader.Object("LinuxKernelDirect", [&](JsonReader& direct) {
    LinuxKernelDirect& kernel = chipset.linux_kernel_direct.emplace();
    direct.Read("KernelFilePath", kernel.kernel_file_path);
    direct.Read("InitRdPath", kernel.init_rd_path);
    direct.Read("KernelCmdLine", kernel.kernel_cmd_line);
  });
}

json::object VirtualMachineObject(const VirtualMachine& vm) {
  json::object object;
  json::object chipset = ChipsetObject(vm.chipset);
  if (!chipset.empty()) object["Chipset"] = std::move(chipset);
  json::object memory;
  memory["SizeInMB"] = vm.compute_topology.memory.size_in_mb;
  json::object processor;
  processor["Count"] = vm.compute_topology.processor.count;
  json::object topology;
  topology["Memory"] = std::move(memory);
  topology["Processor"] = std::move(processor);
  object["ComputeTopology"] = std::move(topology);

  json::object devices = DevicesObject(vm.devices);
  if (!devices.empty()) object["Devices"] = std::move(devices);
  json::object ferry;
  PutUnlessDefault(ferry, "MachineType", vm.platform.machine_type);
  PutUnlessDefault(ferry, "CpuModel", vm.platform.cpu_model);
  PutUnlessDefault(ferry, "Layout", vm.platform.layout);
  if (!ferry.empty()) object["Ferry"] = std::move(ferry);
  return object;
}

void ReadVirtualMachine(JsonReader& reader, VirtualMachine& vm) {
  reader.Object("Chipset", [&](JsonReader& chipset) { ReadChipset(chipset, vm.chipset); });
  reader.Object("ComputeTopology", [&](JsonReader& topology) {
    topology.Object("Memory", [&](JsonReader& memory) {
      memory.Read("SizeInMB", vm.compute_topology.memory.size_in_mb);
    });
    topology.Object("Processor", [&](JsonReader& processor) {
      processor.Read("Count", vm.compute_topology.processor.count);
    });
  });
  reader.Object("Devices", [&](JsonReader& devices) { ReadDevices(devices, vm.devices); });
  reader.Object("Ferry", [&](JsonReader& ferry) {
    ferry.Read("MachineType", vm.platform.machine_type);
    ferry.Read("CpuModel", vm.platform.cpu_model);
    ferry.Read("Layout", vm.platform.layout);
  });
}

void ReadComputeSystem(JsonReader& reader, ComputeSystem& document) {
  reader.Read("Owner", document.owner);
  reader.Object("SchemaVersion", [&](JsonReader& version) {
    version.Read("Major", document.schema_version.major);
    version.Read("Minor", document.schema_version.minor);
  });
  reader.Read("HostingSystemId", document.hosting_system_id);
  reader.Read("ShouldTerminateOnLastHandleClosed", document.should_terminate_on_last_handle_closed);
  reader.Object("VirtualMachine",
                [&](JsonReader& vm) { ReadVirtualMachine(vm, document.virtual_machine); });
  reader.Object("MigrationOptions", [&](JsonReader& options) {
    ReadJson(options, document.migration_options.emplace());
  });
}

std::string_view ToText(PropertyType type) {
  switch (type) {
    case PropertyType::kBasic:
      return "Basic";
    case PropertyType::kMemory:
      return "Memory";
    case PropertyType::kStatistics:
      return "Statistics";
    case PropertyType::kCompatibilityInfo:
      return "CompatibilityInfo";
    case PropertyType::kMigrationBlockers:
      return "MigrationBlockers";
  }
  return "Basic";
}

}  // namespace

std::string ToJson(const ComputeSystem& document) {
  json::object version;
  version["Major"] = document.schema_version.major;
  version["Minor"] = document.schema_version.minor;
  json::object object;
  object["Owner"] = document.owner;
  object["SchemaVersion"] = std::move(version);
  PutUnlessDefault(object, "HostingSystemId", document.hosting_system_id);
  PutUnlessDefault(object, "ShouldTerminateOnLastHandleClosed",
                   document.should_terminate_on_last_handle_closed);
  object["VirtualMachine"] = VirtualMachineObject(document.virtual_machine);
  if (document.migration_options) {
    object["MigrationOptions"] = ToJsonObject(*document.migration_options);
  }
  return json::serialize(object);
}

absl::StatusOr<ComputeSystem> ComputeSystemFromJson(std::string_view text) {
  absl::StatusOr<json::object> object = ParseJsonObject(text, "the machine document");
  if (!object.ok()) return object.status();
  ComputeSystem document;
  JsonReader reader(*object, "");
  ReadComputeSystem(reader, document);
  if (absl::Status status = reader.Finish(); !status.ok()) return status;
  return document;
}

std::string ToJson(const Attachment& disk) { return json::serialize(AttachmentObject(disk)); }

std::string ToJson(const StartOptions& options) {
  json::object object;
  if (options.destination_migration_options) {
    object["DestinationMigrationOptions"] = ToJsonObject(*options.destination_migration_options);
  }
  return json::serialize(object);
}

std::string ToJson(const SaveOptions& options) {
  json::object object;
  PutUnlessDefault(object, "SaveType", options.save_type);
  PutUnlessDefault(object, "SaveStateFilePath", options.save_state_file_path);
  return json::serialize(object);
}

std::string ToJson(const ModifySettingRequest& request) {
  json::object object;
  PutUnlessDefault(object, "ResourcePath", request.resource_path);
  PutUnlessDefault(object, "RequestType", request.request_type);
  if (!request.settings_json.empty()) {
    json::error_code error;
    json::value settings = json::parse(request.settings_json, error);
    object["Settings"] = error ? json::value(request.settings_json) : std::move(settings);
  }
  return json::serialize(object);
}

std::string ToJson(const PropertyQuery& query) {
  json::object object;
  if (!query.types.empty()) {
    json::array types;
    for (PropertyType type : query.types) types.emplace_back(ToText(type));
    object["PropertyTypes"] = std::move(types);
  }
  return json::serialize(object);
}

std::string ToJson(const Properties& properties) {
  json::object object;
  PutUnlessDefault(object, "Id", properties.id);
  object["SystemType"] = "VirtualMachine";
  PutUnlessDefault(object, "RuntimeOsType", properties.runtime_os_type);
  object["State"] = ToString(properties.state);
  if (properties.uptime_ms != 0) {
    json::object statistics;
    statistics["Uptime100ns"] = properties.uptime_ms * 10'000;
    object["Statistics"] = std::move(statistics);
  }
  if (properties.compatibility_info) {
    json::object info;
    info["Data"] = absl::Base64Escape(*properties.compatibility_info);
    object["CompatibilityInfo"] = std::move(info);
  }
  json::object ferry;
  PutUnlessDefault(ferry, "MemorySizeInMB", properties.memory_size_in_mb);
  PutUnlessDefault(ferry, "VmmPid", properties.vmm_pid);
  PutUnlessDefault(ferry, "StateSent", properties.state_sent);
  PutUnlessDefault(ferry, "Ending", properties.ending);
  if (!properties.migration_blockers.empty()) {
    ferry["MigrationBlockers"] =
        json::array(properties.migration_blockers.begin(), properties.migration_blockers.end());
  }
  if (!ferry.empty()) object["Ferry"] = std::move(ferry);
  return json::serialize(object);
}

std::string_view ToString(SystemState state) {
  switch (state) {
    case SystemState::kCreated:
      return "Created";
    case SystemState::kRunning:
      return "Running";
    case SystemState::kPaused:
      return "Paused";
    case SystemState::kIncoming:
      return "Incoming";
    case SystemState::kStopped:
      return "Stopped";
  }
  return "Stopped";
}

}  // namespace ferry::schema
