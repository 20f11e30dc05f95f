#pragma once

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <cstdint>
#include <string>

#include "vmmanager/backend/compute_system.h"
#include "vmmanager/qemu/qemu_capabilities.h"
#include "vmmanager/schema/migration.h"

// From HCS's migration options to QEMU's capabilities and parameters, as pure data.
namespace ferry::vm {

// How the downtime limit of a run develops. QEMU stops the guest as soon as it expects to send the
// rest within the limit and then spends all of it, so it starts small. After kPatientPasses passes
// without convergence every further pass adds half of the first limit, up to the ceiling; when the
// given maximum of passes is reached, the limit is lifted and the switchover forced.
struct DowntimePolicy {
  uint32_t first_ms = 20;
  uint32_t ceiling_ms = 200;
  uint32_t maximum_passes = 0;  // 0: never forced
  bool never_above_ceiling = false;

  // The limit that holds when `pass` begins; passes count from 1.
  uint32_t LimitAt(uint64_t pass) const;
};
inline constexpr uint64_t kPatientPasses = 5;

DowntimePolicy DowntimePolicyOf(const schema::MigrationInitializeOptions& options);

// Arguments of migrate-set-capabilities and migrate-set-parameters. Every capability that Ferry
// ever sets is named each time, on or off, so that no job inherits another one's.
boost::json::object CapabilitiesFor(const schema::MigrationInitializeOptions& options,
                                    const QemuCapabilities& qemu);
boost::json::object ParametersFor(const schema::MigrationInitializeOptions& options);

// The same for a job that is not a migration (save), and after each job.
boost::json::object PlainCapabilities(const QemuCapabilities& qemu);

// What query-migrate says.
struct MigrationReport {
  std::string status;
  std::string error;
  TransferProgress progress;
  boost::json::array blocked_reasons;
};
MigrationReport ParseMigrationReport(const boost::json::value& reply);

}  // namespace ferry::vm
