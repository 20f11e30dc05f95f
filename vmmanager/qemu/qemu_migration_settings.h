#pragma once

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "vmmanager/backend/compute_system.h"
#include "vmmanager/qemu/qemu_capabilities.h"
#include "vmmanager/schema/migration.h"

// From HCS's migration options to QEMU's capabilities and parameters, as pure data.
namespace ferry::vm {

// How the downtime limit of a run develops. QEMU stops the guest as soon as it expects to send the
// rest within the limit and then spends all of it, so it starts small: as small as can be until the
// target of passes. A guest that is nearly idle fits into that after one or two short passes more;
// for others each costs no more time than the limit itself if the rest would have fitted into it.
// After kPatientPasses more without convergence every further pass adds half of the first limit, up
// to the ceiling; after the maximum of passes the switchover is forced.
struct DowntimePolicy {
  uint32_t first_ms = 20;
  uint32_t ceiling_ms = 200;
  uint32_t target_passes = 4;   // 0 and 1: the first pass may be the last
  uint32_t maximum_passes = 0;  // 0: never forced

  // The limit that holds when `pass` begins; passes count from 1. QEMU looks at it at their ends.
  uint32_t LimitAt(uint64_t pass) const;
  bool ForcesAt(uint64_t pass) const { return maximum_passes > 0 && pass > maximum_passes; }
};
inline constexpr uint64_t kPatientPasses = 5;
inline constexpr uint32_t kForcedDowntimeMs = 2'000'000;  // the most that QEMU takes

// How QEMU slows the guest down (auto-converge). It begins with `initial` percent when a pass has
// ended in which too much was dirtied, and adds `increment` each time that this goes on. QEMU lets
// nobody turn this on in the middle of a run, so until the first pass that may be throttled the
// most is 1 percent, the least that QEMU knows.
struct ThrottlePolicy {
  uint32_t initial = 20;
  uint32_t increment = 10;
  uint32_t first_pass = 1;

  struct Steps {
    uint32_t initial = 0;
    uint32_t increment = 0;
    uint32_t most = 0;
    bool operator==(const Steps&) const = default;
  };
  // What holds when `pass` begins with the guest slowed down by `now` percent.
  Steps StepsAt(uint64_t pass, uint32_t now) const;
};
// nullopt: the guest is never slowed down.
std::optional<ThrottlePolicy> ThrottlePolicyOf(const schema::MigrationInitializeOptions& options);

DowntimePolicy DowntimePolicyOf(const schema::MigrationInitializeOptions& options);

// FAILED_PRECONDITION, naming the option that this QEMU cannot do.
absl::Status CheckSupported(const schema::MigrationInitializeOptions& options,
                            const QemuCapabilities& qemu);

// Whether the stream has several channels (multifd).
bool HasSeveralChannels(const schema::MigrationInitializeOptions& options);

// Arguments of migrate-set-capabilities and migrate-set-parameters. Every capability and parameter
// that Ferry ever sets is named each time, so that no job inherits another one's.
boost::json::object CapabilitiesFor(const schema::MigrationInitializeOptions& options,
                                    const QemuCapabilities& qemu);
boost::json::object ParametersFor(const schema::MigrationInitializeOptions& options);
// Those that change in the middle of a run: what holds when `pass` begins with the guest slowed
// down by `throttle` percent.
boost::json::object ParametersAt(const schema::MigrationInitializeOptions& options, uint64_t pass,
                                 uint32_t throttle);

// Parameters that the stream's receiving end needs. With them it announces no network card by
// itself when it has taken the stream.
boost::json::object IncomingParametersFor(const schema::MigrationInitializeOptions& options);
// Capabilities of a QEMU that nobody has set up yet.
boost::json::object NoCapabilities(const QemuCapabilities& qemu);

// Capabilities for a job that is not a migration (save), and after each job.
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
