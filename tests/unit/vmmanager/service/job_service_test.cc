#include "vmmanager/service/job_service.h"

#include <gmock/gmock.h>
#include <grpcpp/channel.h>

#include "tests/unit/bridge/task_test.h"
#include "vmmanager/jobs/job_registry.h"
#include "vmmanager/rpc/channel.h"
#include "vmmanager/rpc/client_call.h"
#include "vmmanager/rpc/client_stream.h"
#include "vmmanager/rpc/server.h"
#include "vmmanager/store/fake_store.h"

namespace ferry::vm {
namespace {

using ::testing::HasSubstr;
using JobAsync = v1::JobService::StubInterface::async_interface;

class JobServiceTest : public TaskTest {
 protected:
  JobServiceTest() {
    rpc::ServerOptions options;
    options.unix_socket = folder_.path() + "/s";
    server_ = *rpc::Server::Start(options, {&service_});
    stub_ = v1::JobService::NewStub(*rpc::MakeChannel("unix:" + options.unix_socket, {}));
  }
  void TearDown() override {
    Await(jobs_.Close());
    Await(events_.Close());
    Await(server_->Shutdown(milliseconds(0)));
    Settle();
  }

  template <typename Request, typename Response>
  absl::StatusOr<Response> Call(void (JobAsync::*method)(grpc::ClientContext*, const Request*,
                                                         Response*,
                                                         std::function<void(grpc::Status)>),
                                const std::type_identity_t<Request>& request) {
    return Await(rpc::CallUnary(stub_->async(), method, request, milliseconds(60'000)));
  }
  static v1::JobRef Ref(const std::string& id) {
    v1::JobRef ref;
    ref.set_id(id);
    return ref;
  }
  std::shared_ptr<Job> BeginJob() { return Await(jobs_.Begin({v1::JOB_KIND_SAVE, "id", "web"})); }
  auto Watch(const std::string& id) {
    return rpc::OpenRead(io_.get_executor(), stub_->async(), &JobAsync::WatchJob, Ref(id));
  }

  TestFolder folder_;
  FakeStore store_;
  EventLog events_{io_.get_executor(), store_};
  JobRegistry jobs_{io_.get_executor(), store_, events_};
  JobService service_{io_.get_executor(), {&jobs_}};
  std::unique_ptr<rpc::Server> server_;
  std::unique_ptr<v1::JobService::Stub> stub_;
};

TEST_F(JobServiceTest, AJobIsListedShownAndDismissed) {
  const std::shared_ptr<Job> job = BeginJob();
  EXPECT_EQ(Call(&JobAsync::ListJobs, {})->jobs_size(), 1);
  EXPECT_EQ(Call(&JobAsync::GetJob, Ref(job->id().substr(0, 8)))->id(), job->id());
  EXPECT_EQ(Call(&JobAsync::DismissJob, Ref(job->id())).status().code(),
            absl::StatusCode::kFailedPrecondition);
  job->Finish(absl::OkStatus());
  EXPECT_EQ(Call(&JobAsync::ListJobs, {})->jobs_size(), 0);
  v1::ListJobsRequest all;
  all.set_include_ended(true);
  EXPECT_EQ(Call(&JobAsync::ListJobs, all)->jobs(0).state(), v1::JOB_STATE_DONE);
  EXPECT_TRUE(Call(&JobAsync::DismissJob, Ref(job->id())).ok());
  EXPECT_EQ(Call(&JobAsync::GetJob, Ref(job->id())).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Call(&JobAsync::DismissJob, Ref(job->id())).status().code(),
            absl::StatusCode::kNotFound);
}

TEST_F(JobServiceTest, AWatcherSeesAJobAsItIsAndThenItsChangesUpToTheEnd) {
  const std::shared_ptr<Job> job = BeginJob();
  job->SetPhase("first");
  auto watch = Watch(job->id());
  EXPECT_EQ(Await(watch->Read())->progress().phase(), "first");
  job->SetPhase("second");
  EXPECT_EQ(Await(watch->Read())->progress().phase(), "second");
  job->Finish(absl::AbortedError("it broke"));
  const std::optional<v1::Job> last = Await(watch->Read());
  ASSERT_TRUE(last.has_value());
  EXPECT_EQ(last->state(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(last->error().message(), "it broke");
  EXPECT_FALSE(Await(watch->Read()).has_value());
  EXPECT_TRUE(Await(watch->Finish()).ok());
  // One that has ended is told once.
  auto late = Watch(job->id());
  EXPECT_EQ(Await(late->Read())->state(), v1::JOB_STATE_FAILED);
  EXPECT_FALSE(Await(late->Read()).has_value());
  EXPECT_TRUE(Await(late->Finish()).ok());
}

TEST_F(JobServiceTest, AWatcherIsToldThatTheDaemonStopsAndThatAJobIsUnknown) {
  const std::shared_ptr<Job> job = BeginJob();
  auto watch = Watch(job->id());
  EXPECT_TRUE(Await(watch->Read()).has_value());
  Await(jobs_.Close());
  EXPECT_FALSE(Await(watch->Read()).has_value());
  EXPECT_EQ(Await(watch->Finish()).code(), absl::StatusCode::kUnavailable);
  auto unknown = Watch("nobody's");
  EXPECT_FALSE(Await(unknown->Read()).has_value());
  EXPECT_EQ(Await(unknown->Finish()).code(), absl::StatusCode::kNotFound);
}

TEST_F(JobServiceTest, AJobIsCancelledWhereItCanBe) {
  const std::shared_ptr<Job> job = BeginJob();
  job->ForbidCancel("it is almost there");
  const absl::Status refused = Call(&JobAsync::CancelJob, Ref(job->id())).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("it is almost there"));
  job->AllowCancel([] { return absl::OkStatus(); });
  const auto cancelling = Call(&JobAsync::CancelJob, Ref(job->id()));
  ASSERT_TRUE(cancelling.ok());
  EXPECT_EQ(cancelling->state(), v1::JOB_STATE_CANCELLING);
  job->Finish(absl::CancelledError("as asked"));
  EXPECT_EQ(Call(&JobAsync::GetJob, Ref(job->id()))->state(), v1::JOB_STATE_CANCELLED);
}

}  // namespace
}  // namespace ferry::vm
