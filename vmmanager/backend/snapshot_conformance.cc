#include "vmmanager/backend/snapshot_conformance.h"

#include <gtest/gtest.h>

#include <boost/asio/io_context.hpp>
#include <utility>
#include <vector>

#include "bridge/runtime/str_cat.h"

#define SNAPSHOT_REQUIRE_OK(expr)                 \
  do {                                            \
    const absl::Status required = (expr);         \
    if (!required.ok()) {                         \
      ADD_FAILURE() << #expr << ": " << required; \
      co_return;                                  \
    }                                             \
  } while (false)

namespace ferry::vm {
namespace snapshot_conformance {
namespace {

using schema::SystemState;

constexpr char kVmId[] = "6f1c1f0e-8d5c-4f0b-9a55-0d7a5f6b1c02";

struct Context {
  SnapshotFixture& fixture;
  std::unique_ptr<ComputeSystem> system;
};

DiskPlace At(const char* lun) { return {.controller = "0", .lun = lun}; }

SnapshotOptions Both(const std::string& tag) {
  SnapshotOptions options;
  options.tag = tag;
  options.disks = {At("0"), At("1")};
  options.vm_state = At("0");
  return options;
}

std::string PathOf(Context& context, const char* lun) {
  return StrCat(context.fixture.Folder(), "/disk", lun, ".qcow2");
}

// A system with two qcow2 disks, and a raw one that is only read.
Task<absl::Status> Make(Context& context) {
  schema::ComputeSystem document = context.fixture.Document();
  auto& disks = document.virtual_machine.devices.scsi["0"].attachments;
  for (const char* lun : {"0", "1"}) {
    context.fixture.MakeQcow2(PathOf(context, lun));
    disks[lun].path = PathOf(context, lun);
  }
  context.fixture.MakeQcow2(PathOf(context, "2"));
  disks["2"].path = PathOf(context, "2");
  disks["2"].format = "raw";
  disks["2"].read_only = true;
  auto made = co_await context.fixture.source().Create(kVmId, document);
  if (!made.ok()) co_return made.status();
  context.system = *std::move(made);
  const schema::StartOptions options;
  co_return co_await context.system->Start(options, nullptr);
}

Task<absl::Status> MakePaused(Context& context) {
  absl::Status made = co_await Make(context);
  if (made.ok()) made = co_await context.system->Pause();
  co_return made;
}

Task<SystemState> StateOf(Context& context) {
  const schema::PropertyQuery query;
  auto properties = co_await context.system->GetProperties(query);
  co_return properties.ok() ? properties->state : SystemState::kStopped;
}

Task<size_t> CountOf(Context& context, std::string tag) {
  const auto listed = co_await context.system->ListSnapshots();
  EXPECT_TRUE(listed.ok()) << listed.status();
  size_t count = 0;
  if (!listed.ok()) co_return count;
  for (const DiskSnapshots& disk : *listed) {
    for (const DiskSnapshot& snapshot : disk.snapshots) count += snapshot.tag == tag ? 1 : 0;
  }
  co_return count;
}

void ExpectRefused(const absl::Status& status, absl::StatusCode code, const std::string& text) {
  EXPECT_EQ(status.code(), code) << status;
  EXPECT_NE(status.message().find(text), absl::string_view::npos) << status;
  EXPECT_TRUE(status.GetPayload(kNothingChanged).has_value()) << status;
}

Task<void> BackToThatInstant(Context& context) {
  SNAPSHOT_REQUIRE_OK(co_await Make(context));
  ComputeSystem& system = *context.system;
  co_await context.fixture.LetRun(system);
  SNAPSHOT_REQUIRE_OK(co_await system.Pause());
  const auto then = co_await context.fixture.Progress(system);
  SnapshotOptions options = Both("before");
  SNAPSHOT_REQUIRE_OK(co_await system.SaveSnapshot(options));
  EXPECT_EQ(co_await StateOf(context), SystemState::kPaused);
  SNAPSHOT_REQUIRE_OK(co_await system.Resume());
  co_await context.fixture.LetRun(system);
  SNAPSHOT_REQUIRE_OK(co_await system.Pause());
  SNAPSHOT_REQUIRE_OK(co_await system.LoadSnapshot(options));
  EXPECT_EQ(co_await StateOf(context), SystemState::kPaused);
  const auto now = co_await context.fixture.Progress(system);
  EXPECT_EQ(*then, *now);
  SNAPSHOT_REQUIRE_OK(co_await system.Resume());
  EXPECT_EQ(co_await StateOf(context), SystemState::kRunning);
}

Task<void> ListsWhatIsInEachDisk(Context& context) {
  SNAPSHOT_REQUIRE_OK(co_await MakePaused(context));
  ComputeSystem& system = *context.system;
  SnapshotOptions options = Both("one");
  SNAPSHOT_REQUIRE_OK(co_await system.SaveSnapshot(options));
  options.tag = "two";
  options.disks = {At("1")};
  options.vm_state = At("1");
  SNAPSHOT_REQUIRE_OK(co_await system.SaveSnapshot(options));
  const auto listed = co_await system.ListSnapshots();
  SNAPSHOT_REQUIRE_OK(listed.status());
  EXPECT_EQ(listed->size(), 2u);
  if (listed->size() != 2) co_return;
  const DiskSnapshots& first = listed->at(0);
  const DiskSnapshots& second = listed->at(1);
  EXPECT_EQ(first.disk, At("0"));
  EXPECT_EQ(second.disk, At("1"));
  EXPECT_EQ(first.snapshots.size(), 1u);
  EXPECT_EQ(second.snapshots.size(), 2u);
  if (first.snapshots.size() != 1 || second.snapshots.size() != 2) co_return;
  EXPECT_GT(first.snapshots[0].vm_state_bytes, 0u);
  EXPECT_GT(first.snapshots[0].taken_unix_ms, 1'600'000'000'000u);
  EXPECT_EQ(second.snapshots[0].vm_state_bytes, 0u);
  EXPECT_EQ(second.snapshots[1].tag, "two");
  EXPECT_GT(second.snapshots[1].vm_state_bytes, 0u);
}

Task<void> NeedsAPausedSystem(Context& context) {
  SNAPSHOT_REQUIRE_OK(co_await Make(context));
  constexpr auto kWrong = absl::StatusCode::kFailedPrecondition;
  SnapshotOptions options = Both("t");
  ExpectRefused(co_await context.system->SaveSnapshot(options), kWrong, "");
  ExpectRefused(co_await context.system->LoadSnapshot(options), kWrong, "");
  EXPECT_EQ(co_await StateOf(context), SystemState::kRunning);
}

Task<void> ATagIsUsedOnce(Context& context) {
  SNAPSHOT_REQUIRE_OK(co_await MakePaused(context));
  SnapshotOptions options = Both("t");
  SNAPSHOT_REQUIRE_OK(co_await context.system->SaveSnapshot(options));
  ExpectRefused(co_await context.system->SaveSnapshot(options), absl::StatusCode::kAlreadyExists,
                "'t' already");
  EXPECT_EQ(co_await CountOf(context, "t"), 2u);
}

// QEMU itself would make a second one there.
Task<void> ATagOfOneDiskIsTakenForAll(Context& context) {
  SNAPSHOT_REQUIRE_OK(co_await MakePaused(context));
  SnapshotOptions options = Both("t");
  options.disks = {At("0")};
  SNAPSHOT_REQUIRE_OK(co_await context.system->SaveSnapshot(options));
  SnapshotOptions other = Both("t");
  ExpectRefused(co_await context.system->SaveSnapshot(other), absl::StatusCode::kAlreadyExists,
                "Scsi/0/0");
  other.disks = {At("1")};
  other.vm_state = At("1");
  ExpectRefused(co_await context.system->SaveSnapshot(other), absl::StatusCode::kAlreadyExists,
                "Scsi/0/0");
  EXPECT_EQ(co_await CountOf(context, "t"), 1u);
}

Task<void> DisksAreChecked(Context& context) {
  SNAPSHOT_REQUIRE_OK(co_await MakePaused(context));
  ComputeSystem& system = *context.system;
  SnapshotOptions options = Both("t");
  options.disks.clear();
  ExpectRefused(co_await system.SaveSnapshot(options), absl::StatusCode::kInvalidArgument,
                "at least one disk");
  options = Both("t");
  options.vm_state = At("7");
  ExpectRefused(co_await system.SaveSnapshot(options), absl::StatusCode::kInvalidArgument,
                "not in the snapshot");
  options = Both("t");
  options.disks.push_back(At("7"));
  ExpectRefused(co_await system.SaveSnapshot(options), absl::StatusCode::kNotFound, "Scsi/0/7");
  options = Both("t");
  options.disks.push_back(At("2"));
  ExpectRefused(co_await system.SaveSnapshot(options), absl::StatusCode::kFailedPrecondition,
                "cannot hold snapshots");
  EXPECT_EQ(co_await CountOf(context, "t"), 0u);
}

Task<void> LoadingWhatIsNotThere(Context& context) {
  SNAPSHOT_REQUIRE_OK(co_await MakePaused(context));
  ComputeSystem& system = *context.system;
  SnapshotOptions options = Both("nope");
  ExpectRefused(co_await system.LoadSnapshot(options), absl::StatusCode::kNotFound, "Scsi/0/1");
  options.disks = {At("0")};
  SNAPSHOT_REQUIRE_OK(co_await system.SaveSnapshot(options));
  options = Both("nope");
  ExpectRefused(co_await system.LoadSnapshot(options), absl::StatusCode::kNotFound, "Scsi/0/1");
  SNAPSHOT_REQUIRE_OK(co_await system.Resume());
  EXPECT_EQ(co_await StateOf(context), SystemState::kRunning);
}

Task<void> ADiskAloneIsNotLoaded(Context& context) {
  context.fixture.MakeQcow2(PathOf(context, "9"));
  context.fixture.SnapshotDiskAlone(PathOf(context, "9"), "alone");
  schema::ComputeSystem document = context.fixture.Document();
  document.virtual_machine.devices.scsi["0"].attachments["0"].path = PathOf(context, "9");
  auto made = co_await context.fixture.source().Create(kVmId, document);
  SNAPSHOT_REQUIRE_OK(made.status());
  context.system = *std::move(made);
  const schema::StartOptions start;
  SNAPSHOT_REQUIRE_OK(co_await context.system->Start(start, nullptr));
  SNAPSHOT_REQUIRE_OK(co_await context.system->Pause());
  SnapshotOptions options;
  options.tag = "alone";
  options.disks = {At("0")};
  options.vm_state = At("0");
  ExpectRefused(co_await context.system->LoadSnapshot(options),
                absl::StatusCode::kFailedPrecondition, "no memory in it");
}

Task<void> DeletesWhereItIs(Context& context) {
  SNAPSHOT_REQUIRE_OK(co_await MakePaused(context));
  ComputeSystem& system = *context.system;
  SnapshotOptions options = Both("t");
  SNAPSHOT_REQUIRE_OK(co_await system.SaveSnapshot(options));
  SNAPSHOT_REQUIRE_OK(co_await system.Resume());
  std::vector<DiskPlace> first = {At("0")};
  SNAPSHOT_REQUIRE_OK(co_await system.DeleteSnapshot("t", first));
  EXPECT_EQ(co_await CountOf(context, "t"), 1u);
  std::vector<DiskPlace> both = options.disks;
  SNAPSHOT_REQUIRE_OK(co_await system.DeleteSnapshot("t", both));
  EXPECT_EQ(co_await CountOf(context, "t"), 0u);
  ExpectRefused(co_await system.DeleteSnapshot("t", both), absl::StatusCode::kNotFound, "'t'");
  EXPECT_EQ(co_await StateOf(context), SystemState::kRunning);
}

// Whoever finds it again finds nothing under way.
Task<void> AnAdoptedSystemGoesOn(Context& context) {
  SNAPSHOT_REQUIRE_OK(co_await MakePaused(context));
  SnapshotOptions options = Both("t");
  SNAPSHOT_REQUIRE_OK(co_await context.system->SaveSnapshot(options));
  const std::string record = context.system->adoption_record();
  schema::ComputeSystem document = context.fixture.Document();
  auto& disks = document.virtual_machine.devices.scsi["0"].attachments;
  for (const char* lun : {"0", "1"}) disks[lun].path = PathOf(context, lun);
  context.system.reset();  // as if the daemon had died
  auto adopted = co_await context.fixture.source().Adopt(kVmId, document, record);
  SNAPSHOT_REQUIRE_OK(adopted.status());
  context.system = *std::move(adopted);
  SNAPSHOT_REQUIRE_OK(co_await context.system->LoadSnapshot(options));
  SNAPSHOT_REQUIRE_OK(co_await context.system->Resume());
  EXPECT_EQ(co_await StateOf(context), SystemState::kRunning);
}

struct Case {
  const char* name;
  Task<void> (*run)(Context&);
};

constexpr Case kCases[] = {
    {"BackToThatInstant", BackToThatInstant},
    {"ListsWhatIsInEachDisk", ListsWhatIsInEachDisk},
    {"NeedsAPausedSystem", NeedsAPausedSystem},
    {"ATagIsUsedOnce", ATagIsUsedOnce},
    {"ATagOfOneDiskIsTakenForAll", ATagOfOneDiskIsTakenForAll},
    {"DisksAreChecked", DisksAreChecked},
    {"LoadingWhatIsNotThere", LoadingWhatIsNotThere},
    {"ADiskAloneIsNotLoaded", ADiskAloneIsNotLoaded},
    {"DeletesWhereItIs", DeletesWhereItIs},
    {"AnAdoptedSystemGoesOn", AnAdoptedSystemGoesOn},
};

Task<void> RunCase(const Case* test, Context* context, bool* ended) {
  co_await test->run(*context);
  if (context->system) (co_await context->system->Terminate()).IgnoreError();
  *ended = true;
}

class SnapshotConformanceTest : public testing::Test {
 public:
  SnapshotConformanceTest(const Case& test, SnapshotFixtureFactory factory)
      : case_(test), factory_(std::move(factory)) {}

  void TestBody() override {
    asio::io_context io;
    const std::unique_ptr<SnapshotFixture> fixture = factory_(io.get_executor());
    const milliseconds deadline = fixture->Deadline();
    bool ended = false;
    {
      Context context{.fixture = *fixture, .system = nullptr};
      Spawn(io.get_executor(), RunCase(&case_, &context, &ended));
      const auto until = std::chrono::steady_clock::now() + deadline;
      while (!ended && io.run_one_until(until) > 0) {
      }
      EXPECT_TRUE(ended) << "the case was not over after " << deadline.count() << " ms";
    }
  }

 private:
  const Case& case_;
  SnapshotFixtureFactory factory_;
};

}  // namespace
}  // namespace snapshot_conformance

bool RegisterSnapshotConformance(const char* suite, SnapshotFixtureFactory factory) {
  using snapshot_conformance::kCases;
  for (const auto& test : kCases) {
    auto make = [&test, factory]() -> testing::Test* {
      return new snapshot_conformance::SnapshotConformanceTest(test, factory);  // GoogleTest's
    };
    testing::RegisterTest(suite, test.name, nullptr, nullptr, __FILE__, __LINE__, make);
  }
  return true;
}

}  // namespace ferry::vm
