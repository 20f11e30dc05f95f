#include "vmmanager/jobs/job_registry.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/unix_time.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/rpc/printable.h"
#include "vmmanager/sandbox/vm_inventory.h"

namespace ferry::vm {
namespace {

constexpr size_t kMaxText = 512;
constexpr absl::string_view kKindPrefix = "JOB_KIND_";
constexpr absl::string_view kStatePrefix = "JOB_STATE_";

std::string Word(const std::string& name, absl::string_view prefix) {
  // A newer ferryd may know more of them.
  if (!absl::StartsWith(name, prefix)) return "unknown";
  return absl::AsciiStrToLower(absl::string_view(name).substr(prefix.size()));
}

absl::Status Stops() { return absl::UnavailableError("this host's ferryd stops"); }

absl::Status Interrupted() {
  return rpc::ErrorWithReason(absl::StatusCode::kAborted, "ferryd ended while it ran",
                              "daemon_ended");
}

// Whether it can be cancelled is for this daemon alone to say.
JobRow ToRow(const v1::Job& job) {
  v1::Job kept = job;
  kept.set_cancellable(false);
  kept.clear_why_not_cancellable();
  return {job.id(), job.started_unix_ms(), kept.SerializeAsString()};
}

uint64_t TenthsDone(const v1::JobProgress& progress) {
  if (progress.total() == 0) return 0;
  return std::min<uint64_t>(progress.done() / std::max<uint64_t>(progress.total() / 10, 1), 10);
}

// Progress may come a thousand times in a job, and each row costs the disk a flush.
bool IsWorthARow(const v1::JobProgress& before, const v1::JobProgress& now) {
  return before.phase() != now.phase() || TenthsDone(before) != TenthsDone(now);
}

}  // namespace

class JobRegistry::Table final : public Job::Keeper, public std::enable_shared_from_this<Table> {
 public:
  Table(Executor e, Store& s, EventLog& l)
      : executor(std::move(e)), store(s), events(l), changed(executor), storing(executor) {}

  void OnProgress(const std::string& id, const v1::JobProgress& progress) override {
    const JobView* known = jobs.Find(id);
    const bool worth = known != nullptr && IsWorthARow(known->job.progress(), progress);
    if (!jobs.SetProgress(id, progress)) return;
    Pulse();
    if (closed || !worth) return;
    unwritten.insert(id);
    Spawn(executor, WriteLater(shared_from_this(), id));
  }
  void OnCancellable(const std::string& id, const std::string& why_not) override {
    if (jobs.SetCancellable(id, why_not)) Pulse();
  }
  void OnEnded(const std::string& id, const absl::Status& status,
               const std::string& result) override {
    if (!jobs.Finish(id, status, result, NowUnixMs())) return;
    running.erase(id);
    Pulse();
    if (closed) return;
    PublishEnd(jobs.Find(id)->job);
    unwritten.insert(id);
    Spawn(executor, WriteLater(shared_from_this(), id));
    for (const std::string& gone : jobs.Trim(kJobsKept)) {
      unwritten.insert(gone);
      Spawn(executor, WriteLater(shared_from_this(), gone));
    }
  }

  // Wakes all who wait, and none who come later.
  void Pulse() {
    changed.Set();
    changed.Reset();
  }

  void PublishEnd(const v1::Job& job) {
    events.Publish("job.ended", job.id(),
                   {{"kind", Word(v1::JobKind_Name(job.kind()), kKindPrefix)},
                    {"vm", job.vm_name()},
                    {"state", Word(v1::JobState_Name(job.state()), kStatePrefix)},
                    {"error", job.error().message()}});
  }

  // Brings the store to what is known of the job now, which may be nothing any more.
  static Task<absl::Status> Write(std::shared_ptr<Table> self, std::string id) {
    const AsyncMutex::Guard lock = co_await self->storing.Lock();
    if (self->closed || self->unwritten.erase(id) == 0) co_return absl::OkStatus();
    const JobView* known = self->jobs.Find(id);
    if (known == nullptr) co_return co_await self->store.DeleteJob(std::move(id));
    JobRow row = ToRow(known->job);
    co_return co_await self->store.PutJob(std::move(row));
  }
  static Task<void> WriteLater(std::shared_ptr<Table> self, std::string id) {
    const absl::Status written = co_await Write(self, id);
    if (!written.ok()) spdlog::warn("job {} is not written down: {}", id, written.ToString());
  }

