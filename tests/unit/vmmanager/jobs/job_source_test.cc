#include "vmmanager/jobs/job_source.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "vmmanager/rpc/error_info.h"

namespace ferry::vm {
namespace {

using ::testing::ElementsAre;

struct FixedSource final : JobSource {
  std::vector<v1::Job> ListJobs() const override { return jobs; }
  std::optional<JobView> FindJob(const std::string& id) const override {
    for (const v1::Job& job : jobs) {
      if (job.id() == id) return JobView{job, 1};
    }
    return std::nullopt;
  }
  Task<absl::Status> AwaitChange(std::string, uint64_t) override { co_return absl::OkStatus(); }
  Task<absl::Status> CancelJob(std::string) override { co_return absl::OkStatus(); }
  Task<absl::Status> DismissJob(std::string) override { co_return absl::OkStatus(); }

  std::vector<v1::Job> jobs;
};

class JobSourcesTest : public testing::Test {
 protected:
  JobSourcesTest() {
    Add(&own_, "aaaaaaaa-1", v1::JOB_KIND_SAVE, "web", v1::JOB_STATE_DONE, 3);
    Add(&own_, "aaaaaaaa-2", v1::JOB_KIND_IMPORT, "", v1::JOB_STATE_RUNNING, 1);
    Add(&other_, "bbbbbbbb-1", v1::JOB_KIND_MIGRATION, "web", v1::JOB_STATE_CANCELLING, 2);
    Add(&other_, "short", v1::JOB_KIND_MIGRATION, "db", v1::JOB_STATE_FAILED, 4);
  }

  static void Add(FixedSource* to, const std::string& id, v1::JobKind kind, const std::string& vm,
                  v1::JobState state, uint64_t started) {
    v1::Job job;
    job.set_id(id);
    job.set_kind(kind);
    job.set_vm_name(vm);
    if (!vm.empty()) job.set_vm_id("id of " + vm);
    job.set_state(state);
    job.set_started_unix_ms(started);
    to->jobs.push_back(job);
  }
  std::vector<std::string> List(const std::string& vm, v1::JobKind kind, bool ended) {
    v1::ListJobsRequest filter;
    filter.set_vm(vm);
    filter.set_kind(kind);
    filter.set_include_ended(ended);
    std::vector<std::string> ids;
    for (const v1::Job& job : sources_.List(filter)) ids.push_back(job.id());
    return ids;
  }

  FixedSource own_, other_;
  JobSources sources_{{&own_, &other_}};
};

TEST_F(JobSourcesTest, ListsThoseThatFitByTheirStart) {
  EXPECT_THAT(List("", v1::JOB_KIND_UNSPECIFIED, true),
              ElementsAre("aaaaaaaa-2", "bbbbbbbb-1", "aaaaaaaa-1", "short"));
  EXPECT_THAT(List("", v1::JOB_KIND_UNSPECIFIED, false), ElementsAre("aaaaaaaa-2", "bbbbbbbb-1"));
  EXPECT_THAT(List("web", v1::JOB_KIND_UNSPECIFIED, true), ElementsAre("bbbbbbbb-1", "aaaaaaaa-1"));
  EXPECT_THAT(List("id of web", v1::JOB_KIND_SAVE, true), ElementsAre("aaaaaaaa-1"));
  EXPECT_THAT(List("nobody", v1::JOB_KIND_UNSPECIFIED, true), ElementsAre());
}

TEST_F(JobSourcesTest, AJobIsFoundByItsIdOrWhatOnlyItBeginsWith) {
  EXPECT_EQ(sources_.Find("short")->source, &other_);
  EXPECT_EQ(sources_.Find("aaaaaaaa-2")->source, &own_);
  EXPECT_EQ(sources_.Find("bbbbbbbb")->id, "bbbbbbbb-1");
  for (const char* none : {"", "bbb", "shor", "cccccccc", "bbbbbbbb-11"}) {
    EXPECT_EQ(sources_.Find(none).status().code(), absl::StatusCode::kNotFound) << none;
  }
  const absl::Status both = sources_.Find("aaaaaaaa").status();
  EXPECT_EQ(both.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(rpc::ReasonOf(both), "job_ambiguous");
}

}  // namespace
}  // namespace ferry::vm
