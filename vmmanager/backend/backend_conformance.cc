#include "vmmanager/backend/backend_conformance.h"

#include <boost/asio/io_context.hpp>
#include <filesystem>
#include <fstream>

#include "bridge/runtime/str_cat.h"
#include "vmmanager/backend/conformance_case.h"

namespace ferry::vm {

namespace conformance {

using schema::MigrationEventName;
using schema::MigrationFinalOperation;
using schema::MigrationOrigin;
using schema::SystemState;

Task<absl::Status> MakeSource(Context& context, bool start) {
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

static Task<void> RunSource(Context* context, TransferHooks hooks) {
  const schema::MigrationTransferOptions options{MigrationOrigin::kSource};
  context->source_result =
      co_await context->source->StartLiveMigrationTransfer(options, std::move(hooks));
  context->source_over.Set();
}

static Task<void> RunDestination(Context* context) {
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
  REQUIRE_OK(before.status());
  REQUIRE_OK(after.status());
  EXPECT_GT(*after, *before);
}

namespace {

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

constexpr Case kCases[] = {
    {"LifeCycle", LifeCycle},
    {"PropertiesNameTheMachine", PropertiesNameTheMachine},
    {"ExitIsToldOnce", ExitIsToldOnce},
    {"AdoptFindsTheRunningSystem", AdoptFindsTheRunningSystem},
    {"EndAllButSparesWhatIsNamed", EndAllButSparesWhatIsNamed},
    {"DisksComeAndGo", DisksComeAndGo},
    {"ADiskThatCannotBeOpenedLeavesNothing", ADiskThatCannotBeOpenedLeavesNothing},
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

template <typename Cases>
void RegisterEach(const char* suite, const BackendFixtureFactory& factory, const Cases& cases) {
  for (const Case& test : cases) {
    auto make = [&test, factory]() -> testing::Test* {
      return new ConformanceTest(test, factory);  // GoogleTest owns it
    };
    testing::RegisterTest(suite, test.name, nullptr, nullptr, __FILE__, __LINE__, make);
  }
}

}  // namespace
}  // namespace conformance

bool RegisterBackendConformance(const char* suite, BackendFixtureFactory factory) {
  conformance::RegisterEach(suite, factory, conformance::kCases);
  conformance::RegisterEach(suite, factory, conformance::SavingCases());
  conformance::RegisterEach(suite, factory, conformance::MigrationCases());
  conformance::RegisterEach(suite, factory, conformance::SnapshotCases());
  conformance::RegisterEach(suite, factory, conformance::OverlayCases());
  return true;
}

}  // namespace ferry::vm
