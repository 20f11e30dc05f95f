#include "vmmanager/qemu/snapshot_job.h"

#include <boost/json/array.hpp>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/qemu/job_report.h"
#include "vmmanager/qemu/json_text.h"
#include "vmmanager/qemu/qemu_machine.h"

namespace ferry::vm {
namespace {

namespace json = boost::json;
using Kind = SnapshotJob::Kind;

constexpr milliseconds kShortestJob{60'000};
constexpr milliseconds kPerMegabyte{100};  // 10 MiB/s
constexpr milliseconds kLastStateDeadline{10'000};

const char* CommandOf(Kind kind) {
  switch (kind) {
    case Kind::kSave:
      return "snapshot-save";
    case Kind::kLoad:
      return "snapshot-load";
    case Kind::kDelete:
      return "snapshot-delete";
  }
  return "";
}

const char* DoneWith(Kind kind) {
  switch (kind) {
    case Kind::kSave:
      return "save";
    case Kind::kLoad:
      return "load";
    case Kind::kDelete:
      return "delete";
  }
  return "";
}

struct Meaning {
  const char* text;  // a part of what QEMU says
  absl::StatusCode code;
};

// The first that fits counts.
constexpr Meaning kMeanings[] = {
    {"At least one device is required", absl::StatusCode::kInvalidArgument},
    {"Invalid job ID", absl::StatusCode::kInvalidArgument},
    {"No block device node", absl::StatusCode::kNotFound},
    {"does not exist in one or more devices", absl::StatusCode::kNotFound},
    {"already exists in one or more devices", absl::StatusCode::kAlreadyExists},
    {"vmstate block device", absl::StatusCode::kInvalidArgument},
    {"does not support snapshots", absl::StatusCode::kFailedPrecondition},
    {"disk-only snapshot", absl::StatusCode::kFailedPrecondition},
    {"does not support live migration", absl::StatusCode::kFailedPrecondition},
    {"blocked by", absl::StatusCode::kFailedPrecondition},
    {"migration process in progress", absl::StatusCode::kFailedPrecondition},
    {"duplicate yank instance", absl::StatusCode::kFailedPrecondition},  // a load's word for that
    {"migration and snapshots are incompatible", absl::StatusCode::kFailedPrecondition},
    {"No space left", absl::StatusCode::kResourceExhausted},
    {"while loading VM state", absl::StatusCode::kDataLoss},
    {"Could not load snapshot", absl::StatusCode::kDataLoss},
};

// Follows one job by QEMU's events.
struct Course {
  Course(const Executor& executor, std::string job_id) : changed(executor), id(std::move(job_id)) {}

  void Hear(const QmpEvent& event) {
    const bool ours = event.name == "JOB_STATUS_CHANGE" && TextAt(event.data, "id") == id;
    const std::string status = ours ? TextAt(event.data, "status") : "";
    // A former job of that id may still be telling its end.
    if (steps.empty() && status != "created") return;
    if (event.name == "STOP" || event.name == "RESUME") steps.push_back(event.name);
    if (!ours) return;
    state = status;
    steps.push_back(state);
    changed.Set();
  }

  AsyncEvent changed;
  const std::string id;
  std::string state;
  std::vector<std::string> steps;
};

Task<absl::Status> AwaitState(std::shared_ptr<Course> course, std::string state) {
  while (course->state != state) {
    course->changed.Reset();
    co_await course->changed.Wait();
  }
  co_return absl::OkStatus();
}

// A daemon that died in the middle of one could not dismiss it.
Task<absl::Status> DismissFormer(QemuMachine* machine, std::string id) {
  CO_ASSIGN_OR_RETURN(const JobReport former, co_await AskForJob(machine, id));
  if (!former.present) co_return absl::OkStatus();
  co_return co_await DismissJob(machine, std::move(id));
}

json::object ArgumentsOf(const SnapshotJob& job) {
  json::array nodes;
  for (const std::string& node : job.nodes) nodes.emplace_back(node);
  json::object arguments = {{"job-id", job.id}, {"tag", job.tag}, {"devices", std::move(nodes)}};
  if (job.kind != Kind::kDelete) arguments["vmstate"] = job.vm_state;
  return arguments;
}

Task<absl::Status> Drive(QemuMachine* machine, const SnapshotJob* job,
                         std::shared_ptr<Course> course) {
  const uint64_t words = machine->WordsSoFar();
  const uint64_t memory_mb = machine->document().virtual_machine.compute_topology.memory.size_in_mb;
  const milliseconds limit = SnapshotDeadline(memory_mb);
  machine->ExpectSilence(limit);
  const absl::Cleanup heard = [machine] { machine->ExpectSilence(std::nullopt); };
  json::object arguments = ArgumentsOf(*job);
  const absl::Status begun =
      (co_await machine->Command(CommandOf(job->kind), std::move(arguments))).status();
  if (!begun.ok()) {
    if (GotNoAnswer(begun)) co_return begun;
    const absl::string_view said = absl::StripPrefix(
        begun.message(), absl::StrCat("QEMU refused ", CommandOf(job->kind), ": "));
    co_return AsNothingChanged(SnapshotJobError(job->kind, job->tag, std::string(said), ""));
  }
  CO_RETURN_IF_ERROR(
      co_await WithDeadline(limit, "QEMU's snapshot job", AwaitState(course, "concluded")));
  CO_ASSIGN_OR_RETURN(const JobReport report, co_await AskForJob(machine, job->id));
  CO_RETURN_IF_ERROR(co_await DismissJob(machine, job->id));
  CO_RETURN_IF_ERROR(co_await WithDeadline(kLastStateDeadline, "the end of QEMU's snapshot job",
                                           AwaitState(course, "null")));
  if (report.error.empty()) co_return absl::OkStatus();
  co_return SnapshotJobError(job->kind, job->tag, report.error, machine->WordsSince(words));
}

// QEMU may end while it is at it, and then no event comes.
Task<absl::Status> AwaitQemusEnd(std::shared_ptr<QemuMachine> machine) {
  co_await machine->WaitEnded();
  co_return absl::UnavailableError("QEMU ended during the snapshot job");
}

}  // namespace

milliseconds SnapshotDeadline(uint64_t memory_mb) {
  return kShortestJob + kPerMegabyte * memory_mb;
}

absl::Status SnapshotJobError(Kind kind, const std::string& tag, const std::string& text,
                              const std::string& words) {
  absl::StatusCode code = absl::StatusCode::kAborted;
  for (const Meaning& meaning : kMeanings) {
    if (!absl::StrContains(text, meaning.text) && !absl::StrContains(words, meaning.text)) continue;
    code = meaning.code;
    break;
  }
  return absl::Status(code, absl::StrCat("QEMU could not ", DoneWith(kind), " the snapshot '", tag,
                                         "': ", text, words.empty() ? "" : "; QEMU said: ", words));
}

Task<SnapshotJobEnd> RunSnapshotJob(std::shared_ptr<QemuMachine> machine, SnapshotJob job) {
  using asio::experimental::awaitable_operators::operator||;
  SnapshotJobEnd end;
  end.status = co_await DismissFormer(machine.get(), job.id);
  if (!end.status.ok()) co_return end;
  auto course = std::make_shared<Course>(machine->host().executor, job.id);
  const uint64_t tap =
      machine->AddEventTap([course](const QmpEvent& event) { course->Hear(event); });
  const absl::Cleanup untap = [machine, tap] { machine->RemoveEventTap(tap); };
  auto first = co_await (Drive(machine.get(), &job, course) || AwaitQemusEnd(machine));
  end.status = first.index() == 0 ? std::get<0>(first) : machine->WithLastWords(std::get<1>(first));
  end.course = course->steps;
  co_return end;
}

}  // namespace ferry::vm
