#include "vmmanager/jobs/job_registry.h"

#include <gmock/gmock.h>

#include "absl/strings/str_cat.h"
#include "tests/unit/bridge/task_test.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/rpc/job_error.h"
#include "vmmanager/store/fake_store.h"

namespace ferry::vm {
namespace {

using ::testing::HasSubstr;

// A daemon's registry; its work waits for `go_on_` and then ends with `end_`.
class JobRegistryTest : public TaskTest {
 protected:
  JobRegistryTest() { Open(); }
  void TearDown() override {
    go_on_.Set();
    Settle();
    Await(jobs_->Close());
    Await(events_.Close());
    Settle();
  }

  void Open() { jobs_ = std::make_unique<JobRegistry>(io_.get_executor(), store_, events_); }
  // As if the daemon had died and another one were started on its state.
  void Restart(JobRegistry::Verdict verdict = [](const v1::Job&) { return std::nullopt; }) {
    former_.push_back(std::move(jobs_));
    Await(former_.back()->Close());
    Open();
    ASSERT_TRUE(Await(jobs_->Load(std::move(verdict))).ok());
    Settle();
  }

  JobWork Work() {
    return [this](std::shared_ptr<Job> job) -> Task<absl::Status> {
      job_ = job;
      co_await go_on_.Wait();
      job->SetResult("a result");
      co_return end_;
    };
  }
  Pending<absl::Status> Run() {
    Pending<absl::Status> pending =
        Begin(jobs_->Run({v1::JOB_KIND_SAVE, "id", "web", "to a file"}, Work()));
    Until([this] { return job_.lock() != nullptr; });
    return pending;
  }
  v1::Job Only() {
    const std::vector<v1::Job> all = jobs_->ListJobs();
    EXPECT_EQ(all.size(), 1u);
    return all.empty() ? v1::Job() : all.front();
  }
  v1::Job Stored() {
    const auto rows = Await(store_.ListJobs());
    v1::Job job;
    EXPECT_EQ(rows->size(), 1u);
    EXPECT_TRUE(!rows->empty() && job.ParseFromString(rows->front().job_bytes));
    return job;
  }
  std::vector<std::string> Events() {
    Settle();
    std::vector<std::string> told;
    const auto events = Await(events_.Read(0, 1000, false));
    for (const EventRow& event : *events) {
      std::string text = event.type;
      for (const auto& [name, value] : event.attributes) {
        absl::StrAppend(&text, " ", name, "=", value);
      }
      told.push_back(std::move(text));
    }
    return told;
  }

