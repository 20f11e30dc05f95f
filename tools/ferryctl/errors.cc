#include "tools/ferryctl/errors.h"

#include "absl/strings/str_cat.h"
#include "tools/ferryctl/exit_codes.h"
#include "tools/ferryctl/output.h"
#include "tools/ferryctl/preflight_view.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::ctl {
namespace {

bool InDoubt(absl::string_view location) { return location == "in doubt"; }

// For statuses without a next step of their own.
std::string DefaultNextStep(const absl::Status& status, absl::string_view host) {
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
      return absl::StrCat("Check that ferryd runs at ", host,
                          " and that you may use it; --host or FERRY_HOST name another.");
    case absl::StatusCode::kDeadlineExceeded:
      return absl::StrCat("The daemon at ", host,
                          " may still be at work; look with ferryctl list.");
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
      return "Check --tls-ca, --tls-cert and --tls-key.";
    case absl::StatusCode::kUnimplemented:
      return absl::StrCat("The daemon at ", host, " does not offer this; it may be older.");
    default:
      return "";
  }
}

}  // namespace

std::string ErrorText(absl::string_view doing, const absl::Status& status, absl::string_view host) {
  const v1::ErrorInfo info = rpc::GetErrorInfo(status).value_or(v1::ErrorInfo());
  std::string text;
  if (status.code() == absl::StatusCode::kUnavailable && info.reason().empty()) {
    text = absl::StrCat("Error: ", doing, " failed: no answer from ", host, "\n");
    if (!status.message().empty()) absl::StrAppend(&text, "  Cause:    ", status.message(), "\n");
  } else {
    text = absl::StrCat("Error: ", doing, " failed: ",
                        status.message().empty() ? absl::StatusCodeToString(status.code())
                                                 : PrintableLines(status.message()),
                        "\n");
  }
  if (!info.phase().empty()) {
    absl::StrAppend(&text, "  In step:  ", info.phase());
    if (info.side() == v1::ErrorInfo::SIDE_SOURCE) absl::StrAppend(&text, " (source)");
    if (info.side() == v1::ErrorInfo::SIDE_DESTINATION) absl::StrAppend(&text, " (destination)");
    absl::StrAppend(&text, "\n");
  }
  if (InDoubt(info.vm_location())) {
    absl::StrAppend(&text, "  VM:       paused until it is proved which host runs it\n");
  } else if (info.vm_location() == "nowhere") {
    absl::StrAppend(&text, "  VM:       not running on any host\n");
  } else if (!info.vm_location().empty()) {
    absl::StrAppend(&text, "  VM:       runs on ", info.vm_location(), "\n");
  }
  if (!info.session_id().empty()) absl::StrAppend(&text, "  Session:  ", info.session_id(), "\n");
  std::string next = info.next_step();
  const bool answered = !info.reason().empty();
  if (next.empty() && !(answered && absl::IsUnavailable(status))) {
    next = DefaultNextStep(status, host);
  }
  if (!next.empty()) absl::StrAppend(&text, "  Next:     ", next, "\n");
  absl::StrAppend(&text, DifferenceTable(info.differences()));
  return text;
}

int ExitCodeFor(const absl::Status& status) {
  const v1::ErrorInfo info = rpc::GetErrorInfo(status).value_or(v1::ErrorInfo());
  if (InDoubt(info.vm_location())) return kNeedsPerson;
  if (info.reason() == "restore_refused") return kRestoreRefused;
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return kOk;
    case absl::StatusCode::kInvalidArgument:
      return kUsage;
    case absl::StatusCode::kUnavailable:
      // With a reason it is the daemon's answer about another host, not its absence.
      return info.reason().empty() ? kUnreachable : kRefused;
    case absl::StatusCode::kDeadlineExceeded:
      return kTimedOut;
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kUnimplemented:
      return kRefused;
    case absl::StatusCode::kCancelled:
      return kCancelled;
    default:
      return kInternal;
  }
}

bool Moved(const v1::Session& session) {
  // A session is finalized as well when the VM was given back to its source; then it says why.
  return session.state() == v1::SESSION_STATE_FINALIZED &&
         (session.error().empty() || session.vm_location() == session.destination());
}

int ExitCodeFor(const v1::Session& session) {
  if (InDoubt(session.vm_location())) return kNeedsPerson;
  if (Moved(session)) return kOk;
  if (session.vm_location() == "nowhere") return kNeedsPerson;
  // Called off by its own limits, not by a person.
  for (const char* limit : {"timed_out", "blackout_threshold_exceeded", "not_converging",
                            "transfer_stalled", "deadline_exceeded"}) {
    if (session.reason() == limit) return kTimedOut;
  }
  return session.outcome() == v1::SESSION_OUTCOME_CANCELLED ? kCancelled : kMigrationFailed;
}

}  // namespace ferry::ctl
