#include "vmmanager/layers/image_config.h"

#include <boost/json/value_from.hpp>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/layers/archive_reader.h"
#include "vmmanager/layers/byte_source.h"
#include "vmmanager/layers/json_reader.h"

namespace ferry::layers {

namespace {

// The fields of a configuration, with their names in OCI's document and in Ferry's. First those
// that lie in its "config".
template <typename Config, typename Visit>
absl::Status ForEachInnerField(Config& config, Visit visit) {
  RETURN_IF_ERROR(visit("Entrypoint", "entrypoint", config.entrypoint));
  RETURN_IF_ERROR(visit("Cmd", "cmd", config.cmd));
  RETURN_IF_ERROR(visit("Env", "env", config.env));
  RETURN_IF_ERROR(visit("WorkingDir", "working_dir", config.working_dir));
  RETURN_IF_ERROR(visit("User", "user", config.user));
  RETURN_IF_ERROR(visit("StopSignal", "stop_signal", config.stop_signal));
  return visit("Labels", "labels", config.labels);
}
template <typename Config, typename Visit>
absl::Status ForEachOuterField(Config& config, Visit visit) {
  RETURN_IF_ERROR(visit("architecture", "architecture", config.architecture));
  return visit("os", "os", config.os);
}

absl::Status ReadField(const boost::json::object& json, const char* name, std::string* field) {
  ASSIGN_OR_RETURN(*field, StringAt(json, name));
  return absl::OkStatus();
}
absl::Status ReadField(const boost::json::object& json, const char* name,
                       std::vector<std::string>* field) {
  ASSIGN_OR_RETURN(*field, StringsAt(json, name));
  return absl::OkStatus();
}
absl::Status ReadField(const boost::json::object& json, const char* name,
                       std::map<std::string, std::string>* field) {
  ASSIGN_OR_RETURN(*field, StringMapAt(json, name));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<OciConfig> ParseOciConfig(absl::string_view json) {
  ASSIGN_OR_RETURN(const auto document, ParseObject(json, "the image's configuration"));
  ASSIGN_OR_RETURN(const auto inner, ObjectAt(document, "config"));
  OciConfig parsed;
  const auto read_from = [](const boost::json::object& object) {
    return [&object](const char* name, const char*, auto& field) {
      return ReadField(object, name, &field);
    };
  };
  RETURN_IF_ERROR(ForEachInnerField(parsed.config, read_from(inner)));
  RETURN_IF_ERROR(ForEachOuterField(parsed.config, read_from(document)));
  ASSIGN_OR_RETURN(const auto rootfs, ObjectAt(document, "rootfs"));
  ASSIGN_OR_RETURN(parsed.diff_ids, StringsAt(rootfs, "diff_ids"));
  for (const std::string& id : parsed.diff_ids) {
    if (!IsDigest(id)) {
      return absl::InvalidArgumentError(absl::StrCat("the image's configuration has the diff id \"",
                                                     Shown(id), "\", which is no SHA-256 digest"));
    }
  }
  return parsed;
}

boost::json::object ToJson(const ImageConfig& config) {
  boost::json::object json;
  const auto write = [&json](const char*, const char* name, const auto& field) {
    json[name] = boost::json::value_from(field);
    return absl::OkStatus();
  };
  ForEachInnerField(config, write).IgnoreError();
  ForEachOuterField(config, write).IgnoreError();
  return json;
}

absl::StatusOr<ImageConfig> ConfigFromJson(const boost::json::object& json) {
  ImageConfig config;
  const auto read = [&json](const char*, const char* name, auto& field) {
    return ReadField(json, name, &field);
  };
  RETURN_IF_ERROR(ForEachInnerField(config, read));
  RETURN_IF_ERROR(ForEachOuterField(config, read));
  return config;
}

}  // namespace ferry::layers
