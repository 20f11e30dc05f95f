#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "ferry/v1/job.pb.h"

namespace ferry::vm {

// What is known of a job when it begins.
struct JobDescription {
  v1::JobKind kind = v1::JOB_KIND_UNSPECIFIED;
  std::string vm_id;  // empty: it is of no VM
  std::string vm_name;
  std::string what;        // for people
  std::string made_vm_id;  // of the VM that it makes, if it does
};

// A job, and a number that rises with each change of it.
struct JobView {
  v1::Job job;
  uint64_t version = 0;
};

// Whether nothing more happens in it.
bool HasEnded(const v1::Job& job);

// FAILED_PRECONDITION if the job has ended.
absl::Status CheckNotEnded(const v1::Job& job);
// FAILED_PRECONDITION "job_running" unless it has.
absl::Status CheckHasEnded(const v1::Job& job);
// FAILED_PRECONDITION: `why`, as Job::ForbidCancel has it.
absl::Status NotCancellable(const std::string& id, absl::string_view why);

// The states of jobs and what leads from one to another. No I/O, no clock.
//
//   RUNNING > DONE | FAILED
//   RUNNING > CANCELLING > CANCELLED | DONE | FAILED   (it may have been too late, or failed
//   anyway)
class JobTable {
 public:
  // One that runs from now on. It cannot be cancelled until it says that it can.
  void Begin(const std::string& id, const JobDescription& description, uint64_t now_unix_ms);
  // One of a former daemon's, as it was written down.
  void Restore(v1::Job job);

  // These do nothing, and return false, if the job is unknown or has ended, or if they change
  // nothing.
  bool SetProgress(const std::string& id, const v1::JobProgress& progress);
  // `why_not` is empty if it can be cancelled.
  bool SetCancellable(const std::string& id, const std::string& why_not);
  // RUNNING to CANCELLING, and back where it would not be cancelled.
  bool SetCancelling(const std::string& id, bool cancelling);
  // An error makes it FAILED; CANCELLED makes one that was asked to end CANCELLED.
  bool Finish(const std::string& id, const absl::Status& status, const std::string& result,
              uint64_t now_unix_ms);

  // NOT_FOUND, or FAILED_PRECONDITION with the reason.
  absl::Status CheckCancel(const std::string& id) const;
  absl::Status CheckDismiss(const std::string& id) const;

  void Erase(const std::string& id) { entries_.erase(id); }
  // Forgets the oldest of those that have ended, so that `kept` of them remain; returns their ids.
  std::vector<std::string> Trim(size_t kept);

  // nullptr: unknown. Valid until the table is changed.
  const JobView* Find(const std::string& id) const;
  std::vector<v1::Job> List() const;

 private:
  JobView* FindActive(const std::string& id);

  std::map<std::string, JobView> entries_;
};

// What is said of a job that nobody here knows.
absl::Status NoSuchJob(const std::string& id);

}  // namespace ferry::vm