  const Executor executor;
  Store& store;
  EventLog& events;
  JobTable jobs;
  std::map<std::string, std::weak_ptr<Job>> running;
  std::set<std::string> unwritten;  // have changed since the store was told
  AsyncEvent changed;
  AsyncMutex storing;
  bool closed = false;
};

JobRegistry::JobRegistry(Executor executor, Store& store, EventLog& events)
    : table_(std::make_shared<Table>(std::move(executor), store, events)) {}

JobRegistry::~JobRegistry() { table_->closed = true; }

Task<absl::Status> JobRegistry::Load(Verdict verdict) {
  auto table = table_;
  CO_ASSIGN_OR_RETURN(const std::vector<JobRow> rows, co_await table->store.ListJobs());
  for (const JobRow& row : rows) {
    v1::Job job;
    if (!job.ParseFromString(row.job_bytes) || job.id() != row.id) {
      spdlog::warn("job {} of the store cannot be read, and is left out", row.id);
      continue;
    }
    const bool ended = HasEnded(job);
    std::optional<std::string> result;
    if (!ended) result = verdict(job);
    table->jobs.Restore(std::move(job));
    if (ended) continue;
    table->OnEnded(row.id, result ? absl::OkStatus() : Interrupted(), result.value_or(""));
  }
  co_return absl::OkStatus();
}

Task<std::shared_ptr<Job>> JobRegistry::Begin(JobDescription description) {
  auto table = table_;
  // What a caller named is kept, and sent to whoever asks.
  description.what = rpc::Printable(description.what, kMaxText);
  description.vm_name = rpc::Printable(description.vm_name, kMaxText);
  auto job = std::make_shared<Job>(VmInventory::NewId(), table);
  table->jobs.Begin(job->id(), description, NowUnixMs());
  table->running[job->id()] = job;
  table->unwritten.insert(job->id());
  table->Pulse();
  table->events.Publish("job.started", job->id(),
                        {{"kind", Word(v1::JobKind_Name(description.kind), kKindPrefix)},
                         {"vm", description.vm_name},
                         {"what", description.what}});
  co_await Table::WriteLater(table, job->id());
  co_return job;
}

Task<absl::Status> JobRegistry::Run(JobDescription description, JobWork work) {
  auto table = table_;
  std::shared_ptr<Job> job = co_await Begin(std::move(description));
  const absl::Status status = co_await work(job);
  job->Finish(status);
  // Whoever waits for the answer may look for the job at once.
  co_await Table::WriteLater(table, job->id());
  co_return status;
}

std::vector<v1::Job> JobRegistry::ListJobs() const { return table_->jobs.List(); }

std::optional<JobView> JobRegistry::FindJob(const std::string& id) const {
  const JobView* found = table_->jobs.Find(id);
  return found == nullptr ? std::nullopt : std::optional(*found);
}

Task<absl::Status> JobRegistry::AwaitChange(std::string id, uint64_t seen) {
  auto table = table_;
  while (!table->closed) {
    const JobView* now = table->jobs.Find(id);
    if (now == nullptr || now->version != seen) co_return absl::OkStatus();
    co_await table->changed.Wait();
  }
  co_return Stops();
}

Task<absl::Status> JobRegistry::CancelJob(std::string id) {
  CO_RETURN_IF_ERROR(table_->jobs.CheckCancel(id));
  const auto it = table_->running.find(id);
  const std::shared_ptr<Job> job = it == table_->running.end() ? nullptr : it->second.lock();
  if (job == nullptr) co_return NoSuchJob(id);
  if (!table_->jobs.SetCancelling(id, true)) co_return absl::OkStatus();
  const absl::Status asked = job->Cancel();
  if (!asked.ok()) table_->jobs.SetCancelling(id, false);
  table_->Pulse();
  if (!asked.ok()) co_return NotCancellable(id, asked.message());
  co_return asked;
}

Task<absl::Status> JobRegistry::DismissJob(std::string id) {
  auto table = table_;
  CO_RETURN_IF_ERROR(table->jobs.CheckDismiss(id));
  const AsyncMutex::Guard lock = co_await table->storing.Lock();
  if (table->closed) co_return Stops();
  CO_RETURN_IF_ERROR(co_await table->store.DeleteJob(id));
  table->jobs.Erase(id);
  table->Pulse();
  co_return absl::OkStatus();
}

Task<void> JobRegistry::Close() {
  auto table = table_;
  const AsyncMutex::Guard lock = co_await table->storing.Lock();
  table->closed = true;
  table->Pulse();
}

Task<absl::Status> RunAsJob(JobRegistry* jobs, JobDescription description, JobWork work) {
  if (jobs != nullptr) co_return co_await jobs->Run(std::move(description), std::move(work));
  auto unknown = std::make_shared<Job>("", std::weak_ptr<Job::Keeper>());
  co_return co_await work(std::move(unknown));
}

}  // namespace ferry::vm
