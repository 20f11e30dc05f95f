// What became of the migrations of a QEMU that a former daemon has left.
#include "bridge/runtime/status_macros.h"
#include "vmmanager/qemu/qemu_migration.h"

namespace ferry::vm {

namespace json = boost::json;
using schema::SystemState;

// QEMU tells of a guest that once came and now stands still as of one that has just come.
Task<absl::Status> QemuMigration::ForgetArrival() {
  if (stage_ != Stage::kTransferred) {
    co_return absl::FailedPreconditionError(
        "the system takes a migration, and cannot be cancelled as a source");
  }
  machine_.OpenLink();
  stage_ = Stage::kNone;
  // It may have been told to run, and not have answered.
  CO_ASSIGN_OR_RETURN(const std::string run_state, co_await machine_.RunState());
  machine_.set_state(run_state == "running" ? SystemState::kRunning : SystemState::kPaused);
  co_return absl::OkStatus();
}

Task<absl::Status> QemuMigration::Recover() {
  CO_ASSIGN_OR_RETURN(const std::string run_state, co_await machine_.RunState());
  CO_ASSIGN_OR_RETURN(const json::value reply, co_await machine_.Command("query-migrate"));
  const MigrationReport report = ParseMigrationReport(reply);
  const std::string status = report.status;
  // QEMU writes a snapshot's memory as a migration does, and counts it as one; a destination has
  // sent nothing.
  const bool is_snapshot = report.progress.total_bytes > 0;
  // With a disk that failed it came so, or failed as soon as it went on.
  const bool stands_still = run_state == "paused" || run_state == "io-error";
  if (run_state == "inmigrate") {
    origin_ = Origin::kDestination;
    stage_ = Stage::kStarted;
  } else if (run_state == "postmigrate") {
    origin_ = Origin::kSource;
    stage_ = Stage::kTransferred;
    ran_before_ = true;
    status_ = status;
  } else if (stands_still && status == "completed" && !is_snapshot) {
    origin_ = Origin::kDestination;
    stage_ = Stage::kTransferred;
  } else if (status == "setup" || status == "active" || status == "pre-switchover" ||
             status == "device") {
    // Nobody drives this stream any more: Cancel is what can be done with it.
    origin_ = Origin::kSource;
    stage_ = Stage::kTransferring;
    ran_before_ = !stands_still;
    status_ = status;
  }
  co_return absl::OkStatus();
}

}  // namespace ferry::vm
