#include "vmmanager/saving/saving_jobs.h"

#include "tests/unit/vmmanager/saving/saving_fixture.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/rpc/job_error.h"

namespace ferry::vm {
namespace {

class SavingJobsTest : public SavingTest {
 protected:
  SavingJobsTest() {
    saves_ = std::make_unique<SavedStates>(
        *host_.inventory, nullptr, digests_,
        SavedStatesOptions{
            .folder = folder_.path() + "/saved", .socket_folder = folder_.path(), .jobs = &jobs_});
  }
  void TearDown() override {
    Await(jobs_.Close());
    SavingTest::TearDown();
  }

  v1::Job Newest(v1::JobKind kind) {
    v1::Job newest;
    for (const v1::Job& job : jobs_.ListJobs()) {
      if (job.kind() == kind && job.started_unix_ms() >= newest.started_unix_ms()) newest = job;
    }
    return newest;
  }
  JobRegistry jobs_{io_.get_executor(), host_.store, host_.events};
};

TEST_F(SavingJobsTest, ASaveAndARestoreAreJobs) {
  auto vm = Boot();
  ASSERT_TRUE(Save(vm).ok());
  const v1::Job save = Newest(v1::JOB_KIND_SAVE);
  EXPECT_EQ(save.state(), v1::JOB_STATE_DONE);
  EXPECT_EQ(save.vm_id(), vm->id());
  EXPECT_EQ(save.vm_name(), "web");
  EXPECT_EQ(save.result(), "saved in " + FileOf(*vm));
  const std::string file = FileOf(*vm);
  ASSERT_TRUE(Start(vm).ok());
  const v1::Job restore = Newest(v1::JOB_KIND_RESTORE);
  EXPECT_EQ(restore.state(), v1::JOB_STATE_DONE);
  EXPECT_EQ(restore.what(), "from " + file);
  EXPECT_EQ(restore.progress().unit(), v1::JOB_UNIT_BYTES);
  EXPECT_GT(restore.progress().total(), 0u);
}

TEST_F(SavingJobsTest, ASaveTellsHowMuchThereIsToWrite) {
  auto vm = Boot();
  host_.backend.script().Block("Save");
  auto saving = Begin(saves_->Save(vm, v1::SaveVmRequest()));
  Await(host_.backend.script().WaitBlocked("Save"));
  const v1::Job running = Newest(v1::JOB_KIND_SAVE);
  EXPECT_EQ(running.state(), v1::JOB_STATE_RUNNING);
  EXPECT_EQ(running.progress().total(), vm->spec().memory_mb() << 20);
  EXPECT_EQ(running.progress().unit(), v1::JOB_UNIT_BYTES);
  EXPECT_TRUE(running.cancellable());
  host_.backend.script().Release("Save");
  EXPECT_TRUE(Finish(saving).ok());
}

TEST_F(SavingJobsTest, ASaveThatIsCalledOffLeavesNothingAndTheVmRunsOn) {
  auto vm = Boot();
  host_.backend.script().Block("Save");
  auto saving = Begin(saves_->Save(vm, v1::SaveVmRequest()));
  Await(host_.backend.script().WaitBlocked("Save"));
  EXPECT_TRUE(Await(jobs_.CancelJob(Newest(v1::JOB_KIND_SAVE).id())).ok());
  host_.backend.script().Release("Save");
  EXPECT_EQ(Finish(saving).code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  EXPECT_TRUE(host_.System(*vm)->Step());
  EXPECT_EQ(FilesOf(*vm), 0u);
  EXPECT_EQ(Newest(v1::JOB_KIND_SAVE).state(), v1::JOB_STATE_CANCELLED);
  EXPECT_TRUE(Save(vm).ok());
}

TEST_F(SavingJobsTest, ARestoreThatIsCalledOffLeavesTheVmSaved) {
  auto vm = Boot();
  EXPECT_TRUE(host_.System(*vm)->Step(3));
  ASSERT_TRUE(Save(vm).ok());
  Pending<absl::Status> cancelling;
  host_.at_point = [&](const std::string& point) {
    if (point != "RESTORE.listening") return;
    EXPECT_TRUE(Newest(v1::JOB_KIND_RESTORE).cancellable());
    cancelling = Begin(jobs_.CancelJob(Newest(v1::JOB_KIND_RESTORE).id()));
    Settle();
  };
  EXPECT_EQ(Start(vm).status().code(), absl::StatusCode::kCancelled);
  host_.at_point = [](const std::string&) {};
  EXPECT_TRUE(Finish(cancelling).ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_SAVED);
  EXPECT_EQ(vm->system(), nullptr);
  EXPECT_EQ(Newest(v1::JOB_KIND_RESTORE).state(), v1::JOB_STATE_CANCELLED);
  ASSERT_TRUE(Start(vm).ok());
  EXPECT_EQ(host_.System(*vm)->counter(), 3u);
}

TEST_F(SavingJobsTest, ACancelledSaveIsNoReasonToShutDown) {
  auto vm = Boot();
  host_.backend.script().Block("Save");
  v1::StopVmRequest stop;
  stop.set_save(true);
  stop.set_or_shutdown(true);
  auto stopping = Begin(saves_->Stop(vm, stop, milliseconds(60'000)));
  Await(host_.backend.script().WaitBlocked("Save"));
  EXPECT_TRUE(Await(jobs_.CancelJob(Newest(v1::JOB_KIND_SAVE).id())).ok());
  host_.backend.script().Release("Save");
  EXPECT_EQ(Finish(stopping).status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  EXPECT_TRUE(host_.System(*vm)->Step());
}

TEST_F(SavingJobsTest, WhatAGuestPrintsBreaksNoJob) {
  auto vm = Boot();
  host_.backend.script().FailNext("Save", absl::AbortedError("last console output: \xff"));
  EXPECT_FALSE(Save(vm).ok());
  const v1::Job failed = Newest(v1::JOB_KIND_SAVE);
  v1::Job copy;
  EXPECT_TRUE(copy.ParseFromString(failed.SerializeAsString()));
  EXPECT_EQ(failed.error().message().find('\xff'), std::string::npos);
}

TEST_F(SavingJobsTest, ASaveThatFailsIsAJobThatFailed) {
  auto vm = Boot();
  host_.backend.script().FailNext("Save", absl::AbortedError("no"));
  const absl::Status failed = Save(vm);
  EXPECT_EQ(failed.code(), absl::StatusCode::kAborted);
  EXPECT_EQ(Newest(v1::JOB_KIND_SAVE).state(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(rpc::FromJobError(Newest(v1::JOB_KIND_SAVE).error()), failed);
  // What is refused before it begins is no job.
  const size_t before = jobs_.ListJobs().size();
  EXPECT_FALSE(Save(vm, "relative").ok());
  EXPECT_EQ(jobs_.ListJobs().size(), before);
}

}  // namespace
}  // namespace ferry::vm
