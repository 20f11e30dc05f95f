#include "vmmanager/jobs/job_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/rpc/job_error.h"

namespace ferry::vm {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class JobTableTest : public testing::Test {
 protected:
  JobTableTest() { table_.Begin("j", {v1::JOB_KIND_SAVE, "id", "web", "to a file"}, 5); }

  const v1::Job& Job(const std::string& id = "j") { return table_.Find(id)->job; }

  JobTable table_;
};

TEST_F(JobTableTest, OneThatBeginsRuns) {
  EXPECT_EQ(Job().state(), v1::JOB_STATE_RUNNING);
  EXPECT_EQ(Job().kind(), v1::JOB_KIND_SAVE);
  EXPECT_EQ(Job().vm_id(), "id");
  EXPECT_EQ(Job().vm_name(), "web");
  EXPECT_EQ(Job().what(), "to a file");
  EXPECT_EQ(Job().started_unix_ms(), 5u);
  EXPECT_FALSE(Job().cancellable());
  EXPECT_FALSE(HasEnded(Job()));
}

TEST_F(JobTableTest, EveryChangeHasAVersionOfItsOwn) {
  v1::JobProgress progress;
  progress.set_done(7);
  const uint64_t first = table_.Find("j")->version;
  EXPECT_TRUE(table_.SetProgress("j", progress));
  EXPECT_EQ(Job().progress().done(), 7u);
  const uint64_t second = table_.Find("j")->version;
  EXPECT_NE(first, second);
  EXPECT_FALSE(table_.SetProgress("j", progress));
  EXPECT_EQ(table_.Find("j")->version, second);
  EXPECT_TRUE(table_.SetCancellable("j", ""));
  EXPECT_FALSE(table_.SetCancellable("j", ""));
  EXPECT_TRUE(table_.Finish("j", absl::OkStatus(), "", 9));
  EXPECT_NE(table_.Find("j")->version, second);
  EXPECT_FALSE(table_.SetProgress("nobody", progress));
}

TEST_F(JobTableTest, HowItEndsIsToldByItsStatusAndWhetherItWasAskedTo) {
  struct Case {
    bool asked;
    absl::Status status;
    v1::JobState state;
  };
  for (const Case& c : {Case{false, absl::OkStatus(), v1::JOB_STATE_DONE},
                        Case{false, absl::AbortedError("no"), v1::JOB_STATE_FAILED},
                        Case{false, absl::CancelledError("gone"), v1::JOB_STATE_FAILED},
                        Case{true, absl::OkStatus(), v1::JOB_STATE_DONE},
                        Case{true, absl::AbortedError("no"), v1::JOB_STATE_FAILED},
                        Case{true, absl::CancelledError("asked"), v1::JOB_STATE_CANCELLED}}) {
    JobTable table;
    table.Begin("j", {}, 1);
    EXPECT_EQ(table.SetCancelling("j", c.asked), c.asked);
    EXPECT_TRUE(table.Finish("j", c.status, "a result", 9));
    const v1::Job& job = table.Find("j")->job;
    EXPECT_EQ(job.state(), c.state) << c.status;
    EXPECT_EQ(job.ended_unix_ms(), 9u);
    EXPECT_EQ(job.result(), c.status.ok() ? "a result" : "");
    EXPECT_EQ(rpc::FromJobError(job.error()), c.status);
  }
}

TEST_F(JobTableTest, WhatHasEndedStaysAsItIs) {
  EXPECT_TRUE(table_.Finish("j", absl::OkStatus(), "a result", 9));
  const std::string before = Job().SerializeAsString();
  v1::JobProgress progress;
  progress.set_done(7);
  EXPECT_FALSE(table_.SetProgress("j", progress));
  EXPECT_FALSE(table_.SetCancellable("j", ""));
  EXPECT_FALSE(table_.SetCancelling("j", true));
  EXPECT_FALSE(table_.Finish("j", absl::AbortedError("late"), "", 10));
  EXPECT_EQ(Job().SerializeAsString(), before);
  const absl::Status cancel = table_.CheckCancel("j");
  EXPECT_EQ(cancel.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(cancel.message(), HasSubstr("is done"));
}

TEST_F(JobTableTest, AnErrorIsKeptWithItsReasonAndWhatToDo) {
  const absl::Status failed = rpc::ErrorWithReason(absl::StatusCode::kResourceExhausted, "no room",
                                                   "disk_full", "Make some.");
  table_.Finish("j", failed, "", 9);
  const absl::Status kept = rpc::FromJobError(Job().error());
  EXPECT_EQ(kept.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(rpc::ReasonOf(kept), "disk_full");
  EXPECT_EQ(rpc::NextStepOf(kept), "Make some.");
  v1::JobError odd;
  odd.set_code(99);
  EXPECT_EQ(rpc::FromJobError(odd).code(), absl::StatusCode::kUnknown);
}

TEST_F(JobTableTest, WhatCannotBeCancelledSaysWhy) {
  table_.SetCancellable("j", "it is almost there");
  const absl::Status refused = table_.CheckCancel("j");
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(refused.message(), HasSubstr("it is almost there"));
  table_.SetCancellable("j", "");
  EXPECT_TRUE(table_.CheckCancel("j").ok());
  EXPECT_EQ(table_.CheckCancel("nobody").code(), absl::StatusCode::kNotFound);
}

TEST_F(JobTableTest, OnlyWhatHasEndedIsDismissed) {
  EXPECT_EQ(table_.CheckDismiss("nobody").code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(table_.CheckDismiss("j").code(), absl::StatusCode::kFailedPrecondition);
  table_.SetCancelling("j", true);
  EXPECT_EQ(table_.CheckDismiss("j").code(), absl::StatusCode::kFailedPrecondition);
  table_.Finish("j", absl::OkStatus(), "", 9);
  EXPECT_TRUE(table_.CheckDismiss("j").ok());
}

TEST_F(JobTableTest, OfThoseThatHaveEndedTheOldestGoFirst) {
  for (int i = 0; i < 4; ++i) {
    const std::string id = absl::StrCat("ended-", i);
    table_.Begin(id, {}, 1);
    table_.Finish(id, absl::OkStatus(), "", 100 - static_cast<uint64_t>(i));
  }
  EXPECT_TRUE(table_.Trim(4).empty());
  EXPECT_THAT(table_.Trim(2), ElementsAre("ended-3", "ended-2"));
  EXPECT_EQ(table_.List().size(), 3u);
  EXPECT_NE(table_.Find("j"), nullptr);
}

}  // namespace
}  // namespace ferry::vm
