#include "migration/service/migration_jobs.h"

#include <algorithm>
#include <array>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/rpc/job_error.h"

namespace ferry::migration {
namespace {

constexpr char kCommitted[] = "COMMIT";
// Reasons of sessions that their own limits ended.
constexpr std::array kLimits = {"timed_out", "blackout_threshold_exceeded", "not_converging",
                                "transfer_stalled", "deadline_exceeded"};

bool IsJob(const v1::Session& session) {
  return session.origin() == v1::MIGRATION_ORIGIN_SOURCE && !session.dismissed();
}

v1::JobState JobStateOf(const v1::Session& session) {
  if (!session.done()) {
    return session.state() == v1::SESSION_STATE_CANCELLING ? v1::JOB_STATE_CANCELLING
                                                           : v1::JOB_STATE_RUNNING;
  }
  switch (session.outcome()) {
    case v1::SESSION_OUTCOME_SUCCEEDED:
      return v1::JOB_STATE_DONE;
    case v1::SESSION_OUTCOME_CANCELLED:
      return v1::JOB_STATE_CANCELLED;
    default:
      return v1::JOB_STATE_FAILED;
  }
}

absl::StatusCode CodeOf(const v1::Session& session) {
  for (const char* limit : kLimits) {
    if (session.reason() == limit) return absl::StatusCode::kDeadlineExceeded;
  }
  return session.outcome() == v1::SESSION_OUTCOME_CANCELLED ? absl::StatusCode::kCancelled
                                                            : absl::StatusCode::kAborted;
}

v1::JobError ErrorOf(const v1::Session& session) {
  v1::ErrorInfo info;
  info.set_reason(session.reason());
  info.set_vm_location(session.vm_location());
  info.set_next_step(session.next_step());
  info.set_session_id(session.session_id());
  *info.mutable_differences() = session.differences();
  const std::string why = session.error().empty() ? "how it ended is not known" : session.error();
  return rpc::ToJobError(rpc::WithErrorInfo(absl::Status(CodeOf(session), why), info));
}

v1::JobProgress ProgressOf(const v1::Session& session) {
  const v1::Progress& from = session.progress();
  v1::JobProgress progress;
  progress.set_unit(v1::JOB_UNIT_BYTES);
  if (from.total_bytes() == 0 && from.disk_total_bytes() > 0) {
    progress.set_total(from.disk_total_bytes());
    progress.set_done(std::min(from.disk_done_bytes(), from.disk_total_bytes()));
    progress.set_phase("copying disks");
    return progress;
  }
  progress.set_total(from.total_bytes());
  progress.set_done(from.total_bytes() - std::min(from.remaining_bytes(), from.total_bytes()));
  progress.set_phase(absl::StrCat("moving memory, pass ", from.pass()));
  return progress;
}

void SetCancellable(const v1::Session& session, v1::Job* job) {
  if (vm::HasEnded(*job)) return;
  if (session.commit_record() == kCommitted || session.state() == v1::SESSION_STATE_FINALIZED) {
    job->set_why_not_cancellable("the VM is handed over already");
  } else {
    job->set_cancellable(true);
  }
}

}  // namespace

v1::Job ToJob(const v1::Session& session) {
  v1::Job job;
  job.set_id(session.session_id());
  job.set_kind(v1::JOB_KIND_MIGRATION);
  job.set_vm_id(session.vm_id());
  job.set_vm_name(session.vm_name());
  if (!session.destination().empty()) job.set_what(absl::StrCat("to ", session.destination()));
  job.set_state(JobStateOf(session));
  job.set_started_unix_ms(session.created_unix_ms());
  if (vm::HasEnded(job)) job.set_ended_unix_ms(session.ended_unix_ms());
  if (session.has_progress()) *job.mutable_progress() = ProgressOf(session);
  SetCancellable(session, &job);
  if (job.state() == v1::JOB_STATE_DONE) {
    job.set_result(absl::StrCat("the VM runs on ", session.vm_location()));
  } else if (vm::HasEnded(job)) {
    *job.mutable_error() = ErrorOf(session);
  }
  return job;
}

std::vector<v1::Job> MigrationJobs::ListJobs() const {
  std::vector<v1::Job> list;
  for (const v1::Session& session : sessions_.List("")) {
    if (IsJob(session)) list.push_back(ToJob(session));
  }
  return list;
}

std::optional<vm::JobView> MigrationJobs::FindJob(const std::string& id) const {
  const absl::StatusOr<v1::Session> session = sessions_.Describe(id);
  if (!session.ok() || !IsJob(*session)) return std::nullopt;
  return vm::JobView{ToJob(*session), session->last_message_id()};
}

Task<absl::Status> MigrationJobs::AwaitChange(std::string id, uint64_t seen) {
  CO_ASSIGN_OR_RETURN(const std::shared_ptr<Notifier> notifier,
                      co_await sessions_.Notifications(id));
  const Notifier::Subscription subscription(notifier);
  CO_ASSIGN_OR_RETURN(const std::vector<v1::NotificationsResponse> news,
                      co_await notifier->Next(static_cast<uint32_t>(seen)));
  if (!news.empty()) co_return absl::OkStatus();
  // Notifications end with their session, or with the daemon.
  const absl::StatusOr<v1::Session> session = sessions_.Describe(id);
  if (!session.ok() || session->done()) co_return absl::OkStatus();
  co_return absl::UnavailableError("this host's ferryd stops");
}

Task<absl::Status> MigrationJobs::CancelJob(std::string id) {
  const std::optional<vm::JobView> known = FindJob(id);
  if (!known) co_return vm::NoSuchJob(id);
  CO_RETURN_IF_ERROR(vm::CheckNotEnded(known->job));
  CO_ASSIGN_OR_RETURN(const std::shared_ptr<MigrationSession> session, sessions_.Find(id));
  std::string reason = "cancelled on request";
  co_return co_await session->Cancel(std::move(reason));
}

Task<absl::Status> MigrationJobs::DismissJob(std::string id) {
  const std::optional<vm::JobView> known = FindJob(id);
  if (!known) co_return vm::NoSuchJob(id);
  CO_RETURN_IF_ERROR(vm::CheckHasEnded(known->job));
  co_return co_await sessions_.Dismiss(id);
}

}  // namespace ferry::migration
