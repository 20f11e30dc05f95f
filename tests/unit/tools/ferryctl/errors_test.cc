#include "tools/ferryctl/errors.h"

#include <gtest/gtest.h>

#include <csignal>

#include "tools/ferryctl/exit_codes.h"
#include "tools/ferryctl/process_exit.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::ctl {
namespace {

TEST(ErrorText, SaysWhatWhereAndWhatNext) {
  v1::ErrorInfo info;
  info.set_reason("fingerprint_mismatch");
  info.set_side(v1::ErrorInfo::SIDE_DESTINATION);
  info.set_phase("prepare");
  info.set_vm_location("host-a:7700");
  info.set_next_step("Use the same guest image on both hosts.");
  info.set_session_id("s-9");
  const absl::Status status =
      rpc::WithErrorInfo(absl::FailedPreconditionError("guest images differ"), info);
  EXPECT_EQ(ErrorText("migrating VM web", status, "unix:/x"),
            "Error: migrating VM web failed: guest images differ\n"
            "  In step:  prepare (destination)\n"
            "  VM:       runs on host-a:7700\n"
            "  Session:  s-9\n"
            "  Next:     Use the same guest image on both hosts.\n");
}

TEST(ErrorText, KeepsLinesAndTamesGuestText) {
  const absl::Status status = absl::DeadlineExceededError("no agent\nlast words: \x1b[2J\r\nend");
  const std::string text = ErrorText("starting VM web", status, "unix:/x");
  EXPECT_NE(text.find("failed: no agent\nlast words: ?[2J\nend\n  Next:"), std::string::npos)
      << text;
}

TEST(ErrorText, ItsOwnNextStepTakesTheDefaultsPlace) {
  const absl::Status late = absl::DeadlineExceededError("late");
  EXPECT_NE(ErrorText("starting VM web", late, "x").find("may still be at work"),
            std::string::npos);
  const absl::Status told = rpc::ErrorWithReason(late.code(), "late", "agent_not_ready", "Wait.");
  const std::string text = ErrorText("starting VM web", told, "x");
  EXPECT_NE(text.find("  Next:     Wait.\n"), std::string::npos) << text;
  EXPECT_EQ(text.find("may still be at work"), std::string::npos) << text;
}

TEST(ErrorText, AnAbsentDaemonIsNamed) {
  const std::string text =
      ErrorText("listing VMs", absl::UnavailableError("certificate expired"), "unix:/run/f.sock");
  EXPECT_NE(text.find("no answer from unix:/run/f.sock\n  Cause:    certificate expired\n"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("FERRY_HOST"), std::string::npos);
  EXPECT_EQ(ErrorText("listing VMs", absl::UnavailableError(""), "x").find("Cause"),
            std::string::npos);
}

TEST(ExitCodes, FollowTheStatus) {
  EXPECT_EQ(ExitCodeFor(absl::OkStatus()), kOk);
  EXPECT_EQ(ExitCodeFor(absl::InternalError("")), kInternal);
  EXPECT_EQ(ExitCodeFor(absl::InvalidArgumentError("")), kUsage);
  EXPECT_EQ(ExitCodeFor(absl::UnavailableError("")), kUnreachable);
  EXPECT_EQ(ExitCodeFor(absl::FailedPreconditionError("")), kRefused);
  EXPECT_EQ(ExitCodeFor(absl::NotFoundError("")), kRefused);
  EXPECT_EQ(ExitCodeFor(absl::DeadlineExceededError("")), kTimedOut);
  EXPECT_EQ(ExitCodeFor(rpc::ErrorWithReason(absl::StatusCode::kUnavailable, "b is away",
                                             "destination_unreachable")),
            kRefused);
  v1::ErrorInfo doubt;
  doubt.set_vm_location("in doubt");
  EXPECT_EQ(ExitCodeFor(rpc::WithErrorInfo(absl::AbortedError(""), doubt)), kNeedsPerson);
}

TEST(ExitCodes, TellARestoreThatWasRefused) {
  for (const auto code : {absl::StatusCode::kFailedPrecondition, absl::StatusCode::kDataLoss}) {
    EXPECT_EQ(ExitCodeFor(rpc::ErrorWithReason(code, "disk data changed", "restore_refused")),
              kRestoreRefused);
    EXPECT_NE(ExitCodeFor(rpc::ErrorWithReason(code, "disk data changed", "wrong_state")),
              kRestoreRefused);
  }
  EXPECT_EQ(kRestoreRefused, 9);
}

TEST(ExitCodes, FollowTheSession) {
  v1::Session session;
  session.set_source("host-a:1");
  session.set_destination("host-b:1");
  session.set_vm_location("host-b:1");
  session.set_state(v1::SESSION_STATE_FINALIZED);
  EXPECT_EQ(ExitCodeFor(session), kOk);
  // Finalized as well: the source took it back.
  session.set_vm_location("host-a:1");
  session.set_error("the destination cannot be reached");
  EXPECT_EQ(ExitCodeFor(session), kMigrationFailed);
  session.set_outcome(v1::SESSION_OUTCOME_CANCELLED);
  EXPECT_EQ(ExitCodeFor(session), kCancelled);
  session.set_outcome(v1::SESSION_OUTCOME_FAILED);
  EXPECT_EQ(ExitCodeFor(session), kMigrationFailed);
  session.set_error("cancelled, says a text that decides nothing");
  EXPECT_EQ(ExitCodeFor(session), kMigrationFailed);
  session.set_reason("transfer_stalled");
  EXPECT_EQ(ExitCodeFor(session), kTimedOut);
  session.set_reason("deadline_exceeded");
  EXPECT_EQ(ExitCodeFor(session), kTimedOut);
  session.set_vm_location("in doubt");
  EXPECT_EQ(ExitCodeFor(session), kNeedsPerson);
}

TEST(ExitCodes, OfAttachedProcesses) {
  AttachOutcome outcome;
  outcome.exit_status.emplace().set_code(42);
  EXPECT_EQ(ExitCodeFor(outcome), 42);
  EXPECT_EQ(OutcomeText(outcome, "web", 7), "");
  outcome.exit_status.emplace().set_signal(9);
  EXPECT_EQ(ExitCodeFor(outcome), 137);
  outcome.exit_status.emplace().set_unknown(true);
  EXPECT_EQ(ExitCodeFor(outcome), kExecFailed);
  outcome.exit_status.reset();
  outcome.signal = SIGINT;
  EXPECT_EQ(ExitCodeFor(outcome), 130);
  EXPECT_NE(OutcomeText(outcome, "web", 7).find("attach web 7"), std::string::npos);
  outcome.signal = 0;
  outcome.error = absl::UnavailableError("gone");
  EXPECT_EQ(ExitCodeFor(outcome), kExecFailed);
}

}  // namespace
}  // namespace ferry::ctl
