#include "vmmanager/jobs/job_source.h"

#include <algorithm>
#include <tuple>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::vm {
namespace {

constexpr size_t kShortId = 8;

bool Fits(const v1::Job& job, const v1::ListJobsRequest& filter) {
  const bool vm = filter.vm().empty() || filter.vm() == job.vm_id() || filter.vm() == job.vm_name();
  const bool kind = filter.kind() == v1::JOB_KIND_UNSPECIFIED || filter.kind() == job.kind();
  return vm && kind && (filter.include_ended() || !HasEnded(job));
}

}  // namespace

std::vector<v1::Job> JobSources::List(const v1::ListJobsRequest& filter) const {
  std::vector<v1::Job> list;
  for (const JobSource* source : sources_) {
    for (v1::Job& job : source->ListJobs()) {
      if (Fits(job, filter)) list.push_back(std::move(job));
    }
  }
  std::sort(list.begin(), list.end(), [](const v1::Job& a, const v1::Job& b) {
    return std::tuple(a.started_unix_ms(), a.id()) < std::tuple(b.started_unix_ms(), b.id());
  });
  return list;
}

absl::StatusOr<JobSources::Found> JobSources::Find(const std::string& wanted) const {
  for (JobSource* source : sources_) {
    if (source->FindJob(wanted)) return Found{source, wanted};
  }
  if (wanted.size() < kShortId) return NoSuchJob(wanted);
  std::vector<Found> begun;
  for (JobSource* source : sources_) {
    for (const v1::Job& job : source->ListJobs()) {
      if (absl::StartsWith(job.id(), wanted)) begun.push_back({source, job.id()});
    }
  }
  if (begun.empty()) return NoSuchJob(wanted);
  if (begun.size() == 1) return begun.front();
  return rpc::ErrorWithReason(
      absl::StatusCode::kFailedPrecondition,
      absl::StrCat(begun.size(), " jobs have an id that begins with ", wanted), "job_ambiguous",
      "Give more characters of the id.");
}

}  // namespace ferry::vm
