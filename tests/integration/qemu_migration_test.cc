#include <iostream>

#include "tests/integration/qemu_fixture.h"

namespace ferry::vm {
namespace {

using schema::MigrationEventName;
using schema::MigrationFinalOperation;
using schema::MigrationOrigin;
using schema::SystemState;

constexpr schema::MigrationTransferOptions kOut{MigrationOrigin::kSource};
constexpr schema::MigrationTransferOptions kIn{MigrationOrigin::kDestination};
constexpr schema::MigrationFinalizedOptions kStopSource{MigrationOrigin::kSource,
                                                        MigrationFinalOperation::kStop};
constexpr schema::MigrationFinalizedOptions kResumeSource{MigrationOrigin::kSource,
                                                          MigrationFinalOperation::kResume};
constexpr schema::MigrationFinalizedOptions kResumeDestination{MigrationOrigin::kDestination,
                                                               MigrationFinalOperation::kResume};
constexpr schema::MigrationCancelOptions kCancelSource{MigrationOrigin::kSource};
constexpr schema::MigrationCancelOptions kCancelDestination{MigrationOrigin::kDestination};

// The outcome of a transfer that runs beside the test.
struct Outcome {
  explicit Outcome(Executor executor) : over(std::move(executor)) {}
  AsyncEvent over;
  absl::Status status;
};

class QemuMigrationTest : public QemuFixture {
 protected:
  std::shared_ptr<Outcome> TransferBeside(ComputeSystem* system,
                                          schema::MigrationTransferOptions options,
                                          TransferHooks hooks = {}) {
    auto outcome = std::make_shared<Outcome>(executor());
    auto run = [](ComputeSystem* vm, schema::MigrationTransferOptions what, TransferHooks with,
                  std::shared_ptr<Outcome> into) -> Task<void> {
      into->status = co_await vm->StartLiveMigrationTransfer(what, std::move(with));
      into->over.Set();
    };
    Spawn(executor(), run(system, options, std::move(hooks), outcome));
    return outcome;
  }

  static schema::MigrationInitializeOptions Slow() {
    schema::MigrationInitializeOptions options;
    options.max_bandwidth = 50'000;
    return options;
  }

  Task<absl::Status> Prepare(ComputeSystem* source, schema::MigrationInitializeOptions options) {
    absl::Status status = co_await source->InitializeLiveMigrationOnSource(options);
    if (!status.ok()) co_return status;
    const schema::MigrationStartOptions start;
    const MigrationEndpoint endpoint{MigrationPath()};
    co_return co_await source->StartLiveMigrationOnSource(start, endpoint);
  }

  // Opens a backend and starts a source on it.
  Task<absl::Status> Open() {
    auto backend = co_await QemuBackend::Open(executor(), Config());
    if (!backend.ok()) co_return backend.status();
    backend_ = *std::move(backend);
    auto system = co_await StartSystem(backend_.get());
    if (!system.ok()) co_return system.status();
    source_ = *std::move(system);
    source_log_ = Watch(source_.get());
    co_return absl::OkStatus();
  }

  Task<absl::Status> OpenDestination(schema::MigrationInitializeOptions options) {
    auto system = co_await StartDestination(backend_.get(), std::move(options));
    if (!system.ok()) co_return system.status();
    destination_ = *std::move(system);
    destination_log_ = Watch(destination_.get());
    co_return absl::OkStatus();
  }

  // Runs both transfers to their end.
  Task<absl::Status> TransferBoth(TransferHooks hooks = {}) {
    auto in = TransferBeside(destination_.get(), kIn);
    absl::Status out = co_await source_->StartLiveMigrationTransfer(kOut, std::move(hooks));
    if (!out.ok()) co_return out;
    co_await in->over.Wait();
    co_return in->status;
  }

  Task<void> EndAll() {
    if (source_) CO_EXPECT_OK(co_await source_->Terminate());
    if (destination_) CO_EXPECT_OK(co_await destination_->Terminate());
    EXPECT_EQ(FoldersLeft(), 0u);
  }

  static Task<absl::Status> CountCall(int* calls) {
    ++*calls;
    co_return absl::OkStatus();
  }
  static Task<absl::Status> Refuse() {
    co_return absl::UnavailableError("the peer has changed its mind");
  }

