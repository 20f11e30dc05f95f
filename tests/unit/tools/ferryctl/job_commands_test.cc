#include <gmock/gmock.h>

#include <algorithm>
#include <deque>
#include <vector>

#include "tests/unit/tools/ferryctl/served_commands.h"
#include "tools/ferryctl/exit_codes.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/rpc/job_error.h"
#include "vmmanager/rpc/stream_reactor.h"
#include "vmmanager/rpc/unary_reactor.h"

namespace ferry::ctl {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Answers each call about jobs with `job` or `status`, and remembers what was asked.
class JobScript final : public v1::JobService::CallbackService {
 public:
  explicit JobScript(Executor e) : executor_(std::move(e)) {}

  grpc::ServerUnaryReactor* ListJobs(grpc::CallbackServerContext* context,
                                     const v1::ListJobsRequest* request,
                                     v1::ListJobsResponse* response) override {
    auto handler =
        [this](const v1::ListJobsRequest& r) -> Task<absl::StatusOr<v1::ListJobsResponse>> {
      list = r;
      v1::ListJobsResponse answer;
      *answer.add_jobs() = job;
      co_return answer;
    };
    return rpc::ServeUnary(context, executor_, request, response, handler);
  }
  grpc::ServerUnaryReactor* GetJob(grpc::CallbackServerContext* context, const v1::JobRef* request,
                                   v1::Job* response) override {
    return Answer(context, request, response, "get", job);
  }
  grpc::ServerUnaryReactor* CancelJob(grpc::CallbackServerContext* context,
                                      const v1::JobRef* request, v1::Job* response) override {
    return Answer(context, request, response, "cancel", job);
  }
  grpc::ServerUnaryReactor* DismissJob(grpc::CallbackServerContext* context,
                                       const v1::JobRef* request,
                                       v1::DismissJobResponse* response) override {
    return Answer(context, request, response, "dismiss", v1::DismissJobResponse());
  }
  // Each call takes the next of `watches`.
  grpc::ServerWriteReactor<v1::Job>* WatchJob(grpc::CallbackServerContext* context,
                                              const v1::JobRef* request) override {
    auto handler = [this](
                       const v1::JobRef& ref,
                       std::shared_ptr<rpc::ServerStream<v1::Job>> stream) -> Task<absl::Status> {
      calls.push_back("watch " + ref.id());
      if (watches.empty()) co_return absl::NotFoundError("there is no such job");
      auto [jobs, end] = watches.front();
      watches.pop_front();
      for (v1::Job& told : jobs) stream->Write(std::move(told));
      co_return end;
    };
    return rpc::ServeStream<v1::Job>(context, executor_, request, handler);
  }

  v1::Job job;
  absl::Status status;
  std::deque<std::pair<std::vector<v1::Job>, absl::Status>> watches;
  v1::ListJobsRequest list;
  std::vector<std::string> calls;

 private:
  template <typename Response>
  grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context, const v1::JobRef* request,
                                   Response* response, const std::string& name,
                                   const Response& answer) {
    auto handler = [=, this](const v1::JobRef& ref) -> Task<absl::StatusOr<Response>> {
      calls.push_back(name + " " + ref.id());
      if (!status.ok()) co_return status;
      co_return answer;
    };
    return rpc::ServeUnary(context, executor_, request, response, handler);
  }

  const Executor executor_;
};

class JobCommandsTest : public ServedCommandsTest {
 protected:
  JobCommandsTest() {
    jobs_.job = Is(v1::JOB_STATE_RUNNING);
    Serve({&jobs_});
  }

  static v1::Job Is(v1::JobState state, const std::string& phase = "") {
    v1::Job job;
    job.set_id("0123456789ab");
    job.set_kind(v1::JOB_KIND_SAVE);
    job.set_vm_name("web");
    job.set_state(state);
    job.mutable_progress()->set_phase(phase);
    if (state == v1::JOB_STATE_DONE || state == v1::JOB_STATE_FAILED ||
        state == v1::JOB_STATE_CANCELLED) {
      job.set_ended_unix_ms(5);
    }
    return job;
  }

  // Of `ferryctl job`.
  int Ferryctl(std::vector<const char*> arguments) {
    jobs_.calls.clear();
    arguments.insert(arguments.begin(), "job");
    return ServedCommandsTest::Ferryctl(std::move(arguments));
  }

  JobScript jobs_{io_.get_executor()};
};

