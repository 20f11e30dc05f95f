#include "vmmanager/qemu/qemu_save_behind.h"

#include <boost/json/array.hpp>
#include <string>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/qemu/json_text.h"
#include "vmmanager/qemu/qemu_machine.h"
#include "vmmanager/qemu/qemu_migration_settings.h"
#include "vmmanager/qemu/snapshot_job.h"
#include "vmmanager/qemu/stream_relay.h"

namespace ferry::vm {
namespace {

namespace json = boost::json;

constexpr milliseconds kBehindPoll{20};
constexpr char kBehindName[] = "state-behind";
constexpr char kBehindCapability[] = "background-snapshot";

// What has been heard of the job.
struct BehindCourse {
  explicit BehindCourse(const Executor& executor) : changed(executor) {}

  void Hear(const QmpEvent& event) {
    if (event.name == "RESUME") ran = true;
    if (event.name == "MIGRATION") status = TextAt(event.data, "status");
    changed.Set();
  }
  bool over() const { return status == "completed" || status == "failed" || status == "cancelled"; }

  AsyncEvent changed;
  std::string status;
  bool ran = false;
};

json::object BehindCapability(bool on) {
  json::array list = {json::object{{"capability", kBehindCapability}, {"state", on}}};
  return {{"capabilities", std::move(list)}};
}

absl::Status CheckCanSaveBehind(QemuMachine& machine, const schema::SaveOptions& options,
                                const UniqueFd& stream) {
  if (machine.state() != schema::SystemState::kPaused) {
    return machine.WrongState("save it behind its back (pause it first)");
  }
  if (options.save_type != "ToFile") {
    return absl::InvalidArgumentError("SaveType must be ToFile");
  }
  if (!stream.valid()) return absl::InvalidArgumentError("there is no stream to save the VM into");
  if (machine.host().capabilities.can_migrate_with(kBehindCapability)) return absl::OkStatus();
  return absl::UnimplementedError("this QEMU cannot write a VM's memory while it runs");
}

// QEMU asks the kernel here whether it may follow what the guest writes.
Task<absl::Status> SetUpBehind(QemuMachine* machine) {
  // One that got there too late for its call would be taken for the next, and keeps the pipe open.
  json::object late = {{"fdname", kBehindName}};
  (void)co_await machine->Command("closefd", std::move(late));
  // Whatever else a former job wanted excludes it.
  CO_RETURN_IF_ERROR(co_await machine->SetPlainMigration());
  json::object capability = BehindCapability(true);
  const absl::Status set = co_await machine->SetMigrationCapabilities(std::move(capability));
  if (set.ok() || GotNoAnswer(set)) co_return set;
  co_return absl::UnimplementedError(absl::StrCat(
      "the VM's memory cannot be written while the VM runs on this host: ", set.message()));
}

// Where the memory is to be written.
Task<absl::StatusOr<UniqueFd>> OpenBehind(QemuMachine* machine, UniqueFd stream) {
  CO_RETURN_IF_ERROR(co_await SetUpBehind(machine));
  co_return co_await machine->OpenStatePipe(std::move(stream));
}

// QEMU has given up, or done, all of the job: its end of the pipe is closed.
Task<void> TearDownBehind(QemuMachine* machine) {
  json::object capability = BehindCapability(false);
  // Best effort: the next job sets all of them again.
  (void)co_await machine->SetMigrationCapabilities(std::move(capability));
}

Task<absl::Status> BeginBehind(QemuMachine* machine, UniqueFd pipe) {
  QmpCallOptions with_pipe;
  with_pipe.send_fd = pipe.get();
  json::object name = {{"fdname", kBehindName}};
  CO_RETURN_IF_ERROR((co_await machine->Command("getfd", std::move(name), with_pipe)).status());
  pipe.Reset();
  json::object uri = {{"uri", absl::StrCat("fd:", kBehindName)}};
  absl::Status begun = (co_await machine->Command("migrate", std::move(uri))).status();
  if (begun.ok() || GotNoAnswer(begun)) co_return begun;
  json::object unused = {{"fdname", kBehindName}};
  (void)co_await machine->Command("closefd", std::move(unused));
  co_return absl::FailedPreconditionError(begun.message());
}

Task<absl::Status> ReasonOf(QemuMachine* machine) {
  CO_ASSIGN_OR_RETURN(const json::value reply, co_await machine->Command("query-migrate"));
  const MigrationReport report = ParseMigrationReport(reply);
  co_return absl::AbortedError(absl::StrCat("QEMU could not write the state: ",
                                            report.error.empty() ? report.status : report.error));
}

Task<absl::Status> FollowBehind(QemuMachine* machine, std::shared_ptr<BehindCourse> course,
                                std::function<void()> on_running) {
  bool told = false;
  while (true) {
    if (course->ran && !std::exchange(told, true) && on_running) on_running();
    if (course->over()) break;
    course->changed.Reset();
    co_await course->changed.Wait();
  }
  if (course->status == "completed") co_return absl::OkStatus();
  absl::Status failed = co_await ReasonOf(machine);
  if (course->ran || GotNoAnswer(failed)) co_return failed;
  // The guest may have been let go just now.
  CO_ASSIGN_OR_RETURN(const std::string run_state, co_await machine->RunState());
  if (run_state != "running") failed = AsNothingChanged(std::move(failed));
  co_return failed;
}

// QEMU 7.2 hangs for ever when a write fails: whoever holds its lock may wait for a page that
// nobody writes any more. So it writes into a pipe of ours, which always takes all, also if we die.
Task<absl::Status> DriveBehind(std::shared_ptr<QemuMachine> machine, UniqueFd* stream,
                               std::function<void()> on_running,
                               std::shared_ptr<BehindCourse> course) {
  auto pipe = co_await OpenBehind(machine.get(), std::move(*stream));
  if (!pipe.ok()) {
    co_await TearDownBehind(machine.get());
    co_return AsNothingChanged(pipe.status());
  }
  UniqueFd write = *std::move(pipe);
  const absl::Status begun = co_await BeginBehind(machine.get(), std::move(write));
  if (!begun.ok() && !GotNoAnswer(begun)) {
    co_await TearDownBehind(machine.get());
    co_return AsNothingChanged(begun);
  }
  CO_RETURN_IF_ERROR(begun);
  StreamRelay& relay = machine->state_relay();
  absl::Status written = co_await FollowBehind(machine.get(), course, std::move(on_running));
  const absl::Status taken = co_await relay.AwaitEnd();
  // What is in the stream cannot be taken back.
  if (relay.has_carried()) written.ErasePayload(kNothingChanged);
  co_await TearDownBehind(machine.get());
  co_return written.ok() ? taken : written;
}

Task<absl::Status> AwaitEndBehind(std::shared_ptr<QemuMachine> machine) {
  co_await machine->WaitEnded();
  co_return absl::UnavailableError("QEMU ended while the VM was written");
}

// Whether a former daemon's job is still on its way.
Task<absl::StatusOr<bool>> IsBehind(QemuMachine* machine) {
  CO_ASSIGN_OR_RETURN(const json::value reply, co_await machine->Command("query-migrate"));
  const std::string status = ParseMigrationReport(reply).status;
  co_return status == "setup" || status == "active" || status == "device";
}

Task<absl::StatusOr<bool>> CanBeBehind(QemuMachine* machine) {
  CO_ASSIGN_OR_RETURN(const json::value reply,
                      co_await machine->Command("query-migrate-capabilities"));
  const json::array* all = reply.if_array();
  for (size_t i = 0; all != nullptr && i < all->size(); ++i) {
    const json::object* each = (*all)[i].if_object();
    if (each == nullptr || TextAt(*each, "capability") != kBehindCapability) continue;
    const json::value* on = each->if_contains("state");
    co_return on != nullptr && on->is_bool() && on->get_bool();
  }
  co_return false;
}

}  // namespace

Task<absl::Status> AwaitQemuBehind(std::shared_ptr<QemuMachine> machine) {
  CO_ASSIGN_OR_RETURN(const bool may_be, co_await CanBeBehind(machine.get()));
  if (!may_be) co_return absl::OkStatus();
  while (true) {
    CO_ASSIGN_OR_RETURN(const bool is, co_await IsBehind(machine.get()));
    if (!is) break;
    co_await Delay(kBehindPoll);
  }
  co_await TearDownBehind(machine.get());
  co_return absl::OkStatus();
}

Task<absl::Status> SaveQemuBehind(std::shared_ptr<QemuMachine> machine, schema::SaveOptions options,
                                  UniqueFd stream, std::function<void()> on_running) {
  using asio::experimental::awaitable_operators::operator||;
  CO_RETURN_IF_ERROR(AsNothingChanged(CheckCanSaveBehind(*machine, options, stream)));
  auto course = std::make_shared<BehindCourse>(machine->host().executor);
  const uint64_t tap =
      machine->AddEventTap([course](const QmpEvent& event) { course->Hear(event); });
  const absl::Cleanup untap = [machine, tap] { machine->RemoveEventTap(tap); };
  const uint64_t memory_mb = machine->document().virtual_machine.compute_topology.memory.size_in_mb;
  machine->ExpectSilence(SnapshotDeadline(memory_mb));
  const absl::Cleanup heard = [machine] { machine->ExpectSilence(std::nullopt); };
  auto first = co_await (DriveBehind(machine, &stream, std::move(on_running), course) ||
                         AwaitEndBehind(machine));
  if (first.index() == 0) co_return std::get<0>(first);
  co_return machine->WithLastWords(std::get<1>(first));
}

}  // namespace ferry::vm
