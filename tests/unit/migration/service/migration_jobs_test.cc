#include "migration/service/migration_jobs.h"

#include "tests/unit/migration/controller/controller_fixture.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/rpc/job_error.h"

namespace ferry::migration {
namespace {

class MigrationJobsTest : public ControllerTest {
 protected:
  v1::Job Only() {
    const std::vector<v1::Job> all = jobs_->ListJobs();
    EXPECT_EQ(all.size(), 1u);
    return all.empty() ? v1::Job() : all.front();
  }
  void SetUp() override {
    ControllerTest::SetUp();
    jobs_.emplace(*a_.sessions);
  }

  std::optional<MigrationJobs> jobs_;
};

TEST_F(MigrationJobsTest, AMigrationIsAJobOfItsSource) {
  auto vm = Boot();
  a_.host.backend.script().Block("Page");
  const std::string id = Migrate();
  Await(a_.host.backend.script().WaitBlocked("Page"));
  const v1::Job running = Only();
  EXPECT_EQ(running.id(), id);
  EXPECT_EQ(running.kind(), v1::JOB_KIND_MIGRATION);
  EXPECT_EQ(running.vm_id(), vm->id());
  EXPECT_EQ(running.vm_name(), "web");
  EXPECT_EQ(running.what(), "to host-b:1");
  EXPECT_EQ(running.state(), v1::JOB_STATE_RUNNING);
  EXPECT_TRUE(running.cancellable());
  EXPECT_TRUE(MigrationJobs(*b_.sessions).ListJobs().empty());
  EXPECT_FALSE(MigrationJobs(*b_.sessions).FindJob(id).has_value());

  auto change = Begin(jobs_->AwaitChange(id, jobs_->FindJob(id)->version));
  Settle();
  EXPECT_FALSE(change->has_value());
  a_.host.backend.script().Release("Page");
  EXPECT_TRUE(Finish(change).ok());
  Wait(a_, id);
  EXPECT_EQ(Only().state(), v1::JOB_STATE_DONE);
  EXPECT_EQ(Only().result(), "the VM runs on host-b:1");
  EXPECT_GT(Only().ended_unix_ms(), 0u);
  EXPECT_FALSE(Only().has_error());
  // Nothing changes any more, and nobody waits for it.
  EXPECT_TRUE(Await(jobs_->AwaitChange(id, jobs_->FindJob(id)->version)).ok());
}

TEST_F(MigrationJobsTest, ItIsCancelledAsOne) {
  auto vm = Boot();
  a_.host.backend.script().Block("Page");
  const std::string id = Migrate();
  Await(a_.host.backend.script().WaitBlocked("Page"));
  EXPECT_TRUE(Await(jobs_->CancelJob(id)).ok());
  a_.host.backend.script().Release("Page");
  Wait(a_, id);
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  EXPECT_EQ(Only().state(), v1::JOB_STATE_CANCELLED);
  const absl::Status why = rpc::FromJobError(Only().error());
  EXPECT_EQ(why.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(rpc::GetErrorInfo(why)->vm_location(), "host-a:1");
  EXPECT_EQ(Await(jobs_->CancelJob(id)).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Await(jobs_->CancelJob("nobody's")).code(), absl::StatusCode::kNotFound);
}

TEST_F(MigrationJobsTest, OnceItHasEndedItIsDismissed) {
  for (const bool is_record : {false, true}) {
    v1::MigrateRequest request = MigrateRequest();
    request.set_vm(is_record ? "other" : "web");
    Boot(request.vm());
    a_.host.backend.script().Block("Page");
    const std::string id = Migrate(request);
    Await(a_.host.backend.script().WaitBlocked("Page"));
    EXPECT_EQ(rpc::ReasonOf(Await(jobs_->DismissJob(id))), "job_running");
    a_.host.backend.script().Release("Page");
    Wait(a_, id);
    Settle();
    if (is_record) {
      ASSERT_TRUE(Await(a_.sessions->Cleanup(id)).ok());
    }
    a_.host.store.FailNext(absl::ResourceExhaustedError("no room"));
    EXPECT_TRUE(absl::IsResourceExhausted(Await(jobs_->DismissJob(id))));
    EXPECT_EQ(Only().id(), id);
    EXPECT_TRUE(Await(jobs_->DismissJob(id)).ok());
    EXPECT_TRUE(jobs_->ListJobs().empty());
    EXPECT_FALSE(jobs_->FindJob(id).has_value());
    EXPECT_TRUE(absl::IsNotFound(Await(jobs_->DismissJob(id))));
    // All else of it is kept, and it is no job of the next daemon's.
    SessionRegistry restarted(*a_.deps);
    ASSERT_TRUE(Await(restarted.Load(JournalTrust::kWhole)).ok());
    EXPECT_EQ(restarted.Describe(id)->outcome(), v1::SESSION_OUTCOME_SUCCEEDED);
    EXPECT_TRUE(MigrationJobs(restarted).ListJobs().empty());
  }
  EXPECT_TRUE(absl::IsNotFound(Await(jobs_->DismissJob("nobody's"))));
}

TEST(MigrationAsJobTest, SaysWhyItEndedAndWhetherItCanStillBeCalledOff) {
  v1::Session session;
  session.set_origin(v1::MIGRATION_ORIGIN_SOURCE);
  session.mutable_progress()->set_disk_total_bytes(400);
  session.mutable_progress()->set_disk_done_bytes(100);
  EXPECT_EQ(ToJob(session).progress().phase(), "copying disks");
  EXPECT_EQ(ToJob(session).progress().done(), 100u);
  EXPECT_EQ(ToJob(session).progress().total(), 400u);
  session.set_state(v1::SESSION_STATE_TRANSFERRING);
  session.mutable_progress()->set_total_bytes(100);
  session.mutable_progress()->set_remaining_bytes(30);
  session.mutable_progress()->set_pass(2);
  EXPECT_EQ(ToJob(session).progress().done(), 70u);
  EXPECT_THAT(ToJob(session).progress().phase(), HasSubstr("pass 2"));
  EXPECT_TRUE(ToJob(session).cancellable());
  session.set_commit_record("COMMIT");
  EXPECT_FALSE(ToJob(session).cancellable());
  EXPECT_THAT(ToJob(session).why_not_cancellable(), HasSubstr("handed over"));
  session.set_state(v1::SESSION_STATE_CANCELLING);
  EXPECT_EQ(ToJob(session).state(), v1::JOB_STATE_CANCELLING);

  session.set_done(true);
  session.set_outcome(v1::SESSION_OUTCOME_CANCELLED);
  session.set_reason("timed_out");
  session.set_error("it took too long");
  EXPECT_EQ(ToJob(session).state(), v1::JOB_STATE_CANCELLED);
  EXPECT_EQ(rpc::FromJobError(ToJob(session).error()).code(), absl::StatusCode::kDeadlineExceeded);
  session.set_outcome(v1::SESSION_OUTCOME_FAILED);
  session.set_reason("connection_lost");
  session.set_next_step("try again");
  const v1::Job failed = ToJob(session);
  EXPECT_EQ(failed.state(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(failed.error().message(), "it took too long");
  EXPECT_EQ(failed.error().info().reason(), "connection_lost");
  EXPECT_EQ(failed.error().info().next_step(), "try again");
}

}  // namespace
}  // namespace ferry::migration
