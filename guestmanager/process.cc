#include "guestmanager/process.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace ferry::guest {

absl::StatusOr<ProcessState> StateToCarry(const Process& process) {
  ProcessState state = process.migration_state();
  if (state.exit_status || state.wait_call_id != 0) return state;
  const std::string name = absl::StrCat("process ", process.pid(), " (",
                                        absl::StrJoin(process.spec().command, " "), ")");
  const bool bridged = state.stdin_port != 0 || state.stdout_port != 0 || state.stderr_port != 0;
  if (!bridged) {
    return absl::FailedPreconditionError(
        absl::StrCat(name, " has no bridge to the guest and can't be carried over"));
  }
  return absl::FailedPreconditionError(
      absl::StrCat(name, " has no pending wait and can't be carried over; try again when the ",
                   "guest's agent is connected"));
}

absl::StatusOr<KeptOutput> Process::ReadKept(Stream, uint64_t, size_t) const {
  return NothingKept();
}

}  // namespace ferry::guest