  FakeStore store_;
  EventLog events_{io_.get_executor(), store_};
  std::unique_ptr<JobRegistry> jobs_;
  std::vector<std::unique_ptr<JobRegistry>> former_;
  AsyncEvent go_on_{io_.get_executor()};
  absl::Status end_;
  std::weak_ptr<Job> job_;
};

TEST_F(JobRegistryTest, WorkIsAJobFromItsBeginningToItsEnd) {
  auto running = Run();
  EXPECT_EQ(Only().state(), v1::JOB_STATE_RUNNING);
  EXPECT_EQ(Stored().state(), v1::JOB_STATE_RUNNING);
  v1::JobProgress progress;
  progress.set_done(3);
  job_.lock()->SetProgress(progress);
  EXPECT_EQ(Only().progress().done(), 3u);
  go_on_.Set();
  EXPECT_TRUE(Finish(running).ok());
  EXPECT_EQ(Only().state(), v1::JOB_STATE_DONE);
  EXPECT_EQ(Only().result(), "a result");
  // Whoever was answered may kill the daemon.
  EXPECT_EQ(Stored().state(), v1::JOB_STATE_DONE);
  EXPECT_THAT(Events(), testing::ElementsAre("job.started kind=save vm=web what=to a file",
                                             "job.ended kind=save vm=web state=done error="));
}

TEST_F(JobRegistryTest, WhatFailsIsToldAsItFailed) {
  end_ = absl::AbortedError("it broke");
  go_on_.Set();
  JobWork work = Work();
  EXPECT_EQ(Await(jobs_->Run({v1::JOB_KIND_SAVE}, work)), end_);
  EXPECT_EQ(Stored().state(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(rpc::FromJobError(Stored().error()), end_);
}

TEST_F(JobRegistryTest, AJobWhoseWorkIsDroppedHasFailed) {
  {
    TaskScope scope(io_.get_executor());
    auto run = [](JobRegistry* jobs, JobWork work) -> Task<void> {
      JobDescription about{v1::JOB_KIND_IMPORT};
      const absl::Status ignored = co_await jobs->Run(std::move(about), std::move(work));
      ignored.IgnoreError();
    };
    scope.Spawn(run(jobs_.get(), Work()));
    Until([this] { return job_.lock() != nullptr; });
    Await(scope.CancelAndJoin());
  }
  Settle();
  EXPECT_EQ(Stored().state(), v1::JOB_STATE_FAILED);
  EXPECT_THAT(Stored().error().message(), HasSubstr("broken off"));
}

TEST_F(JobRegistryTest, ItIsCancelledOnlyWhereItSaysSo) {
  end_ = absl::CancelledError("as asked");
  auto running = Run();
  const std::string id = job_.lock()->id();
  EXPECT_EQ(Await(jobs_->CancelJob(id)).code(), absl::StatusCode::kFailedPrecondition);
  job_.lock()->ForbidCancel("it is almost there");
  EXPECT_THAT(Await(jobs_->CancelJob(id)).message(), HasSubstr("it is almost there"));
  int asked = 0;
  job_.lock()->AllowCancel([&asked] {
    return ++asked == 1 ? absl::FailedPreconditionError("not just now") : absl::OkStatus();
  });
  EXPECT_THAT(Await(jobs_->CancelJob(id)).message(), HasSubstr("cancelled: not just now"));
  EXPECT_EQ(Only().state(), v1::JOB_STATE_RUNNING);
  for (int time = 0; time < 2; ++time) {
    EXPECT_TRUE(Await(jobs_->CancelJob(id)).ok());
    EXPECT_EQ(Only().state(), v1::JOB_STATE_CANCELLING);
  }
  EXPECT_EQ(asked, 2);
  go_on_.Set();
  EXPECT_EQ(Finish(running), end_);
  EXPECT_EQ(Stored().state(), v1::JOB_STATE_CANCELLED);
  EXPECT_EQ(Await(jobs_->CancelJob(id)).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Await(jobs_->CancelJob("nobody")).code(), absl::StatusCode::kNotFound);
}

TEST_F(JobRegistryTest, OnesThatHaveEndedOutliveTheDaemonUntilTheyAreDismissed) {
  auto running = Run();
  const std::string id = job_.lock()->id();
  EXPECT_EQ(Await(jobs_->DismissJob(id)).code(), absl::StatusCode::kFailedPrecondition);
  go_on_.Set();
  EXPECT_TRUE(Finish(running).ok());
  Restart();
  EXPECT_EQ(Only().id(), id);
  EXPECT_EQ(Only().result(), "a result");
  store_.FailNext(absl::ResourceExhaustedError("the disk is full"));
  EXPECT_EQ(Await(jobs_->DismissJob(id)).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Only().id(), id);
  EXPECT_TRUE(Await(jobs_->DismissJob(id)).ok());
  EXPECT_EQ(Await(jobs_->DismissJob(id)).code(), absl::StatusCode::kNotFound);
  Restart();
  EXPECT_TRUE(jobs_->ListJobs().empty());
}

TEST_F(JobRegistryTest, HowFarOneHadComeOutlivesTheDaemon) {
  auto running = Run();
  v1::JobProgress progress;
  progress.set_phase("writing memory");
  progress.set_total(1000);
  for (const uint64_t done : {0, 1, 399, 400, 401}) {
    progress.set_done(done);
    job_.lock()->SetProgress(progress);
    Settle();
  }
  // A tenth is written down, what is between two of them is not.
  EXPECT_EQ(Stored().progress().done(), 400u);
  EXPECT_EQ(Only().progress().done(), 401u);
  Restart();
  EXPECT_EQ(Only().state(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(Only().progress().done(), 400u);
  EXPECT_EQ(Only().progress().phase(), "writing memory");
  EXPECT_EQ(Stored().progress().done(), 400u);
  go_on_.Set();
  Finish(running).IgnoreError();
}

TEST_F(JobRegistryTest, OneThatADaemonLeftUnderWayHasFailed) {
  auto running = Run();
  Restart();
  EXPECT_EQ(Only().state(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(Only().error().message(), "ferryd ended while it ran");
  EXPECT_EQ(Only().error().info().reason(), "daemon_ended");
  EXPECT_GT(Only().ended_unix_ms(), 0u);
  // That is written down, and not judged again.
  Restart([](const v1::Job&) { return std::optional<std::string>("never asked"); });
  EXPECT_EQ(Only().state(), v1::JOB_STATE_FAILED);
  // What the former daemon did in the end is not told any more.
  go_on_.Set();
  Finish(running).IgnoreError();
  Settle();
  EXPECT_EQ(Stored().state(), v1::JOB_STATE_FAILED);
}

TEST_F(JobRegistryTest, WhoeverKnowsBetterSaysWhatBecameOfIt) {
  auto running = Run();
  Restart(
      [](const v1::Job& job) { return std::optional(absl::StrCat(job.vm_name(), " is saved")); });
  EXPECT_EQ(Stored().state(), v1::JOB_STATE_DONE);
  EXPECT_EQ(Only().result(), "web is saved");
}

TEST_F(JobRegistryTest, AFullDiskKeepsNothingFromBeingDone) {
  store_.FailNext(absl::ResourceExhaustedError("the disk is full"));
  go_on_.Set();
  JobWork work = Work();
  EXPECT_TRUE(Await(jobs_->Run({v1::JOB_KIND_SAVE}, work)).ok());
  EXPECT_EQ(Only().state(), v1::JOB_STATE_DONE);
}

TEST_F(JobRegistryTest, WhatCannotBeReadIsLeftOut) {
  ASSERT_TRUE(Await(store_.PutJob({"odd", 1, "\xff\xff"})).ok());
  Restart();
  EXPECT_TRUE(jobs_->ListJobs().empty());
}

TEST_F(JobRegistryTest, OnlyTheNewestAreKept) {
  go_on_.Set();
  JobWork work = Work();
  for (size_t i = 0; i < kJobsKept + 3; ++i) {
    EXPECT_TRUE(Await(jobs_->Run({v1::JOB_KIND_SAVE}, work)).ok());
  }
  Settle();
  EXPECT_EQ(jobs_->ListJobs().size(), kJobsKept);
  EXPECT_EQ(Await(store_.ListJobs())->size(), kJobsKept);
}

TEST_F(JobRegistryTest, AWatcherIsWokenByEachChangeAndLetGoWhenTheDaemonStops) {
  auto running = Run();
  const std::string id = job_.lock()->id();
  const uint64_t first = jobs_->FindJob(id)->version;
  auto change = Begin(jobs_->AwaitChange(id, first));
  auto other = Begin(jobs_->AwaitChange(id, first));
  Settle();
  EXPECT_FALSE(change->has_value());
  job_.lock()->SetPhase("writing");
  EXPECT_TRUE(Finish(change).ok());
  EXPECT_TRUE(Finish(other).ok());
  EXPECT_TRUE(Await(jobs_->AwaitChange(id, first)).ok());
  auto last = Begin(jobs_->AwaitChange(id, jobs_->FindJob(id)->version));
  Settle();
  Await(jobs_->Close());
  EXPECT_EQ(Finish(last).code(), absl::StatusCode::kUnavailable);
}

TEST_F(JobRegistryTest, AJobMayOutliveItsRegistryAndWorkNeedsNone) {
  auto running = Run();
  const std::shared_ptr<Job> job = job_.lock();
  former_.push_back(std::move(jobs_));
  former_.clear();
  job->SetPhase("nobody hears that");
  job->ForbidCancel("nor that");
  Open();
  end_ = absl::AbortedError("no");
  go_on_.Set();
  JobWork work = Work();
  EXPECT_EQ(Await(RunAsJob(nullptr, {}, work)), end_);
  EXPECT_TRUE(jobs_->ListJobs().empty());
}

}  // namespace
}  // namespace ferry::vm
