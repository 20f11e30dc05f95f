#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "ferry/v1/container.pb.h"
#include "ferry/v1/guest.pb.h"
#include "vmmanager/containers/vm_shares.h"
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
  std::vector<SharedMount> mounts;
  const layers::ImageConfig* image = nullptr;
};

// Both as JSON.
struct OciTexts {
  std::string specification;  // OCI's runtime specification
  std::string process;        // what it says of the init
};
// INVALID_ARGUMENT for what cannot be run.
absl::StatusOr<OciTexts> MakeOciSpecification(const OciInputs& inputs);

// OCI's "process" for another process of the container: its own arguments, in what the init has
// around it unless it says something else. INVALID_ARGUMENT for what cannot be run.
absl::StatusOr<std::string> MakeExecProcess(const std::string& init_process,
                                            const v1::ProcessSpec& spec);
// The arguments in OCI's "process"; empty if there are none.
std::vector<std::string> ArgumentsOf(const std::string& oci_process);

// The number of the signal that asks a container to end: "SIGINT", "INT" or "2"; SIGTERM for what
// is not known.
uint32_t StopSignal(const std::string& name);

}  // namespace ferry::vm
