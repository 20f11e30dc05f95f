#include "vmmanager/backend/backend_conformance.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <boost/asio/io_context.hpp>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <thread>
#include <utility>
#include <vector>

#include "bridge/runtime/str_cat.h"

// Assertions of GoogleTest that return do not fit into coroutines, so a case that cannot go on ends
// by REQUIRE_OK.
#define REQUIRE_OK(expr)                          \
  do {                                            \
    const absl::Status required = (expr);         \
    if (!required.ok()) {                         \
      ADD_FAILURE() << #expr << ": " << required; \
      co_return;                                  \
    }                                             \
  } while (false)

namespace ferry::vm {

Task<absl::StatusOr<uint64_t>> BackendFixture::Progress(ComputeSystem&) { co_return uint64_t{0}; }
Task<void> BackendFixture::LetRun(ComputeSystem&) { co_return; }

namespace {

using schema::MigrationEventName;
using schema::MigrationFinalOperation;
using schema::MigrationOrigin;
using schema::SystemState;

constexpr char kVmId[] = "6f1c1f0e-8d5c-4f0b-9a55-0d7a5f6b1c01";
constexpr auto kWrongOrder = absl::StatusCode::kFailedPrecondition;

struct Context {
  BackendFixture& fixture;
  Executor executor;
  std::unique_ptr<ComputeSystem> source;
  std::unique_ptr<ComputeSystem> destination;
  MigrationEndpoint endpoint;

