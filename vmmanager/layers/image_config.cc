#include "vmmanager/layers/image_config.h"

#include <boost/json/value_from.hpp>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/layers/archive_reader.h"
#include "vmmanager/layers/byte_source.h"
#include "vmmanager/layers/json_reader.h"

namespace ferry::layers {

absl::StatusOr<OciConfig> ParseOciConfig(absl::string_view json) {
  ASSIGN_OR_RETURN(const auto document, ParseObject(json, "the image's configuration"));
  ASSIGN_OR_RETURN(const auto inner, ObjectAt(document, "config"));
  OciConfig parsed;
  ImageConfig& config = parsed.config;
  ASSIGN_OR_RETURN(config.architecture, StringAt(document, "architecture"));
  ASSIGN_OR_RETURN(config.os, StringAt(document, "os"));
  ASSIGN_OR_RETURN(config.entrypoint, StringsAt(inner, "Entrypoint"));
  ASSIGN_OR_RETURN(config.cmd, StringsAt(inner, "Cmd"));
  ASSIGN_OR_RETURN(config.env, StringsAt(inner, "Env"));
  ASSIGN_OR_RETURN(config.working_dir, StringAt(inner, "WorkingDir"));
  ASSIGN_OR_RETURN(config.user, StringAt(inner, "User"));
  ASSIGN_OR_RETURN(config.stop_signal, StringAt(inner, "StopSignal"));
  ASSIGN_OR_RETURN(config.labels, StringMapAt(inner, "Labels"));
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
  return {{"entrypoint", boost::json::value_from(config.entrypoint)},
          {"cmd", boost::json::value_from(config.cmd)},
          {"env", boost::json::value_from(config.env)},
          {"working_dir", config.working_dir},
          {"user", config.user},
          {"stop_signal", config.stop_signal},
          {"labels", boost::json::value_from(config.labels)},
          {"architecture", config.architecture},
          {"os", config.os}};
}

absl::StatusOr<ImageConfig> ConfigFromJson(const boost::json::object& json) {
  ImageConfig config;
  ASSIGN_OR_RETURN(config.entrypoint, StringsAt(json, "entrypoint"));
  ASSIGN_OR_RETURN(config.cmd, StringsAt(json, "cmd"));
  ASSIGN_OR_RETURN(config.env, StringsAt(json, "env"));
  ASSIGN_OR_RETURN(config.working_dir, StringAt(json, "working_dir"));
  ASSIGN_OR_RETURN(config.user, StringAt(json, "user"));
  ASSIGN_OR_RETURN(config.stop_signal, StringAt(json, "stop_signal"));
  ASSIGN_OR_RETURN(config.labels, StringMapAt(json, "labels"));
  ASSIGN_OR_RETURN(config.architecture, StringAt(json, "architecture"));
  ASSIGN_OR_RETURN(config.os, StringAt(json, "os"));
  return config;
}

}  // namespace ferry::layers