  Task<void> Moves() {
    CO_EXPECT_OK(co_await Open());
    CO_EXPECT_OK(co_await OpenDestination({}));
    EXPECT_EQ(co_await StateOf(destination_.get()), SystemState::kIncoming);
    CO_EXPECT_OK(co_await Prepare(source_.get(), {}));
    EXPECT_TRUE(absl::IsFailedPrecondition(co_await Prepare(source_.get(), {})));
    int calls = 0;
    TransferHooks hooks;
    hooks.on_stopped = [&calls] { return CountCall(&calls); };
    CO_EXPECT_OK(co_await TransferBoth(hooks));
    EXPECT_EQ(calls, 1);
    EXPECT_EQ(co_await StateOf(source_.get()), SystemState::kPaused);
    EXPECT_EQ(co_await StateOf(destination_.get()), SystemState::kPaused);
    CO_EXPECT_OK(co_await destination_->FinalizeLiveMigration(kResumeDestination));
    EXPECT_EQ(co_await StateOf(destination_.get()), SystemState::kRunning);
    CO_EXPECT_OK(co_await source_->FinalizeLiveMigration(kStopSource));
    const SystemEvent exit = co_await source_log_->Await(SystemEvent::Kind::kExited);
    EXPECT_EQ(exit.exit.cause, SystemExit::Cause::kTerminated);
    for (const auto name : {MigrationEventName::kSetupDone, MigrationEventName::kBlackoutStarted,
                            MigrationEventName::kOfflineDone, MigrationEventName::kMigrationDone}) {
      EXPECT_NE(source_log_->Find(name), nullptr) << std::string(schema::ToString(name));
    }
    EXPECT_NE(source_log_->Find(SystemEvent::Kind::kTransferProgress), nullptr);
    const auto begin = co_await source_log_->Await(MigrationEventName::kBlackoutStarted);
    const auto end = co_await destination_log_->Await(MigrationEventName::kBlackoutExited);
    EXPECT_LT(begin.when, end.when);
    const std::chrono::duration<double, std::milli> blackout = end.when - begin.when;
    std::cout << "blackout " << blackout.count() << " ms\n";
    co_await EndAll();
  }

  Task<void> HookRefuses() {
    CO_EXPECT_OK(co_await Open());
    CO_EXPECT_OK(co_await OpenDestination({}));
    CO_EXPECT_OK(co_await Prepare(source_.get(), {}));
    TransferHooks hooks;
    hooks.on_stopped = [] { return Refuse(); };
    const absl::Status status = co_await source_->StartLiveMigrationTransfer(kOut, hooks);
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    EXPECT_EQ(co_await StateOf(source_.get()), SystemState::kRunning);
    const SystemEvent gone = co_await destination_log_->Await(SystemEvent::Kind::kExited);
    EXPECT_EQ(gone.exit.cause, SystemExit::Cause::kCrashed);
    co_await EndAll();
  }

  Task<void> CancelledThenMovesAgain() {
    CO_EXPECT_OK(co_await Open());
    CO_EXPECT_OK(co_await OpenDestination({}));
    CO_EXPECT_OK(co_await Prepare(source_.get(), Slow()));
    auto out = TransferBeside(source_.get(), kOut);
    auto in = TransferBeside(destination_.get(), kIn);
    co_await source_log_->Await(MigrationEventName::kTransferInProgress);
    EXPECT_TRUE(absl::IsFailedPrecondition(co_await source_->FinalizeLiveMigration(kStopSource)));
    CO_EXPECT_OK(co_await source_->CancelLiveMigration(kCancelSource));
    CO_EXPECT_OK(co_await source_->CancelLiveMigration(kCancelSource));
    co_await out->over.Wait();
    EXPECT_TRUE(absl::IsCancelled(out->status)) << out->status;
    EXPECT_EQ(co_await StateOf(source_.get()), SystemState::kRunning);
    CO_EXPECT_OK(co_await destination_->CancelLiveMigration(kCancelDestination));
    co_await in->over.Wait();
    EXPECT_FALSE(in->status.ok());

    CO_EXPECT_OK(co_await OpenDestination({}));
    CO_EXPECT_OK(co_await Prepare(source_.get(), {}));
    CO_EXPECT_OK(co_await TransferBoth());
    CO_EXPECT_OK(co_await destination_->FinalizeLiveMigration(kResumeDestination));
    co_await EndAll();
  }

  Task<void> DestinationKilled() {
    CO_EXPECT_OK(co_await Open());
    CO_EXPECT_OK(co_await OpenDestination({}));
    CO_EXPECT_OK(co_await Prepare(source_.get(), Slow()));
    auto out = TransferBeside(source_.get(), kOut);
    co_await source_log_->Await(MigrationEventName::kTransferInProgress);
    ::kill(pids_.back(), SIGKILL);
    co_await out->over.Wait();
    EXPECT_TRUE(absl::IsAborted(out->status)) << out->status;
    EXPECT_EQ(co_await StateOf(source_.get()), SystemState::kRunning);
    EXPECT_NE(source_log_->Find(MigrationEventName::kMigrationFailed), nullptr);
    co_await EndAll();
  }

  Task<void> Unreachable() {
    CO_EXPECT_OK(co_await Open());
    CO_EXPECT_OK(co_await Prepare(source_.get(), {}));
    const absl::Status status = co_await source_->StartLiveMigrationTransfer(kOut, {});
    EXPECT_FALSE(status.ok());
    EXPECT_EQ(co_await StateOf(source_.get()), SystemState::kRunning);
    co_await EndAll();
  }

