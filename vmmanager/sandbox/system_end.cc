#include "vmmanager/sandbox/system_end.h"

#include "absl/strings/str_cat.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/sandbox/wrong_state.h"

namespace ferry::vm {
namespace {

const char* CauseText(SystemExit::Cause cause) {
  switch (cause) {
    case SystemExit::Cause::kShutdown:
      return "shut down";
    case SystemExit::Cause::kReset:
      return "reset";
    case SystemExit::Cause::kPanic:
      return "panicked";
    case SystemExit::Cause::kTerminated:
      return "was stopped";
    case SystemExit::Cause::kCrashed:
      break;
  }
  return "ended unexpectedly";
}

}  // namespace

bool Failed(const SystemExit& exit) {
  return exit.cause == SystemExit::Cause::kCrashed || exit.cause == SystemExit::Cause::kPanic;
}

std::string ExitText(const SystemExit& exit) {
  const char* cause = CauseText(exit.cause);
  return exit.detail.empty() ? cause : absl::StrCat(cause, ": ", exit.detail);
}

std::string WithLastWords(const std::string& text, const SystemExit& exit) {
  return exit.last_words.empty() ? text : absl::StrCat(text, "\n", exit.last_words);
}

absl::Status VmEnded(const std::string& name, const SystemExit& exit) {
  const v1::VmState state = Failed(exit) ? v1::VM_STATE_FAILED : v1::VM_STATE_STOPPED;
  return rpc::ErrorWithReason(absl::StatusCode::kUnavailable,
                              absl::StrCat("VM ", name, " ", ExitText(exit)), "vm_ended",
                              NextStep({name, state, ""}, "used"));
}

absl::Status VmEndedAtBoot(const std::string& name, const SystemExit& exit) {
  const std::string text =
      absl::StrCat("VM ", name, " ", ExitText(exit), " before its agent was ready");
  return rpc::ErrorWithReason(
      absl::StatusCode::kUnavailable, WithLastWords(text, exit), "vm_ended_at_boot",
      absl::StrCat("Check the guest image; what it said last tells how far it came. Then start it "
                   "again: ferryctl start ",
                   name));
}

absl::Status AgentNotReady(const std::string& name, const absl::Status& timeout, bool ended,
                           const SystemExit& exit) {
  const std::string text = absl::StrCat("VM ", name, " did not get ready: ", timeout.message(),
                                        ended ? "; the VM was ended" : "");
  return rpc::ErrorWithReason(
      absl::StatusCode::kDeadlineExceeded, WithLastWords(text, exit), "agent_not_ready",
      absl::StrCat("Check the guest image; if it only needs longer, set ferryd's --boot-timeout. "
                   "Then start it again: ferryctl start ",
                   name));
}

}  // namespace ferry::vm
