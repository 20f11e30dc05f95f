// How backends move systems.
#include "bridge/runtime/str_cat.h"
#include "vmmanager/backend/conformance_case.h"

namespace ferry::vm::conformance {
namespace {

using schema::MigrationEventName;
using schema::MigrationFinalOperation;
using schema::MigrationOrigin;
using schema::SystemState;

Task<void> WrongOrderIsRefused(Context& context) {
  REQUIRE_OK(co_await MakeSource(context, false));
  ComputeSystem& system = *context.source;
  const schema::StartOptions start;
  const schema::MigrationStartOptions start_migration;
  const MigrationEndpoint endpoint{StrCat(context.fixture.Folder(), "/m.sock")};
  const schema::MigrationInitializeOptions initialize;
  const schema::MigrationTransferOptions transfer;
  EXPECT_EQ((co_await system.Pause()).code(), kWrongOrder);
  EXPECT_EQ((co_await system.Resume()).code(), kWrongOrder);
  EXPECT_EQ((co_await system.InitializeLiveMigrationOnSource(initialize)).code(), kWrongOrder);
  REQUIRE_OK(co_await system.Start(start, nullptr));
  EXPECT_EQ((co_await system.Start(start, nullptr)).code(), kWrongOrder);
  EXPECT_EQ((co_await system.StartLiveMigrationOnSource(start_migration, endpoint)).code(),
            kWrongOrder);
  TransferHooks hooks;
  EXPECT_EQ((co_await system.StartLiveMigrationTransfer(transfer, std::move(hooks))).code(),
            kWrongOrder);
  EXPECT_EQ(
      (co_await Finalize(system, MigrationOrigin::kSource, MigrationFinalOperation::kStop)).code(),
      kWrongOrder);
  std::vector<DiskPlace> none;
  const std::string path = endpoint.unix_path;
  const TellCopied untold;
  EXPECT_EQ((co_await system.OpenDisks(none, path)).code(), kWrongOrder);
  std::vector<DiskMirror> no_mirrors;
  EXPECT_EQ((co_await system.MirrorDisks(no_mirrors, path, untold)).code(), kWrongOrder);
  REQUIRE_OK(co_await system.InitializeLiveMigrationOnSource(initialize));
  EXPECT_EQ((co_await system.InitializeLiveMigrationOnSource(initialize)).code(), kWrongOrder);
  co_await ExpectRuns(context, system);
}

Task<void> MigrationMovesTheGuest(Context& context) {
  REQUIRE_OK(co_await MakePair(context));
  EXPECT_EQ(co_await StateOf(*context.destination), SystemState::kIncoming);
  co_await context.fixture.LetRun(*context.source);
  auto before = co_await context.fixture.Progress(*context.source);
  SystemState at_hook = SystemState::kRunning;
  TransferHooks hooks;
  auto look = [&context, &at_hook]() -> Task<absl::Status> {
    at_hook = co_await StateOf(*context.source);
    co_return absl::OkStatus();
  };
  hooks.on_stopped = look;
  SpawnTransfers(context, hooks);
  co_await JoinTransfers(context);
  REQUIRE_OK(context.source_result);
  REQUIRE_OK(context.destination_result);
  EXPECT_NE(at_hook, SystemState::kRunning);
  EXPECT_EQ(co_await StateOf(*context.source), SystemState::kPaused);
  EXPECT_EQ(co_await StateOf(*context.destination), SystemState::kPaused);
  REQUIRE_OK(co_await Finalize(*context.destination, MigrationOrigin::kDestination,
                               MigrationFinalOperation::kResume));
  REQUIRE_OK(
      co_await Finalize(*context.source, MigrationOrigin::kSource, MigrationFinalOperation::kStop));
  auto after = co_await context.fixture.Progress(*context.destination);
  EXPECT_TRUE(before.ok() && after.ok() && *after >= *before);
  co_await ExpectRuns(context, *context.destination);
  EXPECT_EQ(co_await StateOf(*context.source), SystemState::kStopped);

  const std::vector<MigrationEventName> source_phases = {
      MigrationEventName::kSetupDone, MigrationEventName::kTransferInProgress,
      MigrationEventName::kBlackoutStarted, MigrationEventName::kOfflineDone,
      MigrationEventName::kMigrationDone};
  const std::vector<MigrationEventName> destination_phases = {MigrationEventName::kBlackoutExited,
                                                              MigrationEventName::kMigrationDone};
  EXPECT_EQ(Phases(co_await Told(*context.source)), source_phases);
  EXPECT_EQ(Phases(co_await Told(*context.destination)), destination_phases);
}

// A system that its user paused arrives, and stays so.
Task<absl::Status> MovePaused(Context& context) {
  absl::Status moved = co_await MakePair(context);
  if (moved.ok()) moved = co_await context.source->Pause();
  if (!moved.ok()) co_return moved;
  TransferHooks hooks;
  SpawnTransfers(context, std::move(hooks));
  co_await JoinTransfers(context);
  moved.Update(context.source_result);
  moved.Update(context.destination_result);
  if (!moved.ok()) co_return moved;
  schema::MigrationFinalizedOptions options{MigrationOrigin::kDestination,
                                            MigrationFinalOperation::kResume};
  options.leave_paused = true;
  co_return co_await context.destination->FinalizeLiveMigration(options);
}

Task<void> PausedStaysPaused(Context& context) {
  REQUIRE_OK(co_await MovePaused(context));
  EXPECT_EQ(co_await StateOf(*context.destination), SystemState::kPaused);
  REQUIRE_OK(co_await context.destination->Resume());
  co_await ExpectRuns(context, *context.destination);
}

// A daemon that adopts it knows no more of the migration than the VMM does.
Task<void> APausedArrivalOutlivesItsAdoption(Context& context) {
  REQUIRE_OK(co_await MovePaused(context));
  const std::string record = context.destination->adoption_record();
  context.destination.reset();
  const schema::ComputeSystem document = context.fixture.Document();
  auto adopted = co_await context.fixture.destination().Adopt(kVmId, document, record);
  REQUIRE_OK(adopted.status());
  context.destination = *std::move(adopted);
  REQUIRE_OK(co_await Cancel(*context.destination, MigrationOrigin::kSource));
  EXPECT_EQ(co_await StateOf(*context.destination), SystemState::kPaused);
  REQUIRE_OK(co_await context.destination->Resume());
  co_await ExpectRuns(context, *context.destination);
}

// As far as the VMM knows it ran before it was stopped for the switchover.
Task<void> WhatIsTakenBackCanStayPaused(Context& context) {
  REQUIRE_OK(co_await MakePair(context));
  TransferHooks hooks;
  SpawnTransfers(context, std::move(hooks));
  co_await JoinTransfers(context);
  REQUIRE_OK(context.source_result);
  const std::string record = context.source->adoption_record();
  context.source.reset();
  const schema::ComputeSystem document = context.fixture.Document();
  auto adopted = co_await context.fixture.source().Adopt(kVmId, document, record);
  REQUIRE_OK(adopted.status());
  context.source = *std::move(adopted);
  schema::MigrationFinalizedOptions options{MigrationOrigin::kSource,
                                            MigrationFinalOperation::kResume};
  options.leave_paused = true;
  REQUIRE_OK(co_await context.source->FinalizeLiveMigration(options));
  EXPECT_EQ(co_await StateOf(*context.source), SystemState::kPaused);
  REQUIRE_OK(co_await context.source->Resume());
  co_await ExpectRuns(context, *context.source);
}

// What still receives is no source, and its state must not be taken for one.
Task<void> WhatReceivesIsNoSource(Context& context) {
  REQUIRE_OK(co_await MakeDestination(context));
  EXPECT_EQ((co_await Cancel(*context.destination, MigrationOrigin::kSource)).code(), kWrongOrder);
  EXPECT_EQ(co_await StateOf(*context.destination), SystemState::kIncoming);
  REQUIRE_OK(co_await Cancel(*context.destination, MigrationOrigin::kDestination));
  EXPECT_EQ(co_await StateOf(*context.destination), SystemState::kStopped);
}

Task<void> CancelBeforeTransfer(Context& context) {
  REQUIRE_OK(co_await MakePair(context));
  REQUIRE_OK(co_await Cancel(*context.source, MigrationOrigin::kSource));
  REQUIRE_OK(co_await Cancel(*context.source, MigrationOrigin::kSource));
  REQUIRE_OK(co_await Cancel(*context.destination, MigrationOrigin::kDestination));
  REQUIRE_OK(co_await Cancel(*context.destination, MigrationOrigin::kDestination));
  co_await ExpectRuns(context, *context.source);
  EXPECT_EQ(co_await StateOf(*context.destination), SystemState::kStopped);
}

Task<absl::Status> SetAndWait(AsyncEvent* reached, AsyncEvent* released) {
  reached->Set();
  co_await released->Wait();
  co_return absl::OkStatus();
}

Task<void> CancelInTransfer(Context& context) {
  REQUIRE_OK(co_await MakePair(context));
  AsyncEvent reached(context.executor);
  AsyncEvent never(context.executor);
  TransferHooks hooks;
  hooks.on_stopped = [&reached, &never] { return SetAndWait(&reached, &never); };
  SpawnTransfers(context, hooks);
  co_await reached.Wait();
  REQUIRE_OK(co_await Cancel(*context.source, MigrationOrigin::kSource));
  REQUIRE_OK(co_await Cancel(*context.destination, MigrationOrigin::kDestination));
  co_await JoinTransfers(context);
  EXPECT_EQ(context.source_result.code(), absl::StatusCode::kCancelled);
  EXPECT_FALSE(context.destination_result.ok());
  co_await ExpectRuns(context, *context.source);
  EXPECT_EQ(co_await StateOf(*context.destination), SystemState::kStopped);
}

Task<void> CancelAfterTransfer(Context& context) {
  REQUIRE_OK(co_await MakePair(context));
  TransferHooks hooks;
  SpawnTransfers(context, std::move(hooks));
  co_await JoinTransfers(context);
  REQUIRE_OK(context.source_result);
  REQUIRE_OK(co_await Cancel(*context.destination, MigrationOrigin::kDestination));
  REQUIRE_OK(co_await Cancel(*context.source, MigrationOrigin::kSource));
  co_await ExpectRuns(context, *context.source);
}

Task<void> RollBackAfterTransfer(Context& context) {
  REQUIRE_OK(co_await MakePair(context));
  TransferHooks hooks;
  SpawnTransfers(context, std::move(hooks));
  co_await JoinTransfers(context);
  REQUIRE_OK(context.source_result);
  REQUIRE_OK(co_await Finalize(*context.destination, MigrationOrigin::kDestination,
                               MigrationFinalOperation::kStop));
  REQUIRE_OK(co_await Finalize(*context.source, MigrationOrigin::kSource,
                               MigrationFinalOperation::kResume));
  co_await ExpectRuns(context, *context.source);
  EXPECT_EQ(Phases(co_await Told(*context.source)).back(),
            MigrationEventName::kMigrationRecoveryDone);
}

Task<void> DestinationGoneInTransfer(Context& context) {
  REQUIRE_OK(co_await MakePair(context));
  TransferHooks hooks;
  auto kill = [&context] { return context.destination->Terminate(); };
  hooks.on_stopped = kill;
  SpawnTransfers(context, hooks);
  co_await JoinTransfers(context);
  EXPECT_FALSE(context.source_result.ok());
  EXPECT_FALSE(context.destination_result.ok());
  co_await ExpectRuns(context, *context.source);
}

Task<absl::Status> Refuse() { co_return absl::UnavailableError("the cut cannot be sent"); }

Task<void> HookErrorCallsItOff(Context& context) {
  REQUIRE_OK(co_await MakePair(context));
  TransferHooks hooks;
  hooks.on_stopped = Refuse;
  SpawnTransfers(context, hooks);
  co_await context.source_over.Wait();
  REQUIRE_OK(co_await Cancel(*context.destination, MigrationOrigin::kDestination));
  co_await context.destination_over.Wait();
  EXPECT_EQ(context.source_result.code(), absl::StatusCode::kUnavailable);
  EXPECT_FALSE(context.destination_result.ok());
  co_await ExpectRuns(context, *context.source);
}

// Of a pause that comes while the guest stands still anyway the VMM must be told.
Task<void> APauseInTheBlackoutHolds(Context& context) {
  REQUIRE_OK(co_await MakePair(context));
  TransferHooks hooks;
  auto pause = [&context]() -> Task<absl::Status> {
    absl::Status paused = co_await context.source->Pause();
    paused.Update(absl::UnavailableError("the cut cannot be sent"));
    co_return paused;
  };
  hooks.on_stopped = pause;
  SpawnTransfers(context, hooks);
  co_await context.source_over.Wait();
  EXPECT_EQ(context.source_result.code(), absl::StatusCode::kUnavailable);
  REQUIRE_OK(co_await Cancel(*context.destination, MigrationOrigin::kDestination));
  co_await context.destination_over.Wait();
  EXPECT_EQ(co_await StateOf(*context.source), SystemState::kPaused);
  REQUIRE_OK(co_await context.source->Resume());
  co_await ExpectRuns(context, *context.source);
}

// On the VMM's own network, which every host has.
Task<void> ACardComesAlong(Context& context) {
  schema::ComputeSystem document = context.fixture.Document();
  schema::NetworkAdapter& card = document.virtual_machine.devices.network_adapters["0"];
  card = {"02-FE-00-00-00-01", "eth0", "", "", true};
  schema::NetworkAdapter asked = card;
  REQUIRE_OK(co_await context.fixture.destination().CheckAdapter(std::move(asked)));
  schema::NetworkAdapter elsewhere = {"02-FE-00-00-00-01", "eth0", "no-such-bridge", "", false};
  const absl::Status refused =
      co_await context.fixture.destination().CheckAdapter(std::move(elsewhere));
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition) << refused;
  auto source = co_await context.fixture.source().Create(kVmId, document);
  REQUIRE_OK(source.status());
  context.source = *std::move(source);
  const schema::StartOptions start;
  REQUIRE_OK(co_await context.source->Start(start, nullptr));
  auto destination = co_await context.fixture.destination().Create(kVmId, document);
  REQUIRE_OK(destination.status());
  context.destination = *std::move(destination);
  context.endpoint.unix_path = StrCat(context.fixture.Folder(), "/m.sock");
  schema::StartOptions incoming;
  incoming.destination_migration_options.emplace().origin = MigrationOrigin::kDestination;
  REQUIRE_OK(co_await context.destination->Start(incoming, &context.endpoint));
  REQUIRE_OK(co_await StartOnSource(context));
  const TransferHooks hooks;
  SpawnTransfers(context, hooks);
  co_await JoinTransfers(context);
  REQUIRE_OK(context.source_result);
  REQUIRE_OK(context.destination_result);
  REQUIRE_OK(co_await Finalize(*context.destination, MigrationOrigin::kDestination,
                               MigrationFinalOperation::kResume));
  REQUIRE_OK(
      co_await Finalize(*context.source, MigrationOrigin::kSource, MigrationFinalOperation::kStop));
  co_await ExpectRuns(context, *context.destination);
}

constexpr Case kMigrationCases[] = {
    {"WrongOrderIsRefused", WrongOrderIsRefused},
    {"MigrationMovesTheGuest", MigrationMovesTheGuest},
    {"ACardComesAlong", ACardComesAlong},
    {"PausedStaysPaused", PausedStaysPaused},
    {"APausedArrivalOutlivesItsAdoption", APausedArrivalOutlivesItsAdoption},
    {"WhatIsTakenBackCanStayPaused", WhatIsTakenBackCanStayPaused},
    {"WhatReceivesIsNoSource", WhatReceivesIsNoSource},
    {"CancelBeforeTransfer", CancelBeforeTransfer},
    {"CancelInTransfer", CancelInTransfer},
    {"CancelAfterTransfer", CancelAfterTransfer},
    {"RollBackAfterTransfer", RollBackAfterTransfer},
    {"DestinationGoneInTransfer", DestinationGoneInTransfer},
    {"HookErrorCallsItOff", HookErrorCallsItOff},
    {"APauseInTheBlackoutHolds", APauseInTheBlackoutHolds},
};

}  // namespace

std::span<const Case> MigrationCases() { return kMigrationCases; }

}  // namespace ferry::vm::conformance
