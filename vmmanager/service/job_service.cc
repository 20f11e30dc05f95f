#include "vmmanager/service/job_service.h"

#include "bridge/runtime/status_macros.h"
#include "vmmanager/rpc/unary_reactor.h"

namespace ferry::vm {
namespace {

absl::StatusOr<v1::Job> JobAsItIs(const JobSources::Found& found) {
  std::optional<JobView> view = found.source->FindJob(found.id);
  if (!view) return NoSuchJob(found.id);
  return std::move(view->job);
}

}  // namespace

grpc::ServerUnaryReactor* JobService::ListJobs(grpc::CallbackServerContext* context,
                                               const v1::ListJobsRequest* request,
                                               v1::ListJobsResponse* response) {
  return rpc::ServeUnary(
      context, executor_, request, response,
      [this](const v1::ListJobsRequest& filter) -> Task<absl::StatusOr<v1::ListJobsResponse>> {
        v1::ListJobsResponse list;
        for (v1::Job& job : sources_.List(filter)) *list.add_jobs() = std::move(job);
        co_return list;
      },
      rpc::OnCallerGone::kCancel);
}

grpc::ServerUnaryReactor* JobService::GetJob(grpc::CallbackServerContext* context,
                                             const v1::JobRef* request, v1::Job* response) {
  return rpc::ServeUnary(
      context, executor_, request, response,
      [this](const v1::JobRef& ref) -> Task<absl::StatusOr<v1::Job>> {
        CO_ASSIGN_OR_RETURN(const JobSources::Found found, sources_.Find(ref.id()));
        co_return JobAsItIs(found);
      },
      rpc::OnCallerGone::kCancel);
}

grpc::ServerWriteReactor<v1::Job>* JobService::WatchJob(grpc::CallbackServerContext* context,
                                                        const v1::JobRef* request) {
  return rpc::ServeStream<v1::Job>(
      context, executor_, request,
      [this](const v1::JobRef& ref, std::shared_ptr<WatchStream> stream) -> Task<absl::Status> {
        CO_ASSIGN_OR_RETURN(const JobSources::Found found, sources_.Find(ref.id()));
        co_return co_await Watch(found, std::move(stream));
      });
}

// Whoever reads slowly is not told of what came and went meanwhile.
Task<absl::Status> JobService::Watch(JobSources::Found found, std::shared_ptr<WatchStream> stream) {
  while (true) {
    std::optional<JobView> view = found.source->FindJob(found.id);
    if (!view) co_return NoSuchJob(found.id);
    const bool ended = HasEnded(view->job);
    stream->Write(std::move(view->job));
    if (ended || !co_await stream->WaitFlushed()) co_return absl::OkStatus();
    CO_RETURN_IF_ERROR(co_await found.source->AwaitChange(found.id, view->version));
  }
}

grpc::ServerUnaryReactor* JobService::CancelJob(grpc::CallbackServerContext* context,
                                                const v1::JobRef* request, v1::Job* response) {
  return rpc::ServeUnary(context, executor_, request, response,
                         [this](const v1::JobRef& ref) -> Task<absl::StatusOr<v1::Job>> {
                           CO_ASSIGN_OR_RETURN(const JobSources::Found found,
                                               sources_.Find(ref.id()));
                           CO_RETURN_IF_ERROR(co_await found.source->CancelJob(found.id));
                           co_return JobAsItIs(found);
                         });
}

grpc::ServerUnaryReactor* JobService::DismissJob(grpc::CallbackServerContext* context,
                                                 const v1::JobRef* request,
                                                 v1::DismissJobResponse* response) {
  return rpc::ServeUnary(
      context, executor_, request, response,
      [this](const v1::JobRef& ref) -> Task<absl::StatusOr<v1::DismissJobResponse>> {
        CO_ASSIGN_OR_RETURN(const JobSources::Found found, sources_.Find(ref.id()));
        CO_RETURN_IF_ERROR(co_await found.source->DismissJob(found.id));
        co_return v1::DismissJobResponse();
      });
}

}  // namespace ferry::vm
