#include "vmmanager/jobs/job_table.h"

#include <google/protobuf/util/message_differencer.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/rpc/job_error.h"
#include "vmmanager/rpc/printable.h"

namespace ferry::vm {
namespace {

constexpr size_t kMaxShown = 128;
constexpr char kNotYet[] = "it has only just begun";

std::string EndWord(v1::JobState state) {
  switch (state) {
    case v1::JOB_STATE_DONE:
      return "is done";
    case v1::JOB_STATE_CANCELLED:
      return "was cancelled";
    default:
      return "has failed";
  }
}

v1::JobState StateAfter(v1::JobState before, const absl::Status& status) {
  if (status.ok()) return v1::JOB_STATE_DONE;
  const bool was_asked = before == v1::JOB_STATE_CANCELLING;
  return was_asked && absl::IsCancelled(status) ? v1::JOB_STATE_CANCELLED : v1::JOB_STATE_FAILED;
}

}  // namespace

bool HasEnded(const v1::Job& job) {
  return job.state() == v1::JOB_STATE_DONE || job.state() == v1::JOB_STATE_FAILED ||
         job.state() == v1::JOB_STATE_CANCELLED;
}

absl::Status CheckNotEnded(const v1::Job& job) {
  if (!HasEnded(job)) return absl::OkStatus();
  return rpc::ErrorWithReason(absl::StatusCode::kFailedPrecondition,
                              absl::StrCat("job ", job.id(), " ", EndWord(job.state())),
                              "job_ended",
                              absl::StrCat("Look how it ended: ferryctl job inspect ", job.id()));
}

absl::Status CheckHasEnded(const v1::Job& job) {
  if (HasEnded(job)) return absl::OkStatus();
  return rpc::ErrorWithReason(absl::StatusCode::kFailedPrecondition,
                              absl::StrCat("job ", job.id(), " is still under way"), "job_running",
                              absl::StrCat("Wait for its end: ferryctl job watch ", job.id()));
}

absl::Status NotCancellable(const std::string& id, absl::string_view why) {
  return rpc::ErrorWithReason(absl::StatusCode::kFailedPrecondition,
                              absl::StrCat("job ", id, " cannot be cancelled: ", why),
                              "not_cancellable",
                              absl::StrCat("Wait for its end: ferryctl job watch ", id));
}

absl::Status NoSuchJob(const std::string& id) {
  return rpc::ErrorWithReason(
      absl::StatusCode::kNotFound,
      absl::StrCat("there is no job \"", rpc::Printable(id, kMaxShown), "\" on this host"),
      "job_not_found", "ferryctl job list --all shows those there are.");
}

void JobTable::Begin(const std::string& id, const JobDescription& description,
                     uint64_t now_unix_ms) {
  v1::Job job;
  job.set_id(id);
  job.set_kind(description.kind);
  job.set_vm_id(description.vm_id);
  job.set_vm_name(description.vm_name);
  job.set_what(description.what);
  job.set_made_vm_id(description.made_vm_id);
  job.set_state(v1::JOB_STATE_RUNNING);
  job.set_started_unix_ms(now_unix_ms);
  job.set_why_not_cancellable(kNotYet);
  entries_[id] = {std::move(job), 1};
}

void JobTable::Restore(v1::Job job) {
  std::string id = job.id();
  entries_[std::move(id)] = {std::move(job), 1};
}

const JobView* JobTable::Find(const std::string& id) const {
  const auto it = entries_.find(id);
  return it == entries_.end() ? nullptr : &it->second;
}

JobView* JobTable::FindActive(const std::string& id) {
  const auto it = entries_.find(id);
  return it == entries_.end() || HasEnded(it->second.job) ? nullptr : &it->second;
}

bool JobTable::SetProgress(const std::string& id, const v1::JobProgress& progress) {
  JobView* entry = FindActive(id);
  if (entry == nullptr) return false;
  if (google::protobuf::util::MessageDifferencer::Equals(entry->job.progress(), progress)) {
    return false;
  }
  *entry->job.mutable_progress() = progress;
  ++entry->version;
  return true;
}

bool JobTable::SetCancellable(const std::string& id, const std::string& why_not) {
  JobView* entry = FindActive(id);
  if (entry == nullptr) return false;
  if (entry->job.cancellable() == why_not.empty() && entry->job.why_not_cancellable() == why_not) {
    return false;
  }
  entry->job.set_cancellable(why_not.empty());
  entry->job.set_why_not_cancellable(why_not);
  ++entry->version;
  return true;
}

bool JobTable::SetCancelling(const std::string& id, bool cancelling) {
  JobView* entry = FindActive(id);
  const v1::JobState state = cancelling ? v1::JOB_STATE_CANCELLING : v1::JOB_STATE_RUNNING;
  if (entry == nullptr || entry->job.state() == state) return false;
  entry->job.set_state(state);
  ++entry->version;
  return true;
}

bool JobTable::Finish(const std::string& id, const absl::Status& status, const std::string& result,
                      uint64_t now_unix_ms) {
  JobView* entry = FindActive(id);
  if (entry == nullptr) return false;
  v1::Job& job = entry->job;
  job.set_state(StateAfter(job.state(), status));
  job.set_ended_unix_ms(now_unix_ms);
  job.set_cancellable(false);
  job.clear_why_not_cancellable();
  if (status.ok()) {
    job.set_result(result);
  } else {
    *job.mutable_error() = rpc::ToJobError(status);
  }
  ++entry->version;
  return true;
}

absl::Status JobTable::CheckCancel(const std::string& id) const {
  const JobView* entry = Find(id);
  if (entry == nullptr) return NoSuchJob(id);
  RETURN_IF_ERROR(CheckNotEnded(entry->job));
  if (entry->job.cancellable()) return absl::OkStatus();
  return NotCancellable(id, entry->job.why_not_cancellable());
}

absl::Status JobTable::CheckDismiss(const std::string& id) const {
  const JobView* entry = Find(id);
  if (entry == nullptr) return NoSuchJob(id);
  return CheckHasEnded(entry->job);
}

std::vector<std::string> JobTable::Trim(size_t kept) {
  std::vector<std::pair<uint64_t, std::string>> ended;
  for (const auto& [id, entry] : entries_) {
    if (HasEnded(entry.job)) ended.emplace_back(entry.job.ended_unix_ms(), id);
  }
  std::vector<std::string> gone;
  if (ended.size() <= kept) return gone;
  std::sort(ended.begin(), ended.end());
  ended.resize(ended.size() - kept);
  for (auto& [when, id] : ended) {
    entries_.erase(id);
    gone.push_back(std::move(id));
  }
  return gone;
}

std::vector<v1::Job> JobTable::List() const {
  std::vector<v1::Job> list;
  list.reserve(entries_.size());
  for (const auto& [id, entry] : entries_) list.push_back(entry.job);
  return list;
}

}  // namespace ferry::vm