  // The transfers' ends.
  absl::Status source_result;
  absl::Status destination_result;
  AsyncEvent source_over{executor};
  AsyncEvent destination_over{executor};
};

Task<absl::Status> MakeSource(Context& context, bool start = true) {
  const schema::ComputeSystem document = context.fixture.Document();
  auto made = co_await context.fixture.source().Create(kVmId, document);
  if (!made.ok()) co_return made.status();
  context.source = *std::move(made);
  if (!start) co_return absl::OkStatus();
  const schema::StartOptions options;
  co_return co_await context.source->Start(options, nullptr);
}

Task<absl::Status> MakeDestination(Context& context) {
  const schema::ComputeSystem document = context.fixture.Document();
  auto made = co_await context.fixture.destination().Create(kVmId, document);
  if (!made.ok()) co_return made.status();
  context.destination = *std::move(made);
  context.endpoint.unix_path = StrCat(context.fixture.Folder(), "/m.sock");
  schema::StartOptions options;
  options.destination_migration_options.emplace().origin = MigrationOrigin::kDestination;
  co_return co_await context.destination->Start(options, &context.endpoint);
}

Task<absl::Status> StartOnSource(Context& context) {
  schema::MigrationInitializeOptions options;
  options.origin = MigrationOrigin::kSource;
  absl::Status status = co_await context.source->InitializeLiveMigrationOnSource(options);
  if (!status.ok()) co_return status;
  schema::MigrationStartOptions start{7};
  co_return co_await context.source->StartLiveMigrationOnSource(start, context.endpoint);
}

Task<absl::Status> MakePair(Context& context) {
  absl::Status status = co_await MakeSource(context);
  if (status.ok()) status = co_await MakeDestination(context);
  if (status.ok()) status = co_await StartOnSource(context);
  co_return status;
}

Task<void> RunSource(Context* context, TransferHooks hooks) {
  const schema::MigrationTransferOptions options{MigrationOrigin::kSource};
  context->source_result =
      co_await context->source->StartLiveMigrationTransfer(options, std::move(hooks));
  context->source_over.Set();
}

Task<void> RunDestination(Context* context) {
  const schema::MigrationTransferOptions options{MigrationOrigin::kDestination};
  TransferHooks hooks;
  context->destination_result =
      co_await context->destination->StartLiveMigrationTransfer(options, std::move(hooks));
  context->destination_over.Set();
}

void SpawnTransfers(Context& context, TransferHooks hooks) {
  Spawn(context.executor, RunDestination(&context));
  Spawn(context.executor, RunSource(&context, std::move(hooks)));
}

Task<void> JoinTransfers(Context& context) {
  co_await context.source_over.Wait();
  co_await context.destination_over.Wait();
}

Task<SystemState> StateOf(ComputeSystem& system) {
  const schema::PropertyQuery query;
  auto properties = co_await system.GetProperties(query);
  co_return properties.ok() ? properties->state : SystemState::kStopped;
}

Task<absl::Status> Finalize(ComputeSystem& system, MigrationOrigin origin,
                            MigrationFinalOperation operation) {
  const schema::MigrationFinalizedOptions options{origin, operation};
  co_return co_await system.FinalizeLiveMigration(options);
}

Task<absl::Status> Cancel(ComputeSystem& system, MigrationOrigin origin) {
  const schema::MigrationCancelOptions options{origin};
  co_return co_await system.CancelLiveMigration(options);
}

// Everything that was told so far; never waits.
Task<std::vector<SystemEvent>> Told(ComputeSystem& system) {
  std::vector<SystemEvent> events;
  while (system.events().size() > 0) {
    auto event = co_await system.events().Pop();
    events.push_back(*std::move(event));
  }
  co_return events;
}

std::vector<MigrationEventName> Phases(const std::vector<SystemEvent>& events) {
  std::vector<MigrationEventName> names;
  for (const SystemEvent& event : events) {
    if (event.kind != SystemEvent::Kind::kMigration) continue;
    if (names.empty() || names.back() != event.migration.event) {
      names.push_back(event.migration.event);
    }
  }
  return names;
}

Task<void> ExpectRuns(Context& context, ComputeSystem& system) {
  EXPECT_EQ(co_await StateOf(system), SystemState::kRunning);
  auto before = co_await context.fixture.Progress(system);
  co_await context.fixture.LetRun(system);
  auto after = co_await context.fixture.Progress(system);
  EXPECT_TRUE(before.ok() && after.ok());
  if (before.ok() && after.ok() && *after != 0) {
    EXPECT_GT(*after, *before);
  }
}

Task<void> LifeCycle(Context& context) {
  REQUIRE_OK(co_await MakeSource(context, false));
  EXPECT_EQ(context.source->id(), kVmId);
  EXPECT_EQ(co_await StateOf(*context.source), SystemState::kCreated);
  const schema::StartOptions options;
  REQUIRE_OK(co_await context.source->Start(options, nullptr));
  co_await ExpectRuns(context, *context.source);
  REQUIRE_OK(co_await context.source->Pause());
  EXPECT_EQ(co_await StateOf(*context.source), SystemState::kPaused);
  REQUIRE_OK(co_await context.source->Resume());
  co_await ExpectRuns(context, *context.source);
  REQUIRE_OK(co_await context.source->Terminate());
  EXPECT_EQ(co_await StateOf(*context.source), SystemState::kStopped);
}

Task<void> PropertiesNameTheMachine(Context& context) {
  REQUIRE_OK(co_await MakeSource(context));
  const schema::PropertyQuery query{{schema::PropertyType::kCompatibilityInfo}};
  auto properties = co_await context.source->GetProperties(query);
  REQUIRE_OK(properties.status());
  EXPECT_EQ(properties->id, kVmId);
  EXPECT_TRUE(properties->compatibility_info.has_value());
  const schema::PropertyQuery basic;
  properties = co_await context.source->GetProperties(basic);
  REQUIRE_OK(properties.status());
  EXPECT_FALSE(properties->compatibility_info.has_value());
}

// Takes what is written into a pipe, on a thread of its own.
class Drain {
 public:
  Drain() {
    int ends[2] = {-1, -1};
    EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    to_.Reset(ends[1]);
    thread_ = std::thread([this, from = UniqueFd(ends[0])] {
      std::array<char, 65536> buffer;
      for (ssize_t count; (count = ::read(from.get(), buffer.data(), buffer.size())) > 0;) {
        taken_.append(buffer.data(), static_cast<size_t>(count));
      }
    });
  }
  ~Drain() {
    to_.Reset();
    if (thread_.joinable()) thread_.join();
  }
  UniqueFd TakeEnd() { return std::move(to_); }
  // Once whoever writes has closed its end.
  const std::string& Join() {
    thread_.join();
    return taken_;
  }

