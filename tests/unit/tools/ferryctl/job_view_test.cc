#include "tools/ferryctl/job_view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <string>
#include <vector>

#include "tools/ferryctl/exit_codes.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/rpc/job_error.h"

namespace ferry::ctl {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

v1::Job Running() {
  v1::Job job;
  job.set_id("0123456789ab");
  job.set_kind(v1::JOB_KIND_SAVE);
  job.set_vm_id("id-1");
  job.set_vm_name("web");
  job.set_what("to /b/web.ferry");
  job.set_state(v1::JOB_STATE_RUNNING);
  job.set_started_unix_ms(1000);
  job.mutable_progress()->set_done(uint64_t{64} << 20);
  job.mutable_progress()->set_total(uint64_t{256} << 20);
  job.mutable_progress()->set_unit(v1::JOB_UNIT_BYTES);
  job.mutable_progress()->set_phase("writing memory");
  job.set_cancellable(true);
  return job;
}

v1::Job Ended(const absl::Status& status, v1::JobState state = v1::JOB_STATE_FAILED) {
  v1::Job job = Running();
  job.set_state(status.ok() ? v1::JOB_STATE_DONE : state);
  job.set_ended_unix_ms(2000);
  if (!status.ok()) *job.mutable_error() = rpc::ToJobError(status);
  return job;
}

TEST(JobViewTest, AListShowsWhereEachIs) {
  v1::ListJobsResponse list;
  *list.add_jobs() = Running();
  *list.add_jobs() = Ended(absl::OkStatus());
  v1::Job import;
  import.set_id("i");
  import.set_kind(v1::JOB_KIND_IMPORT);
  import.set_state(v1::JOB_STATE_RUNNING);
  import.mutable_progress()->set_phase("storing");
  *list.add_jobs() = import;
  EXPECT_EQ(JobTable(list),
            "ID             KIND     VM    STATE     PROGRESS   STARTED                WHAT\n"
            "0123456789ab   save     web   running   25%        1970-01-01T00:00:01Z   "
            "to /b/web.ferry\n"
            "0123456789ab   save     web   done      -          1970-01-01T00:00:01Z   "
            "to /b/web.ferry\n"
            "i              import   -     running   storing    -                      -\n");
}

TEST(JobViewTest, ProgressSaysWhatIsKnown) {
  v1::Job job = Running();
  EXPECT_EQ(JobProgressLine(job), "writing memory: 64.0 MiB of 256 MiB (25%)");
  job.set_state(v1::JOB_STATE_CANCELLING);
  EXPECT_THAT(JobProgressLine(job), HasSubstr("being cancelled"));
  job = Running();
  job.mutable_progress()->set_total(0);
  EXPECT_EQ(JobProgressLine(job), "writing memory: 64.0 MiB");
  job.mutable_progress()->set_unit(v1::JOB_UNIT_LAYERS);
  job.mutable_progress()->set_done(2);
  job.mutable_progress()->set_total(3);
  EXPECT_EQ(JobProgressLine(job), "writing memory: 2 of 3 (66%)");
  job.clear_progress();
  EXPECT_EQ(JobProgressLine(job), "");
}

TEST(JobViewTest, DetailsSayWhetherItCanBeCancelledAndHowItEnded) {
  v1::Job job = Running();
  EXPECT_THAT(JobDetails(job), HasSubstr("Can be cancelled: yes\n"));
  job.set_cancellable(false);
  job.set_why_not_cancellable("it is almost there");
  EXPECT_THAT(JobDetails(job), HasSubstr("no: it is almost there\n"));
  const std::string failed = JobDetails(Ended(
      rpc::ErrorWithReason(absl::StatusCode::kResourceExhausted, "no room", "full", "Make some.")));
  EXPECT_THAT(failed, HasSubstr("no room\n"));
  EXPECT_THAT(failed, HasSubstr("Make some.\n"));
  EXPECT_THAT(failed, Not(HasSubstr("cancelled")));
  // Names come from elsewhere.
  job.set_what("\x1b[2J");
  EXPECT_THAT(JobDetails(job), Not(HasSubstr("\x1b")));
}

TEST(JobViewTest, TheExitStatusIsTheJobsEnd) {
  EXPECT_EQ(ExitCodeFor(Ended(absl::OkStatus())), kOk);
  EXPECT_EQ(ExitCodeFor(Ended(absl::CancelledError("c"), v1::JOB_STATE_CANCELLED)), kCancelled);
  EXPECT_EQ(ExitCodeFor(Ended(absl::AbortedError("a"))), kInternal);
  EXPECT_EQ(ExitCodeFor(Ended(absl::ResourceExhaustedError("full"))), kRefused);
  EXPECT_EQ(ExitCodeFor(Ended(rpc::ErrorWithReason(absl::StatusCode::kFailedPrecondition, "no",
                                                   "restore_refused"))),
            kRestoreRefused);
  // That is said of daemons that do not answer.
  EXPECT_EQ(ExitCodeFor(Ended(absl::UnavailableError("u"))), kInternal);

  v1::Job moved = Ended(absl::AbortedError("lost"));
  moved.set_kind(v1::JOB_KIND_MIGRATION);
  EXPECT_EQ(ExitCodeFor(moved), kMigrationFailed);
  moved.mutable_error()->mutable_info()->set_vm_location("nowhere");
  EXPECT_EQ(ExitCodeFor(moved), kNeedsPerson);
  moved.mutable_error()->mutable_info()->set_vm_location("in doubt");
  EXPECT_EQ(ExitCodeFor(moved), kNeedsPerson);
  v1::Job late = Ended(absl::DeadlineExceededError("late"), v1::JOB_STATE_CANCELLED);
  late.set_kind(v1::JOB_KIND_MIGRATION);
  EXPECT_EQ(ExitCodeFor(late), kTimedOut);
}

// What the view prints of these.
std::string Shown(JobViewMode mode, const std::vector<v1::Job>& jobs) {
  std::FILE* out = std::tmpfile();
  JobProgressView view(mode, out);
  for (const v1::Job& job : jobs) view.Show(job);
  view.Clear();
  std::string text(static_cast<size_t>(std::ftell(out)), '\0');
  std::rewind(out);
  EXPECT_EQ(std::fread(text.data(), 1, text.size(), out), text.size());
  std::fclose(out);
  return text;
}

TEST(JobViewTest, ATerminalGetsOneLineThatIsRewritten) {
  v1::Job half = Running();
  half.mutable_progress()->set_done(uint64_t{128} << 20);
  EXPECT_EQ(Shown(JobViewMode::kTerminal, {Running(), half, Ended(absl::OkStatus())}),
            "\r\x1b[Kwriting memory: 64.0 MiB of 256 MiB (25%)"
            "\r\x1b[Kwriting memory: 128 MiB of 256 MiB (50%)\r\x1b[K");
}

TEST(JobViewTest, APipeGetsAPlainLineNowAndThenAndForEachPhase) {
  v1::Job next = Running();
  next.clear_progress();
  next.mutable_progress()->set_phase("making the file whole");
  EXPECT_EQ(Shown(JobViewMode::kPipe, {Running(), Running(), next, Ended(absl::OkStatus())}),
            "writing memory: 64.0 MiB of 256 MiB (25%)\nmaking the file whole\n");
}

TEST(JobViewTest, TheLastWordsSayWhatBecameOfIt) {
  v1::Job done = Ended(absl::OkStatus());
  done.set_result("saved in /b/web.ferry");
  EXPECT_EQ(JobEndText(done, "unix:/s"), "The save of VM web is done: saved in /b/web.ferry.\n");
  EXPECT_EQ(JobEndText(Ended(absl::CancelledError("c"), v1::JOB_STATE_CANCELLED), "unix:/s"),
            "The save of VM web was cancelled.\n");
  const std::string failed = JobEndText(
      Ended(rpc::ErrorWithReason(absl::StatusCode::kUnavailable, "no room", "full", "Make some.")),
      "unix:/s");
  EXPECT_THAT(failed, HasSubstr("Error: the save of VM web failed: no room\n"));
  EXPECT_THAT(failed, HasSubstr("Make some."));
  v1::Job import;
  import.set_kind(v1::JOB_KIND_IMPORT);
  import.set_what("image web");
  EXPECT_EQ(JobTitle(import), "import of image web");
}

}  // namespace
}  // namespace ferry::ctl
