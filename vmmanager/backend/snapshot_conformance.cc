// How backends keep snapshots inside disks.
#include "bridge/runtime/str_cat.h"
#include "vmmanager/backend/conformance_case.h"

namespace ferry::vm::conformance {
namespace {

using schema::SystemState;

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
  context.source = *std::move(made);
  const schema::StartOptions options;
  co_return co_await context.source->Start(options, nullptr);
}

Task<absl::Status> MakePaused(Context& context) {
  absl::Status made = co_await Make(context);
  if (made.ok()) made = co_await context.source->Pause();
  co_return made;
}

Task<size_t> CountOf(Context& context, std::string tag) {
  const auto listed = co_await context.source->ListSnapshots();
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
  REQUIRE_OK(co_await Make(context));
  ComputeSystem& system = *context.source;
  co_await context.fixture.LetRun(system);
  REQUIRE_OK(co_await system.Pause());
  const auto then = co_await context.fixture.Progress(system);
  SnapshotOptions options = Both("before");
  REQUIRE_OK(co_await system.SaveSnapshot(options));
  EXPECT_EQ(co_await StateOf(*context.source), SystemState::kPaused);
  REQUIRE_OK(co_await system.Resume());
  co_await context.fixture.LetRun(system);
  REQUIRE_OK(co_await system.Pause());
  REQUIRE_OK(co_await system.LoadSnapshot(options));
  EXPECT_EQ(co_await StateOf(*context.source), SystemState::kPaused);
  const auto now = co_await context.fixture.Progress(system);
  EXPECT_EQ(*then, *now);
  REQUIRE_OK(co_await system.Resume());
  EXPECT_EQ(co_await StateOf(*context.source), SystemState::kRunning);
}

Task<void> ListsWhatIsInEachDisk(Context& context) {
  REQUIRE_OK(co_await MakePaused(context));
  ComputeSystem& system = *context.source;
  SnapshotOptions options = Both("one");
  REQUIRE_OK(co_await system.SaveSnapshot(options));
  options.tag = "two";
  options.disks = {At("1")};
  options.vm_state = At("1");
  REQUIRE_OK(co_await system.SaveSnapshot(options));
  const auto listed = co_await system.ListSnapshots();
  REQUIRE_OK(listed.status());
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
  REQUIRE_OK(co_await Make(context));
  constexpr auto kWrong = absl::StatusCode::kFailedPrecondition;
  SnapshotOptions options = Both("t");
  ExpectRefused(co_await context.source->SaveSnapshot(options), kWrong, "");
  ExpectRefused(co_await context.source->LoadSnapshot(options), kWrong, "");
  EXPECT_EQ(co_await StateOf(*context.source), SystemState::kRunning);
}

Task<void> ATagIsUsedOnce(Context& context) {
  REQUIRE_OK(co_await MakePaused(context));
  SnapshotOptions options = Both("t");
  REQUIRE_OK(co_await context.source->SaveSnapshot(options));
  ExpectRefused(co_await context.source->SaveSnapshot(options), absl::StatusCode::kAlreadyExists,
                "'t' already");
  EXPECT_EQ(co_await CountOf(context, "t"), 2u);
}

// QEMU itself would make a second one there.
Task<void> ATagOfOneDiskIsTakenForAll(Context& context) {
  REQUIRE_OK(co_await MakePaused(context));
  SnapshotOptions options = Both("t");
  options.disks = {At("0")};
  REQUIRE_OK(co_await context.source->SaveSnapshot(options));
  SnapshotOptions other = Both("t");
  ExpectRefused(co_await context.source->SaveSnapshot(other), absl::StatusCode::kAlreadyExists,
                "Scsi/0/0");
  other.disks = {At("1")};
  other.vm_state = At("1");
  ExpectRefused(co_await context.source->SaveSnapshot(other), absl::StatusCode::kAlreadyExists,
                "Scsi/0/0");
  EXPECT_EQ(co_await CountOf(context, "t"), 1u);
}

Task<void> DisksAreChecked(Context& context) {
  REQUIRE_OK(co_await MakePaused(context));
  ComputeSystem& system = *context.source;
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
  REQUIRE_OK(co_await MakePaused(context));
  ComputeSystem& system = *context.source;
  SnapshotOptions options = Both("nope");
  ExpectRefused(co_await system.LoadSnapshot(options), absl::StatusCode::kNotFound, "Scsi/0/1");
  options.disks = {At("0")};
  REQUIRE_OK(co_await system.SaveSnapshot(options));
  options = Both("nope");
  ExpectRefused(co_await system.LoadSnapshot(options), absl::StatusCode::kNotFound, "Scsi/0/1");
  REQUIRE_OK(co_await system.Resume());
  EXPECT_EQ(co_await StateOf(*context.source), SystemState::kRunning);
}

// A paused system with one disk, which has that many states of the tag "alone" without memory.
Task<absl::Status> MakeWithDiskAlone(Context& context, size_t states) {
  context.fixture.MakeQcow2(PathOf(context, "9"));
  for (size_t i = 0; i < states; ++i) {
    context.fixture.SnapshotDiskAlone(PathOf(context, "9"), "alone");
  }
  schema::ComputeSystem document = context.fixture.Document();
  document.virtual_machine.devices.scsi["0"].attachments["0"].path = PathOf(context, "9");
  auto made = co_await context.fixture.source().Create(kVmId, document);
  if (!made.ok()) co_return made.status();
  context.source = *std::move(made);
  const schema::StartOptions start;
  absl::Status paused = co_await context.source->Start(start, nullptr);
  if (paused.ok()) paused = co_await context.source->Pause();
  co_return paused;
}

// Of such a system.
SnapshotOptions Alone() {
  SnapshotOptions options;
  options.tag = "alone";
  options.disks = {At("0")};
  options.vm_state = At("0");
  return options;
}

Task<void> ADiskAloneIsNotLoaded(Context& context) {
  REQUIRE_OK(co_await MakeWithDiskAlone(context, 1));
  SnapshotOptions options = Alone();
  ExpectRefused(co_await context.source->LoadSnapshot(options),
                absl::StatusCode::kFailedPrecondition, "no memory in it");
}

Task<void> DeletesWhereItIs(Context& context) {
  REQUIRE_OK(co_await MakePaused(context));
  ComputeSystem& system = *context.source;
  SnapshotOptions options = Both("t");
  REQUIRE_OK(co_await system.SaveSnapshot(options));
  REQUIRE_OK(co_await system.Resume());
  std::vector<DiskPlace> first = {At("0")};
  REQUIRE_OK(co_await system.DeleteSnapshot("t", first));
  EXPECT_EQ(co_await CountOf(context, "t"), 1u);
  std::vector<DiskPlace> both = options.disks;
  REQUIRE_OK(co_await system.DeleteSnapshot("t", both));
  EXPECT_EQ(co_await CountOf(context, "t"), 0u);
  ExpectRefused(co_await system.DeleteSnapshot("t", both), absl::StatusCode::kNotFound, "'t'");
  EXPECT_EQ(co_await StateOf(*context.source), SystemState::kRunning);
}

// QEMU itself would leave all but the first of them.
Task<void> DeletesAllOfOneTag(Context& context) {
  REQUIRE_OK(co_await MakeWithDiskAlone(context, 3));
  SnapshotOptions options = Alone();
  ExpectRefused(co_await context.source->LoadSnapshot(options),
                absl::StatusCode::kFailedPrecondition, "3 snapshots 'alone'");
  EXPECT_EQ(co_await CountOf(context, "alone"), 3u);
  std::vector<DiskPlace> disks = options.disks;
  REQUIRE_OK(co_await context.source->DeleteSnapshot("alone", disks));
  EXPECT_EQ(co_await CountOf(context, "alone"), 0u);
}

// Whoever finds it again finds nothing under way.
Task<void> AnAdoptedSystemGoesOn(Context& context) {
  REQUIRE_OK(co_await MakePaused(context));
  SnapshotOptions options = Both("t");
  REQUIRE_OK(co_await context.source->SaveSnapshot(options));
  const std::string record = context.source->adoption_record();
  schema::ComputeSystem document = context.fixture.Document();
  auto& disks = document.virtual_machine.devices.scsi["0"].attachments;
  for (const char* lun : {"0", "1"}) disks[lun].path = PathOf(context, lun);
  context.source.reset();  // as if the daemon had died
  auto adopted = co_await context.fixture.source().Adopt(kVmId, document, record);
  REQUIRE_OK(adopted.status());
  context.source = *std::move(adopted);
  REQUIRE_OK(co_await context.source->LoadSnapshot(options));
  REQUIRE_OK(co_await context.source->Resume());
  EXPECT_EQ(co_await StateOf(*context.source), SystemState::kRunning);
}

constexpr Case kSnapshotCases[] = {
    {"BackToThatInstant", BackToThatInstant},
    {"ListsWhatIsInEachDisk", ListsWhatIsInEachDisk},
    {"NeedsAPausedSystem", NeedsAPausedSystem},
    {"ATagIsUsedOnce", ATagIsUsedOnce},
    {"ATagOfOneDiskIsTakenForAll", ATagOfOneDiskIsTakenForAll},
    {"DisksAreChecked", DisksAreChecked},
    {"LoadingWhatIsNotThere", LoadingWhatIsNotThere},
    {"ADiskAloneIsNotLoaded", ADiskAloneIsNotLoaded},
    {"DeletesWhereItIs", DeletesWhereItIs},
    {"DeletesAllOfOneTag", DeletesAllOfOneTag},
    {"AnAdoptedSystemGoesOn", AnAdoptedSystemGoesOn},
};

}  // namespace

std::span<const Case> SnapshotCases() { return kSnapshotCases; }

}  // namespace ferry::vm::conformance
