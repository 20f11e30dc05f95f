#include "vmmanager/qemu/block_job.h"

#include <spdlog/spdlog.h>

#include <boost/json/array.hpp>
#include <optional>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/qemu/job_report.h"
#include "vmmanager/qemu/json_text.h"
#include "vmmanager/qemu/qemu_machine.h"

namespace ferry::vm {
namespace {

namespace json = boost::json;

// A job of a busy disk leaves "ready" and comes back within moments; so often it is told to end.
constexpr int kMostOrders = 100;
constexpr milliseconds kDrainPause{5};
// A disk that hangs must not keep a VM from being ended by force.
constexpr milliseconds kEndDeadline{30'000};
constexpr milliseconds kProgressPause{500};
constexpr char kMerge[] = "merge the disk's files";

// The states of one job as QEMU tells them.
struct JobStates {
  JobStates(const Executor& executor, std::string job_id)
      : changed(executor), id(std::move(job_id)) {}

  void Hear(const QmpEvent& event) {
    if (event.name != "JOB_STATUS_CHANGE" || TextAt(event.data, "id") != id) return;
    state = TextAt(event.data, "status");
    changed.Set();
  }

  AsyncEvent changed;
  const std::string id;
  std::string state;
};

Task<absl::Status> Begin(QemuMachine* machine, const SwitchJob* job) {
  // The guest goes on writing while the job runs, so it is told when to end; and QEMU keeps it
  // until it is dismissed.
  json::object arguments = job->arguments;
  arguments["job-id"] = job->id;
  arguments["auto-dismiss"] = false;
  std::string command = job->command;
  co_return (co_await machine->Command(std::move(command), std::move(arguments))).status();
}

Task<absl::Status> Complete(QemuMachine* machine, std::shared_ptr<JobStates> states) {
  json::object arguments = {{"id", states->id}};
  const absl::Status told =
      (co_await machine->Command("job-complete", std::move(arguments))).status();
  if (told.ok() || GotNoAnswer(told)) co_return told;
  // It was not ready any more; where it is now decides what comes next.
  CO_ASSIGN_OR_RETURN(const JobReport report, co_await AskForJob(machine, states->id));
  states->state = report.present ? report.state : "null";
  states->changed.Set();
  co_return absl::OkStatus();
}

// What QEMU says of a job that is at work, or nothing.
std::optional<json::object> BlockJobIn(const json::value& answer, const std::string& id) {
  const json::array* jobs = answer.if_array();
  for (size_t i = 0; jobs != nullptr && i < jobs->size(); ++i) {
    const json::object* fields = (*jobs)[i].if_object();
    if (fields != nullptr && TextAt(*fields, "device") == id) return *fields;
  }
  return std::nullopt;
}

uint64_t BytesAt(const json::object& fields, const char* key) {
  const json::value* value = fields.if_contains(key);
  boost::system::error_code error;
  const uint64_t bytes = value == nullptr ? 0 : value->to_number<uint64_t>(error);
  return error ? 0 : bytes;
}

// Until whoever started it has enough of that.
Task<absl::Status> ShowProgress(QemuMachine* machine, std::string id, MergeProgress progress) {
  while (true) {
    co_await Delay(kProgressPause);
    if (!progress) continue;
    const auto answer = co_await machine->Command("query-block-jobs");
    if (!answer.ok()) continue;
    if (const auto job = BlockJobIn(*answer, id)) {
      progress(BytesAt(*job, "offset"), BytesAt(*job, "len"));
    }
  }
}

// While the guest stands still nothing new comes, and the job only has to write what was left.
Task<absl::Status> AwaitSameContent(QemuMachine* machine, std::string id) {
  while (true) {
    CO_ASSIGN_OR_RETURN(const json::value answer, co_await machine->Command("query-block-jobs"));
    const std::optional<json::object> its = BlockJobIn(answer, id);
    // It may fail on what was left, and is kept then.
    const std::string status = its.has_value() ? TextAt(*its, "status") : "null";
    if (status != "ready" && status != "running" && status != "standby") {
      co_return absl::AbortedError("QEMU's job ended before all was written");
    }
    const json::value* done = its->if_contains("offset");
    const json::value* all = its->if_contains("len");
    if (done != nullptr && all != nullptr && *done == *all) co_return absl::OkStatus();
    co_await Delay(kDrainPause);
  }
}

// Brings a job that is ready to its end.
Task<absl::Status> CompleteAll(QemuMachine* machine, const SwitchJob* job,
                               std::shared_ptr<JobStates> states) {
  int orders = 0;
  while (states->state != "concluded") {
    states->changed.Reset();
    if (states->state == "null") co_return absl::AbortedError("QEMU's job is gone");
    if (states->state == "ready" && ++orders > kMostOrders) {
      co_return absl::AbortedError("QEMU's job cannot be brought to its end; try again");
    }
    if (states->state == "ready") CO_RETURN_IF_ERROR(co_await Complete(machine, states));
    if (states->state == "concluded") break;
    co_await states->changed.Wait();
  }
  CO_ASSIGN_OR_RETURN(const JobReport end, co_await AskForJob(machine, states->id));
  co_return end.error.empty() ? absl::OkStatus() : BlockJobError(job->what, end.error);
}

// Returns how it ended: an order to complete it may have been carried out before.
Task<absl::Status> CancelAll(QemuMachine* machine, std::shared_ptr<JobStates> states) {
  json::object arguments = {{"id", states->id}};
  const absl::Status told =
      (co_await machine->Command("job-cancel", std::move(arguments))).status();
  if (GotNoAnswer(told)) co_return told;
  while (states->state != "concluded" && states->state != "null") {
    states->changed.Reset();
    co_await states->changed.Wait();
  }
  CO_ASSIGN_OR_RETURN(const JobReport end, co_await AskForJob(machine, states->id));
  const bool completed = end.state == "concluded" && end.error.empty();
  co_return completed ? absl::OkStatus() : absl::CancelledError(end.error);
}

Task<void> LetRunAgain(std::shared_ptr<QemuMachine> machine) {
  const absl::Status runs = co_await machine->RunGuest();
  if (!runs.ok()) spdlog::warn("{}: it stands still: {}", machine->id(), runs.ToString());
}

// Until the guest runs again the disk is written down where QEMU has it: from the moment that it is
// written down as the file below, no byte may go into the one on top.
Task<absl::Status> SwitchStandingStill(QemuMachine* machine, const SwitchJob* job,
                                       std::shared_ptr<JobStates> states) {
  const bool ran = machine->state() == schema::SystemState::kRunning;
  // Who gives up before anything is written down leaves no guest that stands still.
  absl::Cleanup given_up = [machine = machine->shared_from_this(), ran] {
    if (ran) Spawn(machine->host().executor, LetRunAgain(machine));
  };
  if (ran) CO_RETURN_IF_ERROR((co_await machine->Command("stop")).status());
  absl::Status switched =
      co_await WithDeadline(kEndDeadline, "QEMU's job", AwaitSameContent(machine, job->id));
  // Brings all that to the disk, also where the guest stands still (do_vm_stop() of QEMU 7.2):
  // until then the file below must not be written down.
  if (switched.ok()) switched = (co_await machine->Command("stop")).status();
  // QEMU is asked again when the job is called off.
  if (GotNoAnswer(switched)) switched = absl::AbortedError(switched.message());
  const bool places = switched.ok() && job->place != nullptr;
  if (places) std::move(given_up).Cancel();
  if (places) switched = co_await job->place(true);
  const bool placed = places && switched.ok();
  // What could not be written down for want of an answer is no silence of QEMU's.
  if (GotNoAnswer(switched) && places) switched = absl::AbortedError(switched.message());
  if (switched.ok()) {
    switched = co_await WithDeadline(kEndDeadline, "QEMU's job", CompleteAll(machine, job, states));
  }
  if (!switched.ok() && !GotNoAnswer(switched)) {
    const absl::Status cancelled =
        co_await WithDeadline(kEndDeadline, "QEMU's job", CancelAll(machine, states));
    if (cancelled.ok() || GotNoAnswer(cancelled)) switched = cancelled;
    const bool unwritten = cancelled.ok() && job->place != nullptr && !placed;
    if (unwritten) switched = absl::UnavailableError("QEMU completed what was called off");
  }
  if (!places) std::move(given_up).Cancel();
  // Nobody knows where QEMU has it, or has written that down: the guest stands still until somebody
  // does.
  if (GotNoAnswer(switched)) co_return switched;
  if (!switched.ok() && places) {
    const absl::Status back = co_await job->place(false);
    if (!back.ok()) co_return absl::UnavailableError(back.message());
  }
  if (!ran) co_return switched;
  const absl::Status runs = co_await machine->RunGuest();
  co_return switched.ok() ? runs : switched;
}

Task<absl::Status> SwitchWhenReady(QemuMachine* machine, const SwitchJob* job,
                                   std::shared_ptr<JobStates> states) {
  absl::Status ready;
  if (job->ready) ready = co_await job->ready();
  if (ready.ok()) co_return co_await SwitchStandingStill(machine, job, states);
  const absl::Status cancelled =
      co_await WithDeadline(kEndDeadline, "QEMU's job", CancelAll(machine, states));
  co_return GotNoAnswer(cancelled) ? cancelled : ready;
}

// What was told last may be the last word of a former job of that id.
Task<absl::Status> LookAgain(QemuMachine* machine, std::shared_ptr<JobStates> states) {
  CO_ASSIGN_OR_RETURN(const JobReport now, co_await AskForJob(machine, states->id));
  if (!now.present) co_return absl::AbortedError("QEMU's job is gone");
  states->state = now.state;
  co_return absl::OkStatus();
}

// Returns once the job is concluded.
Task<absl::Status> FollowToEnd(QemuMachine* machine, const SwitchJob* job,
                               std::shared_ptr<JobStates> states) {
  while (states->state != "concluded") {
    states->changed.Reset();
    if (states->state == "null") CO_RETURN_IF_ERROR(co_await LookAgain(machine, states));
    if (states->state == "ready") co_return co_await SwitchWhenReady(machine, job, states);
    if (states->state == "concluded") break;
    co_await states->changed.Wait();
  }
  // It never was as far as that.
  CO_ASSIGN_OR_RETURN(const JobReport end, co_await AskForJob(machine, job->id));
  co_return BlockJobError(job->what, end.error.empty() ? "its job ended early" : end.error);
}

Task<absl::Status> DriveSwitch(QemuMachine* machine, const SwitchJob* job,
                               std::shared_ptr<JobStates> states) {
  CO_ASSIGN_OR_RETURN(const JobReport former, co_await AskForJob(machine, job->id));
  if (former.present) {
    states->state = former.state;
  } else {
    states->state.clear();
    CO_RETURN_IF_ERROR(co_await Begin(machine, job));
  }
  const absl::Status ended = co_await FollowToEnd(machine, job, states);
  if (ended.ok() || GotNoAnswer(ended)) co_return ended;
  CO_ASSIGN_OR_RETURN(const JobReport end, co_await AskForJob(machine, job->id));
  if (end.present) CO_RETURN_IF_ERROR(co_await DismissJob(machine, job->id));
  co_return ended;
}

Task<absl::Status> DriveLowerCommit(QemuMachine* machine, const LowerCommitJob* job,
                                    std::shared_ptr<JobStates> states) {
  json::object arguments = {
      {"job-id", job->id}, {"device", job->node},        {"top", job->top},
      {"base", job->base}, {"backing-file", job->below}, {"auto-dismiss", false}};
  CO_RETURN_IF_ERROR((co_await machine->Command("block-commit", std::move(arguments))).status());
  while (states->state != "concluded") {
    states->changed.Reset();
    if (states->state == "null") {
      CO_RETURN_IF_ERROR(co_await LookAgain(machine, states));
      continue;
    }
    co_await states->changed.Wait();
  }
  CO_ASSIGN_OR_RETURN(const JobReport end, co_await AskForJob(machine, job->id));
  if (end.state != "concluded") co_return absl::AbortedError("QEMU's job has not ended; try again");
  CO_RETURN_IF_ERROR(co_await DismissJob(machine, job->id));
  co_return end.error.empty() ? absl::OkStatus() : BlockJobError(kMerge, end.error);
}

Task<absl::Status> EndLeft(QemuMachine* machine, std::shared_ptr<JobStates> states) {
  CO_ASSIGN_OR_RETURN(const JobReport left, co_await AskForJob(machine, states->id));
  if (!left.present || left.state == "concluded") co_return absl::OkStatus();
  const absl::Status ended = co_await CancelAll(machine, states);
  co_return GotNoAnswer(ended) ? ended : absl::OkStatus();
}

Task<absl::Status> AwaitEndDuringJob(std::shared_ptr<QemuMachine> machine) {
  co_await machine->WaitEnded();
  co_return absl::UnavailableError("QEMU ended while it was at a disk's files");
}

// Hears of a job for as long as it lives.
class JobEar {
 public:
  JobEar(std::shared_ptr<QemuMachine> machine, std::string id)
      : states_(std::make_shared<JobStates>(machine->host().executor, std::move(id))),
        machine_(std::move(machine)),
        tap_(machine_->AddEventTap(
            [states = states_](const QmpEvent& event) { states->Hear(event); })) {}
  ~JobEar() { machine_->RemoveEventTap(tap_); }
  JobEar(const JobEar&) = delete;
  JobEar& operator=(const JobEar&) = delete;

  const std::shared_ptr<JobStates>& states() const { return states_; }

 private:
  const std::shared_ptr<JobStates> states_;
  const std::shared_ptr<QemuMachine> machine_;
  const uint64_t tap_;
};

// Until a job was driven to its end, or QEMU came to its own.
Task<absl::Status> Follow(std::shared_ptr<QemuMachine> machine, Task<absl::Status> drive,
                          std::string id, MergeProgress progress) {
  using asio::experimental::awaitable_operators::operator||;
  auto first = co_await (std::move(drive) || AwaitEndDuringJob(machine) ||
                         ShowProgress(machine.get(), std::move(id), std::move(progress)));
  if (first.index() == 0) co_return std::get<0>(first);
  co_return machine->WithLastWords(std::get<1>(first));
}

}  // namespace

absl::Status BlockJobError(const std::string& what, const std::string& text) {
  const std::string told = absl::StrCat("QEMU could not ", what, ": ", text);
  if (absl::StrContains(text, "No space left")) return absl::ResourceExhaustedError(told);
  return absl::AbortedError(told);
}

Task<absl::Status> RunSwitchJob(std::shared_ptr<QemuMachine> machine, SwitchJob job) {
  const JobEar ear(machine, job.id);
  Task<absl::Status> drive = DriveSwitch(machine.get(), &job, ear.states());
  co_return co_await Follow(machine, std::move(drive), job.id, job.progress);
}

Task<absl::Status> RunLowerCommitJob(std::shared_ptr<QemuMachine> machine, LowerCommitJob job) {
  const JobEar ear(machine, job.id);
  Task<absl::Status> drive = DriveLowerCommit(machine.get(), &job, ear.states());
  co_return co_await Follow(machine, std::move(drive), job.id, job.progress);
}

Task<absl::Status> EndLeftJob(std::shared_ptr<QemuMachine> machine, std::string id) {
  using asio::experimental::awaitable_operators::operator||;
  const JobEar ear(machine, std::move(id));
  auto first =
      co_await (WithDeadline(kEndDeadline, "QEMU's job", EndLeft(machine.get(), ear.states())) ||
                AwaitEndDuringJob(machine));
  co_return first.index() == 0 ? std::get<0>(first) : std::get<1>(first);
}

}  // namespace ferry::vm
