#include "vmmanager/sandbox/agent_wait.h"

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/sandbox/wrong_state.h"

namespace ferry::vm {

absl::Status AgentAway(const UtilityVm& vm, const std::string& what) {
  return rpc::ErrorWithReason(
      absl::StatusCode::kDeadlineExceeded,
      absl::StrCat("the agent of VM ", vm.name(), " ", what, "; the VM runs"), "agent_away",
      absl::StrCat("Try again, or end the VM: ferryctl stop --force ", vm.name()));
}

Task<absl::StatusOr<std::shared_ptr<guest::Guest>>> ReadyGuest(std::shared_ptr<UtilityVm> vm,
                                                               milliseconds limit) {
  CO_ASSIGN_OR_RETURN(const std::shared_ptr<guest::Guest> guest, co_await vm->UsableGuest());
  if (vm->paused_by_user()) {
    co_return WrongState({vm->name(), v1::VM_STATE_PAUSED, ""}, "used",
                         absl::StrCat("VM ", vm->name(), " is paused"));
  }
  const absl::Status ready = co_await WithDeadline(limit, "the guest's agent", guest->WaitReady());
  if (ready.ok()) co_return guest;
  if (!absl::IsDeadlineExceeded(ready)) co_return ready;
  co_return AgentAway(
      *vm, absl::StrCat("is not connected and did not come back within ", limit.count(), " ms"));
}

}  // namespace ferry::vm