  Task<void> PausedStaysPaused() {
    CO_EXPECT_OK(co_await Open());
    CO_EXPECT_OK(co_await source_->Pause());
    CO_EXPECT_OK(co_await OpenDestination({}));
    CO_EXPECT_OK(co_await Prepare(source_.get(), {}));
    CO_EXPECT_OK(co_await TransferBoth());
    schema::MigrationFinalizedOptions take_over = kResumeDestination;
    take_over.leave_paused = true;
    CO_EXPECT_OK(co_await destination_->FinalizeLiveMigration(take_over));
    EXPECT_EQ(co_await StateOf(destination_.get()), SystemState::kPaused);
    CO_EXPECT_OK(co_await destination_->Resume());
    EXPECT_EQ(co_await StateOf(destination_.get()), SystemState::kRunning);
    co_await EndAll();
  }

  Task<void> TakenBack() {
    CO_EXPECT_OK(co_await Open());
    CO_EXPECT_OK(co_await OpenDestination({}));
    CO_EXPECT_OK(co_await Prepare(source_.get(), {}));
    CO_EXPECT_OK(co_await TransferBoth());
    EXPECT_TRUE(absl::IsFailedPrecondition(co_await source_->Resume()));
    CO_EXPECT_OK(co_await destination_->CancelLiveMigration(kCancelDestination));
    CO_EXPECT_OK(co_await source_->FinalizeLiveMigration(kResumeSource));
    EXPECT_EQ(co_await StateOf(source_.get()), SystemState::kRunning);
    EXPECT_NE((co_await source_log_->Await(MigrationEventName::kMigrationRecoveryDone)).when,
              std::chrono::steady_clock::time_point{});
    co_await EndAll();
  }

  // A cancel that is under way when the stream is to begin: nothing begins.
  Task<void> CancelledBeforeItBegins() {
    CO_EXPECT_OK(co_await Open());
    CO_EXPECT_OK(co_await source_->InitializeLiveMigrationOnSource({}));
    auto over = std::make_shared<AsyncEvent>(executor());
    auto cancel = [](ComputeSystem* source, std::shared_ptr<AsyncEvent> done) -> Task<void> {
      CO_EXPECT_OK(co_await source->CancelLiveMigration(kCancelSource));
      done->Set();
    };
    auto start = [](ComputeSystem* source, std::shared_ptr<AsyncEvent> done) -> Task<void> {
      const schema::MigrationStartOptions options;
      const MigrationEndpoint endpoint{"/nowhere"};
      EXPECT_TRUE(
          absl::IsCancelled(co_await source->StartLiveMigrationOnSource(options, endpoint)));
      done->Set();
    };
    auto refused = std::make_shared<AsyncEvent>(executor());
    Spawn(executor(), cancel(source_.get(), over));
    Spawn(executor(), start(source_.get(), refused));
    co_await over->Wait();
    co_await refused->Wait();
    EXPECT_EQ(co_await StateOf(source_.get()), SystemState::kRunning);
    CO_EXPECT_OK(co_await OpenDestination({}));
    CO_EXPECT_OK(co_await Prepare(source_.get(), {}));
    CO_EXPECT_OK(co_await TransferBoth());
    co_await EndAll();
  }

  Task<void> OutOfOrder() {
    CO_EXPECT_OK(co_await Open());
    EXPECT_TRUE(absl::IsFailedPrecondition(co_await source_->StartLiveMigrationTransfer(kOut, {})));
    EXPECT_TRUE(absl::IsFailedPrecondition(co_await source_->FinalizeLiveMigration(kStopSource)));
    CO_EXPECT_OK(co_await source_->CancelLiveMigration(kCancelSource));
    CO_EXPECT_OK(co_await source_->InitializeLiveMigrationOnSource({}));
    const schema::MigrationStartOptions start;
    const MigrationEndpoint endpoint{std::string(200, 'x')};
    EXPECT_TRUE(
        absl::IsInvalidArgument(co_await source_->StartLiveMigrationOnSource(start, endpoint)));
    co_await EndAll();
  }

  std::unique_ptr<QemuBackend> backend_;
  std::unique_ptr<ComputeSystem> source_;
  std::unique_ptr<ComputeSystem> destination_;
  std::shared_ptr<EventLog> source_log_;
  std::shared_ptr<EventLog> destination_log_;
};

TEST_F(QemuMigrationTest, MovesARunningSystem) { Run(Moves()); }
TEST_F(QemuMigrationTest, AnErrorAtTheSwitchoverCallsItOff) { Run(HookRefuses()); }
TEST_F(QemuMigrationTest, CancelInMidTransferAndMoveAgain) { Run(CancelledThenMovesAgain()); }
TEST_F(QemuMigrationTest, DestinationKilledInMidTransfer) { Run(DestinationKilled()); }
TEST_F(QemuMigrationTest, UnreachableDestinationLeavesTheSourceRunning) { Run(Unreachable()); }
TEST_F(QemuMigrationTest, APausedSystemStaysPaused) { Run(PausedStaysPaused()); }
TEST_F(QemuMigrationTest, TheSourceTakesTheSystemBack) { Run(TakenBack()); }
TEST_F(QemuMigrationTest, WhatIsBeingCancelledDoesNotBegin) { Run(CancelledBeforeItBegins()); }
TEST_F(QemuMigrationTest, VerbsOutOfOrderAreRefused) { Run(OutOfOrder()); }

}  // namespace
}  // namespace ferry::vm
