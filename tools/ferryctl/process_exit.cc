#include "tools/ferryctl/process_exit.h"

#include "absl/strings/str_cat.h"
#include "tools/ferryctl/errors.h"
#include "tools/ferryctl/exit_codes.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::ctl {

int ExitCodeFor(const AttachOutcome& outcome) {
  if (outcome.exit_status) {
    switch (outcome.exit_status->kind_case()) {
      case v1::ExitStatus::kCode:
        return static_cast<int>(outcome.exit_status->code() & 0xff);
      case v1::ExitStatus::kSignal:
        return static_cast<int>(128 + (outcome.exit_status->signal() & 0x7f));
      default:
        return kExecFailed;
    }
  }
  if (outcome.left) return kOk;
  return outcome.signal != 0 ? 128 + outcome.signal : kExecFailed;
}

std::string OutcomeText(const AttachOutcome& outcome, const std::string& vm, uint32_t process) {
  if (outcome.exit_status) {
    const auto kind = outcome.exit_status->kind_case();
    if (kind == v1::ExitStatus::kCode || kind == v1::ExitStatus::kSignal) return "";
    return "Error: the process ended, but nobody held its exit status\n";
  }
  if (outcome.output_closed) return "";
  if (outcome.signal != 0 || outcome.left) {
    return absl::StrCat("Detached; the process goes on. Attach again with: ferryctl --host ",
                        outcome.address, " attach ", vm, " ", process, "\n");
  }
  return ErrorText(absl::StrCat("attaching to process ", process, " of VM ", vm), outcome.error,
                   outcome.address);
}

std::string ContainerOutcomeText(const AttachOutcome& outcome, const v1::Container& container) {
  const std::string& name = container.spec().name();
  if (outcome.exit_status) {
    const auto kind = outcome.exit_status->kind_case();
    if (kind == v1::ExitStatus::kCode || kind == v1::ExitStatus::kSignal) return "";
    return absl::StrCat("Error: container ", name, " ended, but nobody held its exit status\n");
  }
  if (outcome.output_closed) return "";
  if (outcome.signal != 0 || outcome.left) {
    return absl::StrCat("Detached; container ", name,
                        " goes on. Attach again with: ferryctl --host ", outcome.address,
                        " container attach ", name, "\n");
  }
  return ErrorText(absl::StrCat("attaching to container ", name), outcome.error, outcome.address);
}

int CommandFailureCode(const absl::Status& status) {
  const std::string reason = rpc::ReasonOf(status);
  if (reason == "no_program") return kNoProgram;
  return reason == "cannot_run" ? kCannotRun : kExecFailed;
}

}  // namespace ferry::ctl