TEST_F(JobCommandsTest, ListAsksForWhatIsWanted) {
  EXPECT_EQ(Ferryctl({"list"}), kOk);
  EXPECT_THAT(printed_, HasSubstr("0123456789ab   save"));
  EXPECT_EQ(jobs_.list.SerializeAsString(), "");
  EXPECT_EQ(Ferryctl({"list", "--vm", "web", "--kind", "import", "--all"}), kOk);
  EXPECT_EQ(jobs_.list.vm(), "web");
  EXPECT_EQ(jobs_.list.kind(), v1::JOB_KIND_IMPORT);
  EXPECT_TRUE(jobs_.list.include_ended());
  EXPECT_EQ(Ferryctl({"list", "--kind", "checkpoint"}), kOk);
  EXPECT_EQ(jobs_.list.kind(), v1::JOB_KIND_CHECKPOINT);
  EXPECT_EQ(Ferryctl({"list", "--output", "json"}), kOk);
  EXPECT_THAT(printed_, HasSubstr("\"JOB_STATE_RUNNING\""));
  EXPECT_EQ(Ferryctl({"list", "--kind", "nonsense"}), kUsage);
}

TEST_F(JobCommandsTest, OneIsInspectedCancelledAndDismissed) {
  EXPECT_EQ(Ferryctl({"inspect", "01234567"}), kOk);
  EXPECT_THAT(printed_, HasSubstr("running"));
  EXPECT_THAT(jobs_.calls, ElementsAre("get 01234567"));
  EXPECT_EQ(Ferryctl({"cancel", "01234567"}), kOk);
  EXPECT_THAT(printed_, HasSubstr("ferryctl job watch 0123456789ab"));
  EXPECT_EQ(Ferryctl({"dismiss", "one", "two"}), kOk);
  EXPECT_EQ(printed_, "");
  EXPECT_THAT(jobs_.calls, ElementsAre("dismiss one", "dismiss two"));
  jobs_.status = rpc::ErrorWithReason(absl::StatusCode::kFailedPrecondition, "it still runs",
                                      "job_running", "Wait.");
  for (const char* command : {"cancel", "dismiss"}) {
    EXPECT_EQ(Ferryctl({command, "one"}), kRefused);
    EXPECT_THAT(said_, HasSubstr("it still runs"));
    EXPECT_THAT(said_, HasSubstr("Wait."));
  }
  for (const char* command : {"inspect", "watch", "cancel", "dismiss"}) {
    EXPECT_EQ(Ferryctl({command}), kUsage);
  }
}

TEST_F(JobCommandsTest, WatchShowsEachStepAndExitsAsTheJobEnds) {
  v1::Job done = Is(v1::JOB_STATE_DONE);
  done.set_result("saved in a file");
  jobs_.watches.push_back(
      {{Is(v1::JOB_STATE_RUNNING, "first"), Is(v1::JOB_STATE_RUNNING, "second"), done}, {}});
  EXPECT_EQ(Ferryctl({"watch", "01234567"}), kOk);
  EXPECT_EQ(printed_, "first\nsecond\nThe save of VM web is done: saved in a file.\n");
  EXPECT_EQ(said_, "");

  v1::Job failed = Is(v1::JOB_STATE_FAILED);
  *failed.mutable_error() = rpc::ToJobError(absl::ResourceExhaustedError("no room"));
  jobs_.watches.push_back({{failed}, {}});
  EXPECT_EQ(Ferryctl({"watch", "01234567"}), kRefused);
  EXPECT_THAT(said_, HasSubstr("the save of VM web failed: no room"));
  jobs_.watches.push_back({{Is(v1::JOB_STATE_CANCELLED)}, {}});
  EXPECT_EQ(Ferryctl({"watch", "01234567"}), kCancelled);
  EXPECT_EQ(Ferryctl({"watch", "nobody's"}), kRefused);
}

TEST_F(JobCommandsTest, WatchInJsonPrintsALineForEachState) {
  jobs_.watches.push_back({{Is(v1::JOB_STATE_RUNNING, "first"), Is(v1::JOB_STATE_DONE)}, {}});
  EXPECT_EQ(Ferryctl({"watch", "01234567", "--output", "json"}), kOk);
  EXPECT_EQ(std::count(printed_.begin(), printed_.end(), '\n'), 2);
  EXPECT_THAT(printed_, HasSubstr("JOB_STATE_DONE"));
}

TEST_F(JobCommandsTest, WatchGoesOnWhenTheDaemonIsBack) {
  jobs_.watches.push_back({{Is(v1::JOB_STATE_RUNNING, "first")}, absl::UnavailableError("stops")});
  jobs_.watches.push_back({{}, absl::UnavailableError("starts")});
  jobs_.watches.push_back({{Is(v1::JOB_STATE_DONE)}, {}});
  EXPECT_EQ(Ferryctl({"watch", "01234567"}), kOk);
  // By the whole id, once that is known.
  EXPECT_THAT(jobs_.calls,
              ElementsAre("watch 01234567", "watch 0123456789ab", "watch 0123456789ab"));
}

}  // namespace
}  // namespace ferry::ctl
