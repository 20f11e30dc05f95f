#pragma once

#include <sys/types.h>

#include "absl/status/statusor.h"
#include "bridge/container/oci_spec.h"
#include "bridge/runtime/unique_fd.h"

namespace ferry::bridge {

// The namespaces of a pod's sandbox, held open: its init may end at any time and its number may be
// another process's a moment later, these stay what they are.
class SandboxNamespaces {
 public:
  // The namespaces of a process that nobody else collects. FAILED_PRECONDITION if it has ended.
  static absl::StatusOr<SandboxNamespaces> Open(pid_t init);

  // For programs in this process's pid namespace, as long as this object is there.
  NamespacePaths paths() const;

 private:
  UniqueFd network_;
  UniqueFd ipc_;
  UniqueFd uts_;
  UniqueFd pid_;
};

}  // namespace ferry::bridge
