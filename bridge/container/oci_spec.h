#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "bridge/container/user_names.h"
#include "bridge/protocol/messages.h"

// What the agent must know of, and change in, the OCI specifications that the host sends. No I/O.
namespace ferry::bridge {

// All containers' cgroups lie in this one.
inline constexpr char kContainersCgroup[] = "/containers";
std::string ContainerCgroup(std::string_view id);

struct SpecFacts {
  bool terminal = false;   // the init has one
  std::string sandbox_id;  // the pod's sandbox container, empty: none, or it is the sandbox
  std::string root;        // absolute, or relative to the bundle
  std::string user_name;   // process.user.username; empty: the numbers are meant
  std::string hostname;
  bool read_only = false;    // its root
  bool own_network = false;  // otherwise it has the VM's, or its sandbox's
};

// INVALID_ARGUMENT if the text is no specification that the agent can run.
absl::StatusOr<SpecFacts> ReadSpec(const std::string& specification);

// Files that stand for the namespaces of a pod's sandbox.
struct NamespacePaths {
  std::string network;
  std::string ipc;
  std::string uts;
  std::string pid;
};

// The specification as crun gets it for container `id`: with its cgroup, without what is meant for
// Windows, and, if it is in a pod (`sandbox` is not nullptr), with the sandbox's namespaces (the
// pid namespace only if the specification has one with a path).
absl::StatusOr<std::string> CompleteSpec(const std::string& specification, const std::string& id,
                                         const NamespacePaths* sandbox);

struct ExecProcess {
  std::string json;  // an OCI process as crun gets it
  bool terminal = false;
  std::string user_name;  // as in SpecFacts
};

// The process of an exec. It has a terminal if the request or the OCI process says so; the
// console's size is the request's. INVALID_ARGUMENT if it cannot be run, or with a size beyond a
// terminal's.
absl::StatusOr<ExecProcess> CompleteProcess(const ProcessParameters& parameters);

// A specification, or the process of an exec, with `user` in place of the user's name. HOME is set
// if the environment has none; groups that were asked for by their numbers stay. Root has the
// capabilities of the bounding set, unless others are given.
absl::StatusOr<std::string> SetSpecUser(const std::string& specification, const ResolvedUser& user);
absl::StatusOr<std::string> SetProcessUser(const std::string& process, const ResolvedUser& user);

}  // namespace ferry::bridge
