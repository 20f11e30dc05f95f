#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "ferry/v1/container.pb.h"
#include "vmmanager/layers/image_config.h"

// What a container's runtime is told, from what its image and whoever wants it say. No I/O.
namespace ferry::vm {

// As docker does it: an entry point of its own takes the place of the image's and of the image's
// arguments; a command takes the place of the arguments alone. An entry point of one empty word is
// none. INVALID_ARGUMENT if nothing is left to run.
absl::StatusOr<std::vector<std::string>> ContainerArguments(const v1::ContainerSpec& spec,
                                                            const layers::ImageConfig& image);

// What the container has without anybody's doing, then the image's, then its own; of one name the
// last counts. INVALID_ARGUMENT for an entry that is not NAME=value.
absl::StatusOr<std::vector<std::string>> ContainerEnvironment(const v1::ContainerSpec& spec,
                                                              const layers::ImageConfig& image,
                                                              const std::string& hostname);

struct OciInputs {
  std::string id;
  std::string root_path;   // in the guest
  std::string sandbox_id;  // the container whose namespaces it shares; empty: none
  const v1::ContainerSpec* spec = nullptr;
  const layers::ImageConfig* image = nullptr;
};

// The OCI runtime specification as JSON. INVALID_ARGUMENT for what cannot be run.
absl::StatusOr<std::string> MakeOciSpecification(const OciInputs& inputs);

// The number of the signal that asks a container to end: "SIGINT", "INT" or "2"; SIGTERM for what
// is not known.
uint32_t StopSignal(const std::string& name);

}  // namespace ferry::vm
