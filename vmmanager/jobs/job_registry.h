#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "bridge/runtime/async.h"
#include "vmmanager/jobs/job.h"
#include "vmmanager/jobs/job_source.h"
#include "vmmanager/sandbox/event_log.h"
#include "vmmanager/store/store.h"

namespace ferry::vm {

// Of those that have ended.
inline constexpr size_t kJobsKept = 200;

// The work of a job. It is called once, and kept until it has ended.
using JobWork = std::function<Task<absl::Status>(std::shared_ptr<Job>)>;

// The jobs of this host that nobody else keeps. Begin, end and dismissal are durable; progress is
// written down soon after each phase and each tenth of the whole. That one cannot be written down
// is logged, and keeps nothing from being done. Thread: the executor's only.
class JobRegistry final : public JobSource {
 public:
  // `store` and `events` must outlive it.
  JobRegistry(Executor executor, Store& store, EventLog& events);
  ~JobRegistry() override;

  // What became of a job that a former daemon left under way: its result if it was done all the
  // same; nullopt if it failed.
  using Verdict = std::function<std::optional<std::string>(const v1::Job&)>;
  // Reads what former daemons wrote down. Before anything begins.
  Task<absl::Status> Load(Verdict verdict);

  // The job is durable when this returns.
  Task<std::shared_ptr<Job>> Begin(JobDescription description);
  // Does the work as a job, and returns how it ended; that is durable then. If the task is dropped,
  // the job has failed.
  Task<absl::Status> Run(JobDescription description, JobWork work);

  std::vector<v1::Job> ListJobs() const override;
  std::optional<JobView> FindJob(const std::string& id) const override;
  Task<absl::Status> AwaitChange(std::string id, uint64_t seen) override;
  Task<absl::Status> CancelJob(std::string id) override;
  Task<absl::Status> DismissJob(std::string id) override;

  // The daemon stops: waiters are let go, and nothing more is written down. What still runs is
  // found by the next daemon.
  Task<void> Close();

 private:
  class Table;
  const std::shared_ptr<Table> table_;  // jobs may outlive us
};

// Does the work as a job of `jobs`; if that is nullptr, as one that nobody knows.
Task<absl::Status> RunAsJob(JobRegistry* jobs, JobDescription description, JobWork work);

}  // namespace ferry::vm
