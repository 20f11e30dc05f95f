#include "vmmanager/sandbox/agent_refusal.h"

#include "bridge/protocol/run_failure.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::vm {

absl::Status ToCaller(const absl::Status& refusal) {
  const std::optional<bridge::RunFailure> failure = bridge::RunFailureOf(refusal);
  if (!failure.has_value() && absl::IsUnknown(refusal)) {
    return rpc::ErrorWithReason(
        refusal.code(), refusal.message(), "guest_failed",
        "What the guest's kernel warned of, if of anything, is in the log of this host's ferryd.");
  }
  if (!failure.has_value()) return refusal;
  const bool absent = *failure == bridge::RunFailure::kNoProgram;
  return rpc::ErrorWithReason(
      refusal.code(), refusal.message(), absent ? "no_program" : "cannot_run",
      absent ? "Name a program that the image has, by its path or as one of its PATH."
             : "Check that the file may be executed, and was made for this kind of CPU.");
}

}  // namespace ferry::vm
