// How backends let disks go on in files on top of what they are.
#include "bridge/runtime/str_cat.h"
#include "vmmanager/backend/conformance_case.h"

namespace ferry::vm::conformance {
namespace {

using schema::SystemState;

DiskPlace DiskAt(const char* lun) { return {.controller = "0", .lun = lun}; }

std::string FileOf(Context& context, const std::string& name) {
  return StrCat(context.fixture.Folder(), "/", name);
}

// Two disks that are written to, and one that is only read.
schema::ComputeSystem DocumentWithDisks(Context& context) {
  schema::ComputeSystem document = context.fixture.Document();
  auto& disks = document.virtual_machine.devices.scsi["0"].attachments;
  for (const char* lun : {"0", "1", "2"}) disks[lun].path = FileOf(context, lun);
  disks["1"].format = "raw";
  disks["2"].read_only = true;
  return document;
}

Task<absl::Status> MakeWith(Context& context, schema::ComputeSystem document) {
  auto made = co_await context.fixture.source().Create(kVmId, document);
  if (!made.ok()) co_return made.status();
  context.source = *std::move(made);
  const schema::StartOptions options;
  co_return co_await context.source->Start(options, nullptr);
}

Task<absl::Status> MakeWithDisks(Context& context) {
  for (const char* lun : {"0", "1", "2"}) context.fixture.MakeQcow2(FileOf(context, lun));
  schema::ComputeSystem document = DocumentWithDisks(context);
  co_return co_await MakeWith(context, std::move(document));
}

Task<absl::Status> GoOnIn(Context& context, const char* lun, std::string file, std::string below,
                          std::string format) {
  context.fixture.MakeOverlay(file, below, format);
  std::vector<DiskOverlay> overlays = {{DiskAt(lun), std::move(file)}};
  co_return co_await context.source->AddOverlays(std::move(overlays));
}

Task<absl::Status> MergeAt(Context& context, const char* lun, std::string format) {
  DiskPlace place = DiskAt(lun);
  PlaceDiskFile nothing;
  co_return co_await context.source->MergeOverlay(std::move(place), std::move(format),
                                                  std::move(nothing), nullptr);
}

Task<absl::Status> MergeLowerAt(Context& context, const char* lun, std::string file,
                                std::string below) {
  LowerOverlay lower{DiskAt(lun), std::move(file), std::move(below)};
  co_return co_await context.source->MergeLowerOverlay(std::move(lower), nullptr);
}

Task<std::string> FileAt(Context& context, const char* lun) {
  const auto files = co_await context.source->ListDiskFiles();
  EXPECT_TRUE(files.ok()) << files.status();
  if (!files.ok() || !files->contains(DiskAt(lun))) co_return "none";
  co_return files->at(DiskAt(lun));
}

void ExpectIs(const absl::Status& status, absl::StatusCode code, const std::string& text) {
  EXPECT_EQ(status.code(), code) << status;
  EXPECT_NE(status.message().find(text), absl::string_view::npos) << status;
}

Task<void> DisksGrow(Context& context) {
  constexpr uint64_t kBytes = uint64_t{64} << 20;
  REQUIRE_OK(co_await MakeWithDisks(context));
  for (const char* lun : {"0", "1"}) {
    DiskPlace place = DiskAt(lun);
    REQUIRE_OK(co_await context.source->ResizeDisk(std::move(place), kBytes));
  }
  DiskPlace read_only = DiskAt("2");
  EXPECT_FALSE((co_await context.source->ResizeDisk(std::move(read_only), kBytes)).ok());
  DiskPlace nowhere = DiskAt("7");
  EXPECT_EQ((co_await context.source->ResizeDisk(std::move(nowhere), kBytes)).code(),
            absl::StatusCode::kNotFound);
  co_await ExpectRuns(context, *context.source);
}

Task<absl::Status> MoveTo(Context& context, const char* lun, std::string file, std::string format,
                          PlaceDiskFile put) {
  DiskPlace place = DiskAt(lun);
  DiskTarget target{std::move(file), std::move(format)};
  co_return co_await context.source->MoveDisk(std::move(place), std::move(target), std::move(put),
                                              nullptr);
}

Task<void> DisksMove(Context& context) {
  REQUIRE_OK(co_await MakeWithDisks(context));
  for (const char* name : {"there", "away"}) context.fixture.MakeQcow2(FileOf(context, name));
  std::vector<bool> placed;
  PlaceDiskFile put = [&placed](bool there) -> Task<absl::Status> {
    placed.push_back(there);
    co_return absl::OkStatus();
  };
  REQUIRE_OK(co_await MoveTo(context, "0", FileOf(context, "there"), "qcow2", put));
  EXPECT_EQ(placed, std::vector<bool>{true});
  EXPECT_EQ(co_await FileAt(context, "0"), FileOf(context, "there"));
  co_await ExpectRuns(context, *context.source);
  PlaceDiskFile refuse = [&placed](bool there) -> Task<absl::Status> {
    placed.push_back(there);
    co_return there ? absl::ResourceExhaustedError("full") : absl::OkStatus();
  };
  const absl::Status refused =
      co_await MoveTo(context, "0", FileOf(context, "away"), "qcow2", refuse);
  ExpectIs(refused, absl::StatusCode::kResourceExhausted, "full");
  EXPECT_EQ(placed, (std::vector<bool>{true, true, false}));
  EXPECT_EQ(co_await FileAt(context, "0"), FileOf(context, "there"));
  co_await ExpectRuns(context, *context.source);
  // Nothing of that is in the way.
  REQUIRE_OK(co_await context.source->Pause());
  REQUIRE_OK(co_await MoveTo(context, "0", FileOf(context, "away"), "qcow2", put));
  EXPECT_EQ(co_await FileAt(context, "0"), FileOf(context, "away"));
  EXPECT_EQ(co_await StateOf(*context.source), SystemState::kPaused);
  const absl::Status read_only = co_await MoveTo(context, "2", FileOf(context, "0"), "qcow2", put);
  ExpectIs(read_only, absl::StatusCode::kFailedPrecondition, "only read");
  const absl::Status nowhere = co_await MoveTo(context, "7", FileOf(context, "0"), "qcow2", put);
  ExpectIs(nowhere, absl::StatusCode::kNotFound, "no disk");
}

Task<void> ThereAndBack(Context& context, SystemState state) {
  for (const char* lun : {"0", "1"}) {
    context.fixture.MakeOverlay(FileOf(context, StrCat(lun, ".over")), FileOf(context, lun),
                                lun[0] == '0' ? "qcow2" : "raw");
  }
  std::vector<DiskOverlay> overlays = {{DiskAt("0"), FileOf(context, "0.over")},
                                       {DiskAt("1"), FileOf(context, "1.over")}};
  REQUIRE_OK(co_await context.source->AddOverlays(std::move(overlays)));
  EXPECT_EQ(co_await FileAt(context, "0"), FileOf(context, "0.over"));
  EXPECT_EQ(co_await FileAt(context, "1"), FileOf(context, "1.over"));
  EXPECT_EQ(co_await FileAt(context, "2"), "none");
  EXPECT_EQ(co_await StateOf(*context.source), state);
  REQUIRE_OK(co_await MergeAt(context, "0", "qcow2"));
  EXPECT_EQ(co_await FileAt(context, "0"), FileOf(context, "0"));
  EXPECT_EQ(co_await FileAt(context, "1"), FileOf(context, "1.over"));
  REQUIRE_OK(co_await MergeAt(context, "1", "raw"));
  EXPECT_EQ(co_await FileAt(context, "1"), FileOf(context, "1"));
  EXPECT_EQ(co_await StateOf(*context.source), state);
}

Task<void> DisksGoOnInOverlaysAndComeBack(Context& context) {
  REQUIRE_OK(co_await MakeWithDisks(context));
  co_await ThereAndBack(context, SystemState::kRunning);
  co_await ExpectRuns(context, *context.source);
}

Task<void> DisksGoOnInOverlaysOfAPausedSystem(Context& context) {
  REQUIRE_OK(co_await MakeWithDisks(context));
  REQUIRE_OK(co_await context.source->Pause());
  co_await ThereAndBack(context, SystemState::kPaused);
  REQUIRE_OK(co_await context.source->Resume());
  co_await ExpectRuns(context, *context.source);
}

Task<void> OverlaysLieOnEachOther(Context& context) {
  REQUIRE_OK(co_await MakeWithDisks(context));
  const std::string base = FileOf(context, "0");
  const std::string first = FileOf(context, "a");
  const std::string second = FileOf(context, "b");
  const std::string third = FileOf(context, "c");
  REQUIRE_OK(co_await GoOnIn(context, "0", first, base, "qcow2"));
  REQUIRE_OK(co_await GoOnIn(context, "0", second, first, "qcow2"));
  REQUIRE_OK(co_await MergeAt(context, "0", "qcow2"));
  EXPECT_EQ(co_await FileAt(context, "0"), first);
  REQUIRE_OK(co_await GoOnIn(context, "0", third, first, "qcow2"));
  EXPECT_EQ(co_await FileAt(context, "0"), third);
  REQUIRE_OK(co_await MergeAt(context, "0", "qcow2"));
  REQUIRE_OK(co_await MergeAt(context, "0", "qcow2"));
  EXPECT_EQ(co_await FileAt(context, "0"), base);
}

Task<void> WhatLiesFurtherBelowIsMerged(Context& context) {
  REQUIRE_OK(co_await MakeWithDisks(context));
  const std::string base = FileOf(context, "0");
  const std::string first = FileOf(context, "a");
  const std::string second = FileOf(context, "b");
  const std::string third = FileOf(context, "c");
  REQUIRE_OK(co_await GoOnIn(context, "0", first, base, "qcow2"));
  REQUIRE_OK(co_await GoOnIn(context, "0", second, first, "qcow2"));
  REQUIRE_OK(co_await GoOnIn(context, "0", third, second, "qcow2"));
  REQUIRE_OK(co_await MergeLowerAt(context, "0", first, base));
  EXPECT_EQ(co_await FileAt(context, "0"), third);
  EXPECT_EQ(co_await StateOf(*context.source), SystemState::kRunning);
  // Repeated it does nothing.
  REQUIRE_OK(co_await MergeLowerAt(context, "0", first, base));
  REQUIRE_OK(co_await context.source->Pause());
  REQUIRE_OK(co_await MergeLowerAt(context, "0", second, base));
  EXPECT_EQ(co_await StateOf(*context.source), SystemState::kPaused);
  REQUIRE_OK(co_await context.source->Resume());
  // Nothing is left between them.
  REQUIRE_OK(co_await MergeAt(context, "0", "qcow2"));
  EXPECT_EQ(co_await FileAt(context, "0"), base);
  co_await ExpectRuns(context, *context.source);
}

Task<void> WhatDoesNotLieBelowIsNotMerged(Context& context) {
  REQUIRE_OK(co_await MakeWithDisks(context));
  const std::string base = FileOf(context, "0");
  const std::string over = FileOf(context, "over");
  REQUIRE_OK(co_await GoOnIn(context, "0", over, base, "qcow2"));
  ExpectIs(co_await MergeLowerAt(context, "0", over, base), kWrongOrder, "below");
  ExpectIs(co_await MergeLowerAt(context, "0", base, FileOf(context, "x")), kWrongOrder, "below");
  ExpectIs(co_await MergeLowerAt(context, "1", over, base), kWrongOrder, "Scsi/0/1");
  ExpectIs(co_await MergeLowerAt(context, "7", over, base), absl::StatusCode::kNotFound,
           "Scsi/0/7");
  EXPECT_EQ(co_await FileAt(context, "0"), over);
}

Task<void> WhatOverlaysCannotDoIsRefused(Context& context) {
  REQUIRE_OK(co_await MakeWithDisks(context));
  ComputeSystem& system = *context.source;
  context.fixture.MakeOverlay(FileOf(context, "x"), FileOf(context, "0"), "qcow2");
  std::vector<DiskOverlay> overlays = {{DiskAt("0"), FileOf(context, "x")},
                                       {DiskAt("7"), FileOf(context, "y")}};
  ExpectIs(co_await system.AddOverlays(overlays), absl::StatusCode::kNotFound, "Scsi/0/7");
  overlays[1].disk = DiskAt("2");
  ExpectIs(co_await system.AddOverlays(overlays), kWrongOrder, "Scsi/0/2");
  overlays[1].disk = DiskAt("0");
  ExpectIs(co_await system.AddOverlays(overlays), absl::StatusCode::kInvalidArgument, "twice");
  ExpectIs(co_await MergeAt(context, "0", "qcow2"), kWrongOrder, "no file below");
  ExpectIs(co_await MergeAt(context, "7", "qcow2"), absl::StatusCode::kNotFound, "Scsi/0/7");
  EXPECT_EQ(co_await FileAt(context, "0"), FileOf(context, "0"));
  // What was refused is not held on to.
  overlays.pop_back();
  REQUIRE_OK(co_await system.AddOverlays(overlays));
}

Task<void> AnAdoptedSystemHasItsOverlays(Context& context) {
  REQUIRE_OK(co_await MakeWithDisks(context));
  const std::string over = FileOf(context, "over");
  REQUIRE_OK(co_await GoOnIn(context, "0", over, FileOf(context, "0"), "qcow2"));
  const std::string record = context.source->adoption_record();
  schema::ComputeSystem document = DocumentWithDisks(context);
  document.virtual_machine.devices.scsi["0"].attachments["0"].path = over;
  context.source.reset();  // as if the daemon had died
  auto adopted = co_await context.fixture.source().Adopt(kVmId, document, record);
  REQUIRE_OK(adopted.status());
  context.source = *std::move(adopted);
  EXPECT_EQ(co_await FileAt(context, "0"), over);
  const std::string next = FileOf(context, "next");
  REQUIRE_OK(co_await GoOnIn(context, "0", next, over, "qcow2"));
  REQUIRE_OK(co_await MergeAt(context, "0", "qcow2"));
  REQUIRE_OK(co_await MergeAt(context, "0", "qcow2"));
  EXPECT_EQ(co_await FileAt(context, "0"), FileOf(context, "0"));
}

// What is below was found in the file itself.
Task<void> ASystemStartedOnAnOverlayIsMerged(Context& context) {
  for (const char* lun : {"0", "1", "2"}) context.fixture.MakeQcow2(FileOf(context, lun));
  const std::string over = FileOf(context, "over");
  context.fixture.MakeOverlay(over, FileOf(context, "0"), "qcow2");
  schema::ComputeSystem document = DocumentWithDisks(context);
  document.virtual_machine.devices.scsi["0"].attachments["0"].path = over;
  REQUIRE_OK(co_await MakeWith(context, std::move(document)));
  EXPECT_EQ(co_await FileAt(context, "0"), over);
  REQUIRE_OK(co_await MergeAt(context, "0", "qcow2"));
  EXPECT_EQ(co_await FileAt(context, "0"), FileOf(context, "0"));
  const std::string next = FileOf(context, "next");
  REQUIRE_OK(co_await GoOnIn(context, "0", next, FileOf(context, "0"), "qcow2"));
  EXPECT_EQ(co_await FileAt(context, "0"), next);
}

Task<absl::Status> ChangeDiskAt(Context& context, std::string type, std::string file) {
  schema::ModifySettingRequest request;
  request.request_type = std::move(type);
  request.resource_path = "VirtualMachine/Devices/Scsi/0/Attachments/7";
  schema::Attachment disk;
  disk.path = std::move(file);
  request.settings_json = schema::ToJson(disk);
  co_return co_await context.source->Modify(request);
}

// Twice, for nothing of the first may be left in its place.
Task<void> ADiskGoesWithItsOverlays(Context& context) {
  REQUIRE_OK(co_await MakeWithDisks(context));
  const std::string base = FileOf(context, "base");
  context.fixture.MakeQcow2(base);
  for (int round = 0; round < 2; ++round) {
    REQUIRE_OK(co_await ChangeDiskAt(context, "Add", base));
    const std::string first = FileOf(context, StrCat("first", round));
    const std::string second = FileOf(context, StrCat("second", round));
    REQUIRE_OK(co_await GoOnIn(context, "7", first, base, "qcow2"));
    REQUIRE_OK(co_await GoOnIn(context, "7", second, first, "qcow2"));
    EXPECT_EQ(co_await FileAt(context, "7"), second);
    if (round == 1) REQUIRE_OK(co_await MergeAt(context, "7", "qcow2"));
    REQUIRE_OK(co_await ChangeDiskAt(context, "Remove", ""));
    EXPECT_EQ(co_await FileAt(context, "7"), "none");
  }
}

constexpr Case kOverlayCases[] = {
    {"DisksGoOnInOverlaysAndComeBack", DisksGoOnInOverlaysAndComeBack},
    {"DisksGoOnInOverlaysOfAPausedSystem", DisksGoOnInOverlaysOfAPausedSystem},
    {"OverlaysLieOnEachOther", OverlaysLieOnEachOther},
    {"WhatLiesFurtherBelowIsMerged", WhatLiesFurtherBelowIsMerged},
    {"WhatDoesNotLieBelowIsNotMerged", WhatDoesNotLieBelowIsNotMerged},
    {"WhatOverlaysCannotDoIsRefused", WhatOverlaysCannotDoIsRefused},
    {"AnAdoptedSystemHasItsOverlays", AnAdoptedSystemHasItsOverlays},
    {"ASystemStartedOnAnOverlayIsMerged", ASystemStartedOnAnOverlayIsMerged},
    {"ADiskGoesWithItsOverlays", ADiskGoesWithItsOverlays},
    {"DisksGrow", DisksGrow},
    {"DisksMove", DisksMove},
};

}  // namespace

std::span<const Case> OverlayCases() { return kOverlayCases; }

}  // namespace ferry::vm::conformance
