#include "vmmanager/sandbox/wrong_state.h"

#include "absl/strings/substitute.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::vm {
namespace {

struct Row {
  v1::VmState state;
  absl::string_view operation;  // empty: any other
  absl::string_view next_step;  // $0: the VM, $1: the session
};

// The first row that fits counts.
constexpr Row kRows[] = {
    {v1::VM_STATE_STOPPED, "", "Start it first: ferryctl start $0"},
    {v1::VM_STATE_STARTING, "",
     "Wait until it has started (ferryctl vm inspect $0 tells), and try again."},
    {v1::VM_STATE_RUNNING, "deleted",
     "Stop it first (ferryctl stop $0), or use ferryctl vm delete --force $0"},
    {v1::VM_STATE_RUNNING, "restored",
     "To go back to what is in a file, end it first, and lose what it did since: ferryctl stop "
     "--no-save $0"},
    {v1::VM_STATE_RUNNING, "",
     "See what ails it with ferryctl vm inspect $0; ferryctl restart --force $0 boots it anew."},
    {v1::VM_STATE_PAUSED, "stopped",
     "Resume it first (ferryctl vm resume $0), or end it with ferryctl stop --force $0"},
    {v1::VM_STATE_PAUSED, "deleted",
     "End it first (ferryctl stop --force $0), or use ferryctl vm delete --force $0"},
    {v1::VM_STATE_PAUSED, "restored",
     "To go back to what is in a file, end it first, and lose what it did since: ferryctl stop "
     "--force $0"},
    {v1::VM_STATE_PAUSED, "", "Resume it: ferryctl vm resume $0"},
    {v1::VM_STATE_STOPPING, "",
     "Wait until it has stopped (ferryctl vm inspect $0 tells), then start it: ferryctl start $0"},
    {v1::VM_STATE_SAVED, "deleted",
     "Start it (ferryctl start $0), or discard what was saved: ferryctl vm delete --force $0"},
    {v1::VM_STATE_SAVED, "restarted",
     "Let it go on (ferryctl start $0), or boot it and lose what was saved: ferryctl start "
     "--discard-saved $0"},
    {v1::VM_STATE_SAVED, "", "Let it go on first: ferryctl start $0"},
    {v1::VM_STATE_SAVING, "",
     "Wait until it is saved (ferryctl vm inspect $0 tells), then start it: ferryctl start $0"},
    {v1::VM_STATE_RESTORING, "",
     "Wait until it runs (ferryctl vm inspect $0 tells), and try again."},
    {v1::VM_STATE_FAILED, "",
     "See why, and what it said last, with ferryctl vm inspect $0; then start it again (ferryctl "
     "start $0) or delete it (ferryctl vm delete $0)."},
    {v1::VM_STATE_MIGRATING_OUT, "",
     "Wait for the migration (ferryctl migration watch $1), or call it off (ferryctl migration "
     "cancel $1)."},
    {v1::VM_STATE_INCOMING, "",
     "Go on at its source until the migration is done (ferryctl migration watch $1)."},
    {v1::VM_STATE_IN_DOUBT, "",
     "Wait for the outcome (ferryctl migration watch $1). If the other host is lost for good, "
     "ferryctl migration recover $1 says what can be done."},
};

}  // namespace

std::string StateName(v1::VmState state) {
  return v1::VmState_Name(state).substr(sizeof("VM_STATE_") - 1);
}

std::string NextStep(const VmInState& vm, absl::string_view operation) {
  for (const Row& row : kRows) {
    if (row.state != vm.state || (!row.operation.empty() && row.operation != operation)) continue;
    return absl::Substitute(row.next_step, vm.name, vm.session);
  }
  return "";
}

absl::Status WrongState(const VmInState& vm, absl::string_view operation,
                        absl::string_view message) {
  return rpc::ErrorWithReason(absl::StatusCode::kFailedPrecondition, message, "wrong_state",
                              NextStep(vm, operation));
}

}  // namespace ferry::vm
