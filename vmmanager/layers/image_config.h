#pragma once

#include <boost/json/object.hpp>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace ferry::layers {

// How an image's containers run unless they are told otherwise.
struct ImageConfig {
  std::vector<std::string> entrypoint;
  std::vector<std::string> cmd;
  std::vector<std::string> env;  // "NAME=value"
  std::string working_dir;
  std::string user;         // "name", "uid", "uid:gid", ...
  std::string stop_signal;  // "SIGTERM", ...; empty: the usual one
  std::map<std::string, std::string> labels;
  std::string architecture;  // "amd64"; empty: not known
  std::string os;            // "linux"; empty: not known

  bool operator==(const ImageConfig&) const = default;
};

// An OCI image configuration (or docker's, which is the same in this), with what its layers unpack
// to. INVALID_ARGUMENT if it is none.
struct OciConfig {
  ImageConfig config;
  std::vector<std::string> diff_ids;
};
absl::StatusOr<OciConfig> ParseOciConfig(absl::string_view json);

// As Ferry keeps it.
boost::json::object ToJson(const ImageConfig& config);
absl::StatusOr<ImageConfig> ConfigFromJson(const boost::json::object& json);

}  // namespace ferry::layers