 private:
  UniqueFd to_;
  std::string taken_;
  std::thread thread_;
};

// Connects to a system that waits for its state, and gives it all of this.
std::thread Feed(const std::string& path, std::string state) {
  return std::thread([path, state = std::move(state)] {
    const UniqueFd to(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(static_cast<char*>(address.sun_path), sizeof address.sun_path - 1);
    EXPECT_EQ(::connect(to.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    std::string_view rest = state;
    while (!rest.empty()) {
      const ssize_t count = ::send(to.get(), rest.data(), rest.size(), MSG_NOSIGNAL);
      if (count <= 0) return;
      rest.remove_prefix(static_cast<size_t>(count));
    }
    ::shutdown(to.get(), SHUT_WR);
    // It may have something to answer.
    char ignored = 0;
    while (::read(to.get(), &ignored, 1) > 0) continue;
  });
}

Task<void> SaveNeedsAPausedSystem(Context& context) {
  REQUIRE_OK(co_await MakeSource(context));
  const schema::SaveOptions options;
  UniqueFd closed;
  EXPECT_EQ((co_await context.source->Save(options, std::move(closed))).code(), kWrongOrder);
  REQUIRE_OK(co_await context.source->Pause());
  Drain drain;
  UniqueFd to = drain.TakeEnd();
  REQUIRE_OK(co_await context.source->Save(options, std::move(to)));
  EXPECT_GT(drain.Join().size(), 0u);
  EXPECT_EQ(co_await StateOf(*context.source), SystemState::kPaused);
  REQUIRE_OK(co_await context.source->Resume());
  co_await ExpectRuns(context, *context.source);
}

Task<void> AFailedSaveCostsNothing(Context& context) {
  REQUIRE_OK(co_await MakeSource(context));
  REQUIRE_OK(co_await context.source->Pause());
  std::signal(SIGPIPE, SIG_IGN);
  const schema::SaveOptions options;
  int ends[2] = {-1, -1};
  EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  // Nobody reads it any more.
  ::close(ends[0]);
  UniqueFd unread(ends[1]);
  EXPECT_FALSE((co_await context.source->Save(options, std::move(unread))).ok());
  EXPECT_EQ(co_await StateOf(*context.source), SystemState::kPaused);
  REQUIRE_OK(co_await context.source->Resume());
  co_await ExpectRuns(context, *context.source);
  REQUIRE_OK(co_await context.source->Pause());
  Drain drain;
  UniqueFd to = drain.TakeEnd();
  REQUIRE_OK(co_await context.source->Save(options, std::move(to)));
}

Task<void> WhatWasSavedComesBack(Context& context) {
  REQUIRE_OK(co_await MakeSource(context));
  co_await context.fixture.LetRun(*context.source);
  REQUIRE_OK(co_await context.source->Pause());
  Drain drain;
  const schema::SaveOptions options;
  UniqueFd to = drain.TakeEnd();
  REQUIRE_OK(co_await context.source->Save(options, std::move(to)));
  const auto before = co_await context.fixture.Progress(*context.source);
  REQUIRE_OK(co_await context.source->Terminate());
  REQUIRE_OK(co_await MakeDestination(context));
  std::thread feed = Feed(context.endpoint.unix_path, drain.Join());
  const schema::MigrationTransferOptions transfer{MigrationOrigin::kDestination};
  const TransferHooks hooks;
  const absl::Status loaded =
      co_await context.destination->StartLiveMigrationTransfer(transfer, hooks);
  feed.join();
  REQUIRE_OK(loaded);
  REQUIRE_OK(co_await Finalize(*context.destination, MigrationOrigin::kDestination,
                               MigrationFinalOperation::kResume));
  co_await ExpectRuns(context, *context.destination);
  const auto after = co_await context.fixture.Progress(*context.destination);
  REQUIRE_OK(before.status());
  REQUIRE_OK(after.status());
  EXPECT_GE(*after, *before);
}

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

Task<void> PausedStaysPaused(Context& context) {
  REQUIRE_OK(co_await MakePair(context));
  REQUIRE_OK(co_await context.source->Pause());
  TransferHooks hooks;
  SpawnTransfers(context, std::move(hooks));
  co_await JoinTransfers(context);
  REQUIRE_OK(context.source_result);
  REQUIRE_OK(context.destination_result);
  schema::MigrationFinalizedOptions options{MigrationOrigin::kDestination,
                                            MigrationFinalOperation::kResume};
  options.leave_paused = true;
  REQUIRE_OK(co_await context.destination->FinalizeLiveMigration(options));
  EXPECT_EQ(co_await StateOf(*context.destination), SystemState::kPaused);
  REQUIRE_OK(co_await context.destination->Resume());
  co_await ExpectRuns(context, *context.destination);
}

// A daemon that adopts it knows no more of the migration than the VMM does.
Task<void> APausedArrivalOutlivesItsAdoption(Context& context) {
  REQUIRE_OK(co_await MakePair(context));
  REQUIRE_OK(co_await context.source->Pause());
  TransferHooks hooks;
  SpawnTransfers(context, std::move(hooks));
  co_await JoinTransfers(context);
  REQUIRE_OK(context.destination_result);
  schema::MigrationFinalizedOptions options{MigrationOrigin::kDestination,
                                            MigrationFinalOperation::kResume};
  options.leave_paused = true;
  REQUIRE_OK(co_await context.destination->FinalizeLiveMigration(options));
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

Task<void> ExitIsToldOnce(Context& context) {
  REQUIRE_OK(co_await MakeSource(context));
  REQUIRE_OK(co_await context.source->Terminate());
  REQUIRE_OK(co_await context.source->Terminate());
  int exits = 0;
  while (true) {
    auto event = co_await context.source->events().Pop();
    if (!event) break;
    if (event->kind != SystemEvent::Kind::kExited) continue;
    ++exits;
    EXPECT_EQ(event->exit.cause, SystemExit::Cause::kTerminated);
  }
  EXPECT_EQ(exits, 1);
}

Task<void> AdoptFindsTheRunningSystem(Context& context) {
  REQUIRE_OK(co_await MakeSource(context));
  const std::string record = context.source->adoption_record();
  context.source.reset();  // as if the daemon had died
  const schema::ComputeSystem document = context.fixture.Document();
  auto adopted = co_await context.fixture.source().Adopt(kVmId, document, record);
  REQUIRE_OK(adopted.status());
  context.source = *std::move(adopted);
  co_await ExpectRuns(context, *context.source);
  REQUIRE_OK(co_await context.source->Terminate());
  auto gone = co_await context.fixture.source().Adopt(kVmId, document, record);
  EXPECT_EQ(gone.status().code(), absl::StatusCode::kNotFound);
}

Task<void> EndAllButSparesWhatIsNamed(Context& context) {
  REQUIRE_OK(co_await MakeSource(context));
  const std::string record = context.source->adoption_record();
  const schema::ComputeSystem document = context.fixture.Document();
  context.source.reset();  // as if the daemon had died
  std::vector<std::string> named{record, ""};
  co_await context.fixture.source().EndAllBut(named);
  auto spared = co_await context.fixture.source().Adopt(kVmId, document, record);
  REQUIRE_OK(spared.status());
  spared->reset();
  named.clear();
  co_await context.fixture.source().EndAllBut(named);
  auto gone = co_await context.fixture.source().Adopt(kVmId, document, record);
  EXPECT_EQ(gone.status().code(), absl::StatusCode::kNotFound);
}

Task<absl::Status> ChangeDisk(ComputeSystem& system, std::string request_type, std::string lun,
                              std::string file) {
  schema::ModifySettingRequest request;
  request.request_type = std::move(request_type);
  request.resource_path = StrCat("VirtualMachine/Devices/Scsi/0/Attachments/", lun);
  if (!file.empty()) {
    schema::Attachment disk;
    disk.path = std::move(file);
    disk.format = "raw";
    request.settings_json = schema::ToJson(disk);
  }
  co_return co_await system.Modify(request);
}

std::string MakeDisk(Context& context) {
  const std::string file = StrCat(context.fixture.Folder(), "/disk.raw");
  std::ofstream(file, std::ios::binary) << std::string(1024 * 1024, '\0');
  return file;
}

Task<void> DisksComeAndGo(Context& context) {
  const std::string file = MakeDisk(context);
  REQUIRE_OK(co_await MakeSource(context));
  ComputeSystem& system = *context.source;
  // Twice, for nothing of the first may be left in its place.
  for (int round = 0; round < 2; ++round) {
    REQUIRE_OK(co_await ChangeDisk(system, "Add", "7", file));
    const absl::Status twice = co_await ChangeDisk(system, "Add", "7", file);
    EXPECT_TRUE(absl::IsAlreadyExists(twice)) << twice;
    EXPECT_EQ(co_await StateOf(system), SystemState::kRunning);
    REQUIRE_OK(co_await ChangeDisk(system, "Remove", "7", ""));
    const absl::Status gone = co_await ChangeDisk(system, "Remove", "7", "");
    EXPECT_TRUE(absl::IsNotFound(gone)) << gone;
  }
}

Task<void> ADiskThatCannotBeOpenedLeavesNothing(Context& context) {
  const std::string file = MakeDisk(context);
  REQUIRE_OK(co_await MakeSource(context));
  ComputeSystem& system = *context.source;
  EXPECT_FALSE((co_await ChangeDisk(system, "Add", "3", StrCat(file, ".missing"))).ok());
  EXPECT_TRUE(absl::IsNotFound(co_await ChangeDisk(system, "Remove", "3", "")));
  REQUIRE_OK(co_await ChangeDisk(system, "Add", "3", file));
}

struct Case {
  const char* name;
  Task<void> (*run)(Context&);
};

constexpr Case kCases[] = {
    {"LifeCycle", LifeCycle},
    {"PropertiesNameTheMachine", PropertiesNameTheMachine},
    {"DisksComeAndGo", DisksComeAndGo},
    {"ADiskThatCannotBeOpenedLeavesNothing", ADiskThatCannotBeOpenedLeavesNothing},
    {"SaveNeedsAPausedSystem", SaveNeedsAPausedSystem},
    {"AFailedSaveCostsNothing", AFailedSaveCostsNothing},
    {"WhatWasSavedComesBack", WhatWasSavedComesBack},
    {"WrongOrderIsRefused", WrongOrderIsRefused},
    {"MigrationMovesTheGuest", MigrationMovesTheGuest},
    {"PausedStaysPaused", PausedStaysPaused},
    {"APausedArrivalOutlivesItsAdoption", APausedArrivalOutlivesItsAdoption},
    {"WhatReceivesIsNoSource", WhatReceivesIsNoSource},
    {"CancelBeforeTransfer", CancelBeforeTransfer},
    {"CancelInTransfer", CancelInTransfer},
    {"CancelAfterTransfer", CancelAfterTransfer},
    {"RollBackAfterTransfer", RollBackAfterTransfer},
    {"DestinationGoneInTransfer", DestinationGoneInTransfer},
    {"HookErrorCallsItOff", HookErrorCallsItOff},
    {"ExitIsToldOnce", ExitIsToldOnce},
    {"AdoptFindsTheRunningSystem", AdoptFindsTheRunningSystem},
    {"EndAllButSparesWhatIsNamed", EndAllButSparesWhatIsNamed},
};

Task<void> RunCase(const Case* test, Context* context, bool* ended) {
  co_await test->run(*context);
  if (context->source) (co_await context->source->Terminate()).IgnoreError();
  if (context->destination) (co_await context->destination->Terminate()).IgnoreError();
  *ended = true;
}

class ConformanceTest : public testing::Test {
 public:
  ConformanceTest(const Case& test, BackendFixtureFactory factory)
      : case_(test), factory_(std::move(factory)) {}

  void TestBody() override {
    asio::io_context io;
    std::unique_ptr<BackendFixture> fixture = factory_(io.get_executor());
    const milliseconds deadline = fixture->Deadline();
    bool ended = false;
    {
      Context context{.fixture = *fixture, .executor = io.get_executor()};
      Spawn(io.get_executor(), RunCase(&case_, &context, &ended));
      const auto until = std::chrono::steady_clock::now() + deadline;
      while (!ended && io.run_one_until(until) > 0) {
      }
      EXPECT_TRUE(ended) << "the case was not over after " << deadline.count() << " ms";
    }
  }

 private:
  const Case& case_;
  BackendFixtureFactory factory_;
};

}  // namespace

bool RegisterBackendConformance(const char* suite, BackendFixtureFactory factory) {
  for (const Case& test : kCases) {
    auto make = [&test, factory]() -> testing::Test* {
      return new ConformanceTest(test, factory);  // GoogleTest owns it
    };
    testing::RegisterTest(suite, test.name, nullptr, nullptr, __FILE__, __LINE__, make);
  }
  return true;
}

}  // namespace ferry::vm
