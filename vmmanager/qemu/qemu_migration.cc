#include "vmmanager/qemu/qemu_migration.h"

#include <algorithm>
#include <boost/json/serialize.hpp>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/qemu/disk_nodes.h"
#include "vmmanager/qemu/migration_channel.h"
#include "vmmanager/qemu/qemu_disk_copies.h"
#include "vmmanager/qemu/unix_socket.h"

namespace ferry::vm {
namespace {

namespace json = boost::json;
using schema::MigrationEventName;
using schema::MigrationFinalOperation;
using schema::MigrationResult;
using schema::SystemState;

constexpr milliseconds kProgressPeriod{250};
// A pass that begins so soon after the last report gets none of its own, unless it decides how much
// the guest is slowed down: QEMU is slow to read what it is asked, and short passes come just
// before the switchover.
constexpr milliseconds kPassReportPeriod{50};
constexpr milliseconds kCancelDeadline{2'000};
constexpr milliseconds kStreamEndDeadline{10'000};
// Of a QEMU whose monitor is closed.
constexpr milliseconds kEndPatience{5'000};

json::object UriOf(const MigrationEndpoint& endpoint) {
  return {{"uri", absl::StrCat("unix:", endpoint.unix_path)}};
}

// The order that ends the pause in which the cut is taken.
constexpr char kContinue[] = "migrate-continue";
json::object FromThePause() { return {{"state", "pre-switchover"}}; }

}  // namespace

QemuMigration::QemuMigration(QemuMachine& machine)
    : machine_(machine),
      signals_(std::make_shared<AsyncQueue<Signal>>(machine.host().executor)),
      cancel_(machine.host().executor),
      transfer_over_(machine.host().executor) {
  transfer_over_.Set();
  machine_.set_observer(this);
}

QemuMigration::~QemuMigration() { machine_.set_observer(nullptr); }

void QemuMigration::Tell(MigrationEventName name, MigrationResult result,
                         std::chrono::steady_clock::time_point when) {
  machine_.EmitMigration(origin_, name, result, when);
}

bool QemuMigration::StreamOver() const {
  return status_ == "completed" || status_ == "failed" || status_ == "cancelled" ||
         machine_.state() == SystemState::kStopped;
}

Task<absl::Status> QemuMigration::Configure(json::object parameters) {
  co_await machine_.ReadMigrationSettings();
  json::object capabilities = CapabilitiesFor(options_, machine_.host().capabilities);
  CO_RETURN_IF_ERROR(co_await machine_.SetMigrationCapabilities(std::move(capabilities)));
  co_return co_await machine_.SetMigrationParameters(std::move(parameters));
}

Task<void> QemuMigration::ResetSettings(std::shared_ptr<QemuMachine> machine) {
  // Best effort: the next job sets all of them again.
  json::object capabilities = PlainCapabilities(machine->host().capabilities);
  (void)co_await machine->SetMigrationCapabilities(std::move(capabilities));
  json::object parameters = ParametersFor({});
  (void)co_await machine->SetMigrationParameters(std::move(parameters));
}

Task<absl::Status> QemuMigration::Listen(schema::MigrationInitializeOptions options,
                                         MigrationEndpoint endpoint) {
  CO_RETURN_IF_ERROR(CheckUnixPath(endpoint.unix_path));
  CO_RETURN_IF_ERROR(CheckSupported(options, machine_.host().capabilities));
  origin_ = Origin::kDestination;
  options_ = std::move(options);
  endpoint_ = std::move(endpoint);
  json::object parameters = IncomingParametersFor(options_);
  CO_RETURN_IF_ERROR(co_await Configure(std::move(parameters)));
  json::object uri = UriOf(endpoint_);
  absl::Status listening = (co_await machine_.Command("migrate-incoming", std::move(uri))).status();
  CO_RETURN_IF_ERROR(listening);
  machine_.set_state(SystemState::kIncoming);
  stage_ = Stage::kStarted;
  co_return absl::OkStatus();
}

Task<absl::Status> QemuMigration::Initialize(schema::MigrationInitializeOptions options) {
  const SystemState state = machine_.state();
  if (state != SystemState::kRunning && state != SystemState::kPaused) {
    co_return machine_.WrongState("prepare a migration");
  }
  if (stage_ != Stage::kNone) {
    co_return absl::FailedPreconditionError(
        absl::StrCat("the VM ", machine_.id(), " is being migrated already"));
  }
  if (options.origin.value_or(Origin::kSource) != Origin::kSource) {
    co_return absl::InvalidArgumentError("Origin must be Source on a migration's source");
  }
  CO_RETURN_IF_ERROR(CheckSupported(options, machine_.host().capabilities));
  CO_ASSIGN_OR_RETURN(const json::value reply, co_await machine_.Command("query-migrate"));
  const MigrationReport report = ParseMigrationReport(reply);
  if (!report.blocked_reasons.empty()) {
    co_return absl::FailedPreconditionError(absl::StrCat("the VM cannot be migrated as it is: ",
                                                         json::serialize(report.blocked_reasons)));
  }
  options_ = std::move(options);
  origin_ = Origin::kSource;
  stage_ = Stage::kInitialized;
  cancelled_ = mirrors_ = false;
  write_limit_ = ThrottlePolicyOf(options_) ? std::make_shared<WriteLimit>() : nullptr;
  co_return absl::OkStatus();
}

Task<absl::Status> QemuMigration::Start(MigrationEndpoint endpoint) {
  if (stage_ != Stage::kInitialized || origin_ != Origin::kSource) {
    co_return absl::FailedPreconditionError(
        "StartLiveMigrationOnSource needs InitializeLiveMigrationOnSource first");
  }
  CO_RETURN_IF_ERROR(CheckUnixPath(endpoint.unix_path));
  // What is being cancelled must not begin: nobody would listen to it.
  if (cancelled_) co_return absl::CancelledError("the migration was cancelled");
  endpoint_ = std::move(endpoint);
  json::object parameters = ParametersFor(options_);
  CO_RETURN_IF_ERROR(co_await Configure(std::move(parameters)));
  if (cancelled_) co_return absl::CancelledError("the migration was cancelled");
  stage_ = Stage::kStarted;
  Tell(MigrationEventName::kSetupDone);
  co_return absl::OkStatus();
}

Task<absl::Status> QemuMigration::Transfer(schema::MigrationTransferOptions options,
                                           TransferHooks hooks) {
  if (stage_ != Stage::kStarted || options.origin != origin_) {
    co_return absl::FailedPreconditionError(
        "StartLiveMigrationTransfer needs a started migration of the same origin");
  }
  if (cancelled_) co_return absl::CancelledError("the migration was cancelled");
  // A task may be dropped while it waits; Cancel and Finalize must still learn that it is over.
  struct SetOnExit {
    AsyncEvent* event;
    ~SetOnExit() { event->Set(); }
  } over{&transfer_over_};
  transfer_over_.Reset();
  cancel_.Reset();
  stage_ = Stage::kTransferring;
  absl::Status status;
  if (origin_ == Origin::kSource) {
    status = co_await TransferOut(std::move(hooks));
  } else {
    status = co_await TransferIn();
  }
  co_return status;
}

Task<void> QemuMigration::Sample(std::shared_ptr<AsyncQueue<Signal>> signals) {
  while (true) {
    co_await Delay(kProgressPeriod);
    signals->Push({.kind = Signal::Kind::kSample});
  }
}

Task<absl::Status> QemuMigration::TransferOut(TransferHooks hooks) {
  ran_before_ = machine_.state() == SystemState::kRunning;
  user_paused_ = !ran_before_;
  blackout_told_ = false;
  reported_at_ = {};
  forced_ = false;
  lifted_ = false;
  status_.clear();
  share_.reset();
  if (mirrors_ && max_bandwidth() > 0) share_.emplace(max_bandwidth());
  if (write_limit_) write_limit_->Restart();
  while (signals_->size() > 0) co_await signals_->Pop();
  TaskScope sampling(machine_.host().executor);
  sampling.Spawn(Sample(signals_));
  const MigrationEndpoint endpoint = endpoint_;
  absl::StatusOr<std::string> address =
      co_await OpenMigrationChannel(&machine_, endpoint, HasSeveralChannels(options_));
  absl::Status status = address.status();
  if (status.ok()) {
    json::object uri = {{"uri", *std::move(address)}};
    status = (co_await machine_.Command("migrate", std::move(uri))).status();
  }
  if (status.ok()) status = co_await DriveOut(hooks);
  co_await sampling.CancelAndJoin();
  if (!status.ok()) co_return co_await Abort(status);
  // A QEMU that says "completed" goes to postmigrate whatever comes, and will not run the guest by
  // itself. The last numbers come beside what follows: the destination waits.
  Spawn(machine_.host().executor, ReportLast(machine_.shared_from_this(), forced_));
  if (cancelled_) co_return co_await Abort(absl::CancelledError("the migration was cancelled"));
  stage_ = Stage::kTransferred;
  Tell(MigrationEventName::kOfflineDone);
  co_return absl::OkStatus();
}

Task<absl::Status> QemuMigration::DriveOut(TransferHooks& hooks) {
  while (true) {
    const std::optional<Signal> signal = co_await signals_->Pop();
    if (cancelled_) co_return absl::CancelledError("the migration was cancelled");
    CO_RETURN_IF_ERROR(co_await React(*signal, hooks));
    if (status_ == "active") machine_.Anticipate(kContinue, FromThePause());
    if (signal->kind == Signal::Kind::kStatus && signal->status == "completed") {
      co_return absl::OkStatus();
    }
  }
}

Task<absl::Status> QemuMigration::React(const Signal& signal, TransferHooks& hooks) {
  switch (signal.kind) {
    case Signal::Kind::kPass:
      co_await OnPass(signal.pass);
      break;
    case Signal::Kind::kSample: {
      const std::optional<TransferProgress> progress = co_await ReportProgress();
      co_await KeepLimits(progress);
      break;
    }
    case Signal::Kind::kExited:
      co_return absl::AbortedError("the VM ended during its migration");
    case Signal::Kind::kCancel:
      co_return absl::CancelledError("the migration was cancelled");
    case Signal::Kind::kStatus:
      if (signal.status == "pre-switchover") {
        co_return co_await SwitchOver(hooks, signal.when);
      }
      if (signal.status == "failed" || signal.status == "cancelled") {
        co_return co_await FailureOf(signal.status);
      }
      break;
  }
  co_return absl::OkStatus();
}

void QemuMigration::TellBlackout(std::chrono::steady_clock::time_point when) {
  if (std::exchange(blackout_told_, true)) return;
  Tell(MigrationEventName::kBlackoutStarted, MigrationResult::kSuccess, when);
}

Task<absl::Status> QemuMigration::SwitchOver(TransferHooks& hooks,
                                             std::chrono::steady_clock::time_point when) {
  TellBlackout(when);  // a guest that was paused before gave no STOP
  // A stream that has failed since may have let it run on.
  if (machine_.state() != SystemState::kRunning) machine_.SilenceCards();
  if (hooks.check_rest) {
    const std::optional<TransferProgress> rest = co_await Measure();
    if (rest) CO_RETURN_IF_ERROR(hooks.check_rest(*rest));
  }
  machine_.Anticipate(kContinue, FromThePause());
  CO_RETURN_IF_ERROR(co_await RunHook(hooks));
  if (cancelled_) co_return absl::CancelledError("the migration was cancelled");
  json::object state = FromThePause();
  co_return (co_await machine_.Command(kContinue, std::move(state))).status();
}

// The hook may take its time; a cancellation does not wait for it.
Task<absl::Status> QemuMigration::RunHook(TransferHooks& hooks) {
  using asio::experimental::awaitable_operators::operator||;
  if (!hooks.on_stopped) co_return absl::OkStatus();
  try {
    auto result = co_await (hooks.on_stopped() || cancel_.Wait());
    if (result.index() == 0) co_return std::get<0>(std::move(result));
  } catch (const asio::multiple_exceptions&) {
    // Both were cancelled from outside: unwind as a plain cancelled task does.
    throw boost::system::system_error(asio::error::operation_aborted);
  }
  co_return absl::CancelledError("the migration was cancelled");
}

Task<absl::Status> QemuMigration::FailureOf(const std::string& status) {
  if (status == "cancelled") co_return absl::CancelledError("the migration was cancelled");
  std::string reason = "QEMU gave no reason; look at the destination's";
  absl::StatusOr<json::value> reply = co_await machine_.Command("query-migrate");
  if (reply.ok()) {
    const MigrationReport report = ParseMigrationReport(*reply);
    if (!report.error.empty()) reason = report.error;
  }
  // QEMU writes everything back before it gives the disks up, and is silent where it cannot.
  const auto nodes = co_await DiskNodesOf(machine_.shared_from_this());
  const auto fails = [](const auto& each) { return each.second.io_status != "ok"; };
  if (nodes.ok() && std::any_of(nodes->begin(), nodes->end(), fails)) {
    reason = "what its guest has written cannot be written back to a disk that fails on this host";
  }
  co_return absl::AbortedError(absl::StrCat("the transfer failed: ", reason));
}

// Ends the stream, lets the guest run on if it ran, and returns why.
Task<absl::Status> QemuMigration::Abort(absl::Status reason) {
  MigrationResult result = MigrationResult::kSourceMigrationFailed;
  if (machine_.state() == SystemState::kStopped) {
    stage_ = Stage::kNone;
    Tell(MigrationEventName::kMigrationFailed, MigrationResult::kGuestInitiatedCancellation);
    co_return machine_.WithLastWords(reason);
  }
  if (absl::IsCancelled(reason)) result = MigrationResult::kMigrationCancelled;
  absl::Status stopped = co_await StopStream();
  absl::Status running = stopped;
  if (stopped.ok()) running = co_await RunOnHere();
  co_await ResetSettings(machine_.shared_from_this());
  stage_ = Stage::kNone;
  Tell(MigrationEventName::kMigrationFailed, result);
  if (running.ok()) co_return reason;
  co_return absl::Status(reason.code(), absl::StrCat(reason.message(),
                                                     "; and the VM does not run "
                                                     "on here: ",
                                                     running.message()));
}

// Makes QEMU drop the stream. Its main loop may hang in a socket that nobody reads; then the socket
// is torn from its hands.
Task<absl::Status> QemuMigration::StopStream() {
  const QmpCallOptions quick{.deadline = kCancelDeadline};
  if (!StreamOver()) {
    json::object none;
    absl::Status asked =
        (co_await machine_.Command("migrate_cancel", std::move(none), quick)).status();
    if (absl::IsDeadlineExceeded(asked)) {
      const QmpCallOptions jump{.deadline = kCancelDeadline, .lane = QmpLane::kOutOfBand};
      json::object instance = {{"type", "migration"}};
      json::object arguments = {{"instances", json::array({std::move(instance)})}};
      asked = (co_await machine_.Command("yank", std::move(arguments), jump)).status();
    }
    CO_RETURN_IF_ERROR(asked);
  }
  co_return co_await WithDeadline(kStreamEndDeadline, "the end of the stream", AwaitStreamEnd());
}

Task<absl::Status> QemuMigration::AwaitStreamEnd() {
  while (!StreamOver()) {
    // QEMU may have been without a migration at all, then no event comes.
    CO_ASSIGN_OR_RETURN(const json::value reply, co_await machine_.Command("query-migrate"));
    const std::string status = ParseMigrationReport(reply).status;
    if (status.empty() || status == "cancelled" || status == "failed" || status == "completed" ||
        status == "none") {
      break;
    }
    co_await signals_->Pop();
  }
  co_return absl::OkStatus();
}

Task<absl::Status> QemuMigration::RunOnHere() {
  if (machine_.state() == SystemState::kStopped) co_return machine_.WrongState("run on");
  if (!ran_before_) co_return absl::OkStatus();
  // QEMU may let the guest run by itself in a moment, and until then refuses to be told.
  CO_ASSIGN_OR_RETURN(const std::string run_state, co_await machine_.SettledRunState());
  // Its user may have paused it meanwhile.
  if (!user_paused_) co_return co_await machine_.RunGuest();
  // Of a pause that came while the guest stood still for the switchover QEMU knows nothing.
  if (run_state != "running") co_return absl::OkStatus();
  CO_RETURN_IF_ERROR((co_await machine_.Command("stop")).status());
  machine_.set_state(SystemState::kPaused);
  co_return absl::OkStatus();
}

Task<void> QemuMigration::OnPass(uint64_t pass) {
  if (DowntimePolicyOf(options_).ForcesAt(pass)) forced_ = lifted_ = true;
  uint32_t throttle = 0;
  const auto due = reported_at_ + kPassReportPeriod;
  if (ThrottlePolicyOf(options_) || std::chrono::steady_clock::now() >= due) {
    const std::optional<TransferProgress> progress = co_await ReportProgress();
    if (progress) throttle = progress->throttle_percent;
  }
  json::object wanted = ParametersAt(options_, pass, throttle);
  if (lifted_) wanted["downtime-limit"] = kForcedDowntimeMs;
  (void)co_await machine_.SetMigrationParameters(std::move(wanted));
}

Task<absl::Status> QemuMigration::ForceSwitchover(SwitchoverForce how) {
  if (stage_ != Stage::kTransferring || origin_ != Origin::kSource || transfer_over_.is_set()) {
    co_return absl::FailedPreconditionError(
        "a switchover can be forced only while the VM's memory moves");
  }
  forced_ = true;
  if (how == SwitchoverForce::kPauseGuest) {
    // Not by the user: its STOP begins the blackout, and the guest is run again by whoever holds
    // it.
    co_return (co_await machine_.Command("stop")).status();
  }
  lifted_ = true;
  json::object parameters = {{"downtime-limit", kForcedDowntimeMs}};
  co_return co_await machine_.SetMigrationParameters(std::move(parameters));
}

Task<absl::Status> QemuMigration::TransferIn() {
  while (status_ != "completed") {
    if (cancelled_) co_return absl::CancelledError("the migration was cancelled");
    if (machine_.state() == SystemState::kStopped || status_ == "failed") {
      co_return machine_.WithLastWords(
          absl::AbortedError("the destination could not take the VM's state"));
    }
    co_await signals_->Pop();
  }
  // A QEMU that lets the guest run by itself says so before it says that it has all.
  if (resumed_at_) co_return absl::InternalError("the destination runs before it was told to");
  machine_.set_state(SystemState::kPaused);
  stage_ = Stage::kTransferred;
  machine_.Anticipate("cont");
  co_return absl::OkStatus();
}

Task<absl::Status> QemuMigration::Finalize(schema::MigrationFinalizedOptions options) {
  if (stage_ == Stage::kTransferring) {
    co_return absl::FailedPreconditionError("the transfer has not ended; cancel it first");
  }
  if (stage_ == Stage::kNone || options.origin != origin_) {
    co_return absl::FailedPreconditionError(
        "FinalizeLiveMigration needs a started migration of the same origin");
  }
  // A daemon that has taken it over does not know whether it ran before.
  if (origin_ == Origin::kSource && options.leave_paused) user_paused_ = true;
  if (origin_ == Origin::kSource) co_return co_await FinalizeSource(options.finalized_operation);
  co_return co_await FinalizeDestination(options);
}

Task<absl::Status> QemuMigration::FinalizeSource(MigrationFinalOperation operation) {
  if (operation == MigrationFinalOperation::kStop) {
    if (stage_ != Stage::kTransferred) {
      co_return absl::FailedPreconditionError("the source still holds the VM; transfer it first");
    }
    Tell(MigrationEventName::kMigrationDone);
    stage_ = Stage::kNone;
    co_return co_await machine_.End(SystemExit::Cause::kTerminated);
  }
  if (stage_ == Stage::kTransferred) CO_RETURN_IF_ERROR(co_await RunOnHere());
  co_await ResetSettings(machine_.shared_from_this());
  stage_ = Stage::kNone;
  Tell(MigrationEventName::kMigrationRecoveryDone);
  co_return absl::OkStatus();
}

Task<absl::Status> QemuMigration::FinalizeDestination(
    const schema::MigrationFinalizedOptions& options) {
  if (options.finalized_operation == MigrationFinalOperation::kStop) {
    stage_ = Stage::kNone;
    co_return co_await machine_.End(SystemExit::Cause::kTerminated);
  }
  if (stage_ != Stage::kTransferred) {
    co_return absl::FailedPreconditionError("the destination does not hold the VM's state yet");
  }
  resumed_at_.reset();
  machine_.OpenLink();
  absl::Status runs;
  if (options.leave_paused) {
    // Nothing is asked of it, so that it has ended meanwhile would not be seen.
    runs = (co_await machine_.RunState()).status();
  } else {
    runs = co_await machine_.RunGuest();
  }
  // QEMU has written that it goes on before it does. So one that has ended without that has not;
  // one that has not answered may still do so.
  bool over = options.leave_paused || !absl::IsDeadlineExceeded(runs);
  if (!options.leave_paused && absl::IsUnavailable(runs)) {
    over = co_await machine_.HasEnded(kEndPatience);
  }
  if (!runs.ok() && over && !resumed_at_) runs.SetPayload(kHasNotRun, absl::Cord());
  CO_RETURN_IF_ERROR(runs);
  stage_ = Stage::kNone;
  Tell(MigrationEventName::kBlackoutExited, MigrationResult::kSuccess,
       resumed_at_.value_or(std::chrono::steady_clock::now()));
  Tell(MigrationEventName::kMigrationDone);
  // Clients wait for this to return, but not for the settings to be put back.
  Spawn(machine_.host().executor, ResetSettings(machine_.shared_from_this()));
  co_return absl::OkStatus();
}

Task<absl::Status> QemuMigration::Cancel(Origin origin) {
  if (stage_ == Stage::kNone) co_return absl::OkStatus();
  if (origin == Origin::kSource && origin_ == Origin::kDestination)
    co_return co_await ForgetArrival();
  cancelled_ = true;
  if (origin_ == Origin::kDestination) {
    signals_->Push({.kind = Signal::Kind::kCancel});
    absl::Status ended = co_await machine_.End(SystemExit::Cause::kTerminated);
    stage_ = Stage::kNone;
    co_return ended;
  }
  if (stage_ == Stage::kTransferring && !transfer_over_.is_set()) {
    cancel_.Set();
    signals_->Push({.kind = Signal::Kind::kCancel});
    // Transfer itself rolls back: only one task at a time talks about the stream.
    constexpr milliseconds kRollbackDeadline = kCancelDeadline * 3 + kStreamEndDeadline;
    CO_RETURN_IF_ERROR(
        co_await WithDeadline(kRollbackDeadline, "the roll-back", transfer_over_.Wait()));
    if (stage_ == Stage::kNone) co_return absl::OkStatus();
  }
  absl::Status status = co_await StopStream();
  if (status.ok() && stage_ >= Stage::kTransferring) status = co_await RunOnHere();
  co_await ResetSettings(machine_.shared_from_this());
  stage_ = Stage::kNone;
  Tell(MigrationEventName::kMigrationFailed, MigrationResult::kMigrationCancelled);
  co_return status;
}

void QemuMigration::NoteUserPause() { user_paused_ = true; }

bool QemuMigration::OnRunState(bool running, std::chrono::steady_clock::time_point when) {
  if (stage_ == Stage::kNone) return false;
  if (running) {
    resumed_at_ = when;
    return stage_ == Stage::kTransferring || stage_ == Stage::kTransferred;
  }
  if (stage_ != Stage::kTransferring || user_paused_ || origin_ != Origin::kSource) return false;
  TellBlackout(when);
  return true;
}

void QemuMigration::OnMigrationEvent(const QmpEvent& event,
                                     std::chrono::steady_clock::time_point when) {
  if (stage_ == Stage::kNone) return;
  Signal signal{.when = when};
  if (event.name == "MIGRATION_PASS") {
    signal.kind = Signal::Kind::kPass;
    const json::value* pass = event.data.if_contains("pass");
    boost::system::error_code ignored;
    if (pass != nullptr) signal.pass = pass->to_number<uint64_t>(ignored);
  } else {
    signal.kind = Signal::Kind::kStatus;
    const json::value* status = event.data.if_contains("status");
    const json::string* text = status == nullptr ? nullptr : status->if_string();
    if (text == nullptr) return;
    signal.status.assign(text->data(), text->size());
    status_ = signal.status;
    // Told here, so that it comes before the blackout however late Transfer reads its signals.
    if (status_ == "active" && origin_ == Origin::kSource && stage_ == Stage::kTransferring) {
      Tell(MigrationEventName::kTransferInProgress, MigrationResult::kSuccess, when);
    }
  }
  signals_->Push(std::move(signal));
}

void QemuMigration::OnExit() { signals_->Push({.kind = Signal::Kind::kExited}); }

}  // namespace ferry::vm
