#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/task.h"
#include "vmmanager/jobs/job_table.h"

namespace ferry::vm {

// Somebody who knows jobs. Thread: the executor's only.
class JobSource {
 public:
  virtual ~JobSource() = default;

  virtual std::vector<v1::Job> ListJobs() const = 0;
  // By the whole id; nullopt if it is none of these.
  virtual std::optional<JobView> FindJob(const std::string& id) const = 0;
  // Returns when the job may have another version than `seen`, or is gone. UNAVAILABLE if nothing
  // more will be told of it, for the daemon stops.
  virtual Task<absl::Status> AwaitChange(std::string id, uint64_t seen) = 0;
  // Asks it to end. FAILED_PRECONDITION with the reason if it has ended or will not.
  virtual Task<absl::Status> CancelJob(std::string id) = 0;
  // Forgets one that has ended; FAILED_PRECONDITION if it has not.
  virtual Task<absl::Status> DismissJob(std::string id) = 0;
};

// What several know, as one.
class JobSources {
 public:
  // All must outlive it.
  explicit JobSources(std::vector<JobSource*> sources) : sources_(std::move(sources)) {}

  // By their start.
  std::vector<v1::Job> List(const v1::ListJobsRequest& filter) const;

  struct Found {
    JobSource* source = nullptr;
    std::string id;
  };
  // By its id or the first characters of it. NOT_FOUND; FAILED_PRECONDITION if several begin so.
  absl::StatusOr<Found> Find(const std::string& wanted) const;

 private:
  std::vector<JobSource*> sources_;
};

}  // namespace ferry::vm
