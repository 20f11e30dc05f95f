#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "bridge/protocol/messages.h"

// What the agent must know of, and change in, the OCI specifications that the host sends. No I/O.
namespace ferry::bridge {

// All containers' cgroups lie in this one.
inline constexpr char kContainersCgroup[] = "/containers";

struct SpecFacts {
  bool terminal = false;   // the init has one
  std::string sandbox_id;  // the pod's sandbox container, empty: none, or it is the sandbox
};

// INVALID_ARGUMENT if the text is no specification that the agent can run.
absl::StatusOr<SpecFacts> ReadSpec(const std::string& specification);

// The specification as crun gets it for container `id`: with its cgroup, without what is meant for
// Windows, and, in a pod, with the namespaces of the sandbox's init `sandbox_pid` (a pid namespace
// only if the specification has one with a path).
absl::StatusOr<std::string> CompleteSpec(const std::string& specification, const std::string& id,
                                         std::optional<pid_t> sandbox_pid);

// The OCI process of an exec as crun gets it: its terminal and console size are the request's.
absl::StatusOr<std::string> CompleteProcess(const ProcessParameters& parameters);

}  // namespace ferry::bridge
