#pragma once

#include "ferry/v1/job.grpc.pb.h"
#include "vmmanager/jobs/job_source.h"
#include "vmmanager/rpc/stream_reactor.h"

namespace ferry::vm {

// ferry.v1.JobService over whoever knows jobs: translates, and posts to the executor.
class JobService final : public v1::JobService::CallbackService {
 public:
  // The sources must outlive it.
  JobService(Executor executor, std::vector<JobSource*> sources)
      : executor_(std::move(executor)), sources_(std::move(sources)) {}

  grpc::ServerUnaryReactor* ListJobs(grpc::CallbackServerContext*, const v1::ListJobsRequest*,
                                     v1::ListJobsResponse*) override;
  grpc::ServerUnaryReactor* GetJob(grpc::CallbackServerContext*, const v1::JobRef*,
                                   v1::Job*) override;
  grpc::ServerWriteReactor<v1::Job>* WatchJob(grpc::CallbackServerContext*,
                                              const v1::JobRef*) override;
  grpc::ServerUnaryReactor* CancelJob(grpc::CallbackServerContext*, const v1::JobRef*,
                                      v1::Job*) override;
  grpc::ServerUnaryReactor* DismissJob(grpc::CallbackServerContext*, const v1::JobRef*,
                                       v1::DismissJobResponse*) override;

 private:
  using WatchStream = rpc::ServerStream<v1::Job>;

  static Task<absl::Status> Watch(JobSources::Found found, std::shared_ptr<WatchStream> stream);

  const Executor executor_;
  const JobSources sources_;
};

}  // namespace ferry::vm
