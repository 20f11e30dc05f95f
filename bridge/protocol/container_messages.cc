#include "bridge/protocol/container_messages.h"

#include <algorithm>
#include <boost/json/serialize.hpp>
#include <boost/json/value_from.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/str_split.h"
#include "bridge/protocol/json_fields.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/str_cat.h"

namespace ferry::bridge {
namespace json = boost::json;
namespace {

constexpr uint32_t kMaxController = 255;
constexpr uint32_t kMaxLun = 16383;

template <typename Message, typename Read>
absl::StatusOr<Message> DecodeText(std::string_view text, const char* name, Read read) {
  ASSIGN_OR_RETURN(const json::object object, ParseObject(text));
  Message message;
  absl::Status status;
  read(FieldReader(object, name, &status), &message);
  RETURN_IF_ERROR(status);
  return message;
}

// A member that must be a path of the guest.
void ReadPath(const FieldReader& in, const char* member, std::string* out) {
  in.Text(member, out);
  const absl::Status status = CheckGuestPath(member, *out);
  if (!status.ok()) in.Complain(member, std::string(status.message()));
}

void ReadSlot(const FieldReader& in, uint32_t* controller, uint32_t* lun) {
  in.U32("Controller", controller);
  in.U32("Lun", lun);
  if (*controller > kMaxController) in.Complain("Controller", "must be at most 255");
  if (*lun > kMaxLun) in.Complain("Lun", "must be at most 16383");
}

}  // namespace

bool IsContainerId(std::string_view id) {
  return id.size() == 64 && std::all_of(id.begin(), id.end(), absl::ascii_isxdigit);
}

bool IsJsonObject(std::string_view text) { return ParseObject(text).ok(); }

absl::Status CheckGuestPath(std::string_view what, std::string_view path) {
  const auto refuse = [&](const char* why) {
    return absl::InvalidArgumentError(StrCat(what, " '", path.substr(0, 200), "' ", why));
  };
  if (path.size() < 2 || path[0] != '/') return refuse("is no absolute path below /");
  if (path.size() > kMaxGuestPath) return refuse("is too long");
  if (path.find_first_of(std::string_view(",:\\\0", 4)) != std::string_view::npos) {
    return refuse("may not hold a comma, a colon, a backslash or a zero byte");
  }
  const std::vector<std::string> parts =
      absl::StrSplit(absl::string_view(path.data() + 1, path.size() - 1), '/');
  for (const std::string& part : parts) {
    if (part.empty() || part == "." || part == "..") {
      return refuse("may not hold an empty part, '.' or '..'");
    }
  }
  return absl::OkStatus();
}

bool PropertyQuery::Asks(std::string_view type) const {
  return std::find(property_types.begin(), property_types.end(), type) != property_types.end();
}

std::string Encode(const ContainerConfig& config) {
  json::object out{{"SchemaVersion", json::object{{"Major", config.schema_version.major},
                                                  {"Minor", config.schema_version.minor}}},
                   {"OciBundlePath", config.oci_bundle_path},
                   {"OciSpecification", Embedded(config.oci_specification)}};
  if (!config.scratch_dir_path.empty()) out["ScratchDirPath"] = config.scratch_dir_path;
  return json::serialize(out);
}

template <>
absl::StatusOr<ContainerConfig> Decode(std::string_view text) {
  const auto read = [](const FieldReader& in, ContainerConfig* out) {
    in.Required("SchemaVersion");
    in.Object("SchemaVersion", [out](const FieldReader& version) {
      out->schema_version = SchemaVersion{0, 0};
      version.U32("Major", &out->schema_version.major);
      version.U32("Minor", &out->schema_version.minor);
      const auto [major, minor] = out->schema_version;
      if (major < 2 || (major == 2 && minor < 1)) version.Complain("Major", "must be 2.1 or later");
    });
    ReadPath(in, "OciBundlePath", &out->oci_bundle_path);
    in.Required("OciSpecification");
    in.Object("OciSpecification", [](const FieldReader&) {});
    in.Raw("OciSpecification", &out->oci_specification);
    in.Text("ScratchDirPath", &out->scratch_dir_path);
    if (!out->scratch_dir_path.empty()) ReadPath(in, "ScratchDirPath", &out->scratch_dir_path);
  };
  return DecodeText<ContainerConfig>(text, "ContainerConfig", read);
}

std::string Encode(const MappedVirtualDisk& disk) {
  json::object out{{"MountPath", disk.mount_path},
                   {"Controller", disk.controller},
                   {"Lun", disk.lun},
                   {"ReadOnly", disk.read_only}};
  if (disk.ensure_filesystem) out["EnsureFilesystem"] = true;
  if (!disk.filesystem.empty()) out["Filesystem"] = disk.filesystem;
  if (!disk.options.empty()) out["Options"] = json::value_from(disk.options);
  return json::serialize(out);
}

template <>
absl::StatusOr<MappedVirtualDisk> Decode(std::string_view text) {
  const auto read = [](const FieldReader& in, MappedVirtualDisk* out) {
    ReadPath(in, "MountPath", &out->mount_path);
    ReadSlot(in, &out->controller, &out->lun);
    in.Bool("ReadOnly", &out->read_only);
    in.Bool("EnsureFilesystem", &out->ensure_filesystem);
    in.Text("Filesystem", &out->filesystem);
    in.TextList("Options", &out->options);
    // hcsshim's, and not to be passed over in silence.
    bool encrypted = false;
    bool block_device = false;
    uint32_t partition = 0;
    in.Bool("Encrypted", &encrypted);
    in.Bool("BlockDev", &block_device);
    in.U32("Partition", &partition);
    if (encrypted) in.Complain("Encrypted", "is not supported");
    if (block_device) in.Complain("BlockDev", "is not supported");
    if (partition != 0) in.Complain("Partition", "is not supported");
    if (in.Has("VerityInfo")) in.Complain("VerityInfo", "is not supported");
  };
  return DecodeText<MappedVirtualDisk>(text, kResourceMappedVirtualDisk, read);
}

std::string Encode(const MappedDirectory& directory) {
  return json::serialize(json::object{{"MountPath", directory.mount_path},
                                      {"ShareName", directory.share_name},
                                      {"ReadOnly", directory.read_only}});
}

template <>
absl::StatusOr<MappedDirectory> Decode(std::string_view text) {
  const auto read = [](const FieldReader& in, MappedDirectory* out) {
    ReadPath(in, "MountPath", &out->mount_path);
    in.Required("ShareName");
    in.Text("ShareName", &out->share_name);
    const bool fits = !out->share_name.empty() && out->share_name.size() <= kMaxShareName &&
                      std::all_of(out->share_name.begin(), out->share_name.end(),
                                  [](char c) { return absl::ascii_isgraph(c); });
    if (!fits) in.Complain("ShareName", "must have 1 to 36 visible characters");
    in.Bool("ReadOnly", &out->read_only);
    // hcsshim's, whose folders come over 9p on a vsock port.
    uint32_t port = 0;
    in.U32("Port", &port);
    if (port != 0) in.Complain("Port", "is not supported");
  };
  return DecodeText<MappedDirectory>(text, kResourceMappedDirectory, read);
}

std::string Encode(const ScsiDevice& device) {
  return json::serialize(json::object{{"Controller", device.controller}, {"Lun", device.lun}});
}

template <>
absl::StatusOr<ScsiDevice> Decode(std::string_view text) {
  const auto read = [](const FieldReader& in, ScsiDevice* out) {
    ReadSlot(in, &out->controller, &out->lun);
  };
  return DecodeText<ScsiDevice>(text, kResourceScsiDevice, read);
}

std::string Encode(const CombinedLayers& layers) {
  json::array list;
  for (const CombinedLayers::Layer& layer : layers.layers) {
    list.push_back(json::object{{"Id", layer.id}, {"Path", layer.path}});
  }
  json::object out{{"ContainerRootPath", layers.container_root_path}, {"Layers", std::move(list)}};
  if (!layers.scratch_path.empty()) out["ScratchPath"] = layers.scratch_path;
  return json::serialize(out);
}

template <>
absl::StatusOr<CombinedLayers> Decode(std::string_view text) {
  const auto read = [](const FieldReader& in, CombinedLayers* out) {
    ReadPath(in, "ContainerRootPath", &out->container_root_path);
    in.ObjectList("Layers", [out](const FieldReader& entry) {
      CombinedLayers::Layer layer;
      entry.Text("Id", &layer.id);
      ReadPath(entry, "Path", &layer.path);
      out->layers.push_back(std::move(layer));
    });
    if (out->layers.size() > kMaxLayers) in.Complain("Layers", "has more than 64 entries");
    in.Text("ScratchPath", &out->scratch_path);
    if (!out->scratch_path.empty()) ReadPath(in, "ScratchPath", &out->scratch_path);
  };
  return DecodeText<CombinedLayers>(text, kResourceCombinedLayers, read);
}

std::string Encode(const ContainerConstraints& constraints) {
  return json::serialize(json::object{{"Linux", Embedded(constraints.linux_resources)}});
}

template <>
absl::StatusOr<ContainerConstraints> Decode(std::string_view text) {
  const auto read = [](const FieldReader& in, ContainerConstraints* out) {
    in.Required("Linux");
    in.Object("Linux", [](const FieldReader&) {});
    in.Raw("Linux", &out->linux_resources);
  };
  return DecodeText<ContainerConstraints>(text, kResourceContainerConstraints, read);
}

std::string Encode(const PodCgroupMemoryLimit& limit) {
  return json::serialize(json::object{{"MemoryLimitInBytes", limit.memory_limit_in_bytes}});
}

template <>
absl::StatusOr<PodCgroupMemoryLimit> Decode(std::string_view text) {
  // hcsshim sends no settings at all.
  if (text.empty()) return PodCgroupMemoryLimit();
  const auto read = [](const FieldReader& in, PodCgroupMemoryLimit* out) {
    in.U64("MemoryLimitInBytes", &out->memory_limit_in_bytes);
  };
  return DecodeText<PodCgroupMemoryLimit>(text, kResourcePodCgroupMemoryLimit, read);
}

std::string Encode(const PropertyQuery& query) {
  return json::serialize(json::object{{"PropertyTypes", json::value_from(query.property_types)}});
}

template <>
absl::StatusOr<PropertyQuery> Decode(std::string_view text) {
  // No text asks for nothing.
  if (text.empty()) return PropertyQuery();
  const auto read = [](const FieldReader& in, PropertyQuery* out) {
    in.TextList("PropertyTypes", &out->property_types);
  };
  return DecodeText<PropertyQuery>(text, "Query", read);
}

}  // namespace ferry::bridge
