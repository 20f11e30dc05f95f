#pragma once

#include <set>
#include <string>

#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"

namespace ferry::vm {

// What a QEMU binary can do, as it says itself.
struct QemuCapabilities {
  std::string version;       // "7.2.22"
  std::string machine_type;  // what the alias q35 stands for, e.g. "pc-q35-7.2"
  std::set<std::string> machine_types;
  std::set<std::string> migration;  // migration capabilities
  std::set<std::string> devices;
  bool multifd_zstd = false;  // multifd can compress with zstd
  bool lean_machine = false;  // its machine type can do without what kLeanMachine leaves out

  bool can_migrate_with(const std::string& capability) const {
    return migration.contains(capability);
  }
};

// Asks `binary` over QMP. FAILED_PRECONDITION names what Ferry needs and it lacks.
Task<absl::StatusOr<QemuCapabilities>> ProbeCapabilities(std::string binary);

}  // namespace ferry::vm
