// Disks whose content comes with their VM, in their files of this host's.
#include "vmmanager/sandbox/arriving_disks.h"

#include <filesystem>
#include <fstream>
#include <limits>

#include "tests/unit/vmmanager/sandbox/sandbox_fixture.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/sandbox/disk_copies.h"
#include "vmmanager/state/envelope.h"

namespace ferry::vm {
namespace {

constexpr size_t kHead = 64;

class ArrivingDisksTest : public SandboxTest {
 protected:
  ArrivalFolder Folder() const {
    return {.state_folder = folder_.path(), .vm_id = "vm-1", .session_id = "s1"};
  }
  std::vector<ArrivingDisk> Disks() const {
    return {{.name = "data",
             .lun = "0",
             .format = "raw",
             .bytes = 1 << 20,
             .used_bytes = 4096,
             .file = Folder().path() + "/0.raw"}};
  }
  absl::Status Make() {
    return Await(MakeArrivingDisks(&reads_, &host_.overlays, Folder(), Disks()));
  }
  // As the tool would.
  void Fill() { std::ofstream(Disks()[0].file) << "content"; }
  bool There() const { return std::filesystem::exists(Disks()[0].file); }

  state::v1::DiskCopy Describe(const std::string& head, const std::string& format, CopyWish wish,
                               bool read_only = false) {
    const std::string path = folder_.path() + "/described";
    std::ofstream(path, std::ios::trunc) << head;
    v1::VmSpec spec;
    v1::DiskSpec* disk = spec.add_disks();
    disk->set_name("data");
    disk->set_file(path);
    disk->set_format(format);
    disk->set_read_only(read_only);
    auto payload = std::make_shared<state::v1::VmPayload>();
    payload->add_disks()->set_name("data");
    auto describe = [](v1::VmSpec own, CopyWish how, std::shared_ptr<state::v1::VmPayload> into,
                       ImageDigests* digests, OverlayFiles* files) -> Task<bool> {
      co_await DescribeCopies(std::move(own), how, into->mutable_disks(), digests, files);
      co_return into->disks(0).has_copy();
    };
    has_copy_ = Await(describe(spec, wish, payload, &digests_, &host_.overlays));
    return payload->disks(0).copy();
  }

  FakeFileReads reads_;
  ImageDigests digests_{reads_};
  bool has_copy_ = false;
};

TEST_F(ArrivingDisksTest, DraftsGoAndWhatIsKeptStays) {
  ASSERT_TRUE(Make().ok());
  Fill();
  EXPECT_EQ(Make().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(There());
  EXPECT_TRUE(Await(RemoveArrivals(&reads_, Folder())).ok());
  EXPECT_FALSE(std::filesystem::exists(folder_.path() + "/disks/vm-1"));
  EXPECT_TRUE(Await(RemoveArrivals(&reads_, Folder())).ok());
  host_.overlays.images.clear();
  ASSERT_TRUE(Make().ok());
  Fill();
  EXPECT_TRUE(Await(KeepArrivals(&reads_, Folder())).ok());
  EXPECT_TRUE(Await(KeepArrivals(&reads_, Folder())).ok());
  EXPECT_TRUE(Await(RemoveArrivals(&reads_, Folder())).ok());
  EXPECT_TRUE(There());
}

TEST_F(ArrivingDisksTest, RoomIsForWhatIsUsed) {
  const auto check = [this](uint64_t room, uint64_t reserve) {
    host_.overlays.room.bytes = room;
    return Await(CheckArrivalRoom(&host_.overlays, folder_.path(), Disks(), reserve));
  };
  EXPECT_TRUE(check(4096, 0).ok());
  EXPECT_TRUE(check(5000, 900).ok());
  EXPECT_EQ(rpc::ReasonOf(check(4095, 0)), "no_room_for_disks");
  EXPECT_EQ(check(4096, 1).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Await(CheckArrivalRoom(nullptr, folder_.path(), Disks(), 0)).code(),
            absl::StatusCode::kFailedPrecondition);
}

// What another host says they need is only what it says.
TEST_F(ArrivingDisksTest, NumbersThatAreTooLargeAreNoRoom) {
  std::vector<ArrivingDisk> disks(2, Disks()[0]);
  for (ArrivingDisk& disk : disks) {
    disk.bytes = disk.used_bytes = std::numeric_limits<uint64_t>::max() - 1;
  }
  host_.overlays.room.bytes = 4096;
  EXPECT_EQ(rpc::ReasonOf(Await(CheckArrivalRoom(&host_.overlays, folder_.path(), disks, 0))),
            "no_room_for_disks");
}

TEST_F(ArrivingDisksTest, WhoDiedBeforeItWasADraftIsNotInTheWay) {
  std::filesystem::create_directories(Folder().path());
  EXPECT_TRUE(Await(RemoveArrivals(&reads_, Folder())).ok());
  EXPECT_FALSE(std::filesystem::exists(Folder().path()));
  std::filesystem::create_directories(Folder().path());
  EXPECT_TRUE(Make().ok());
}

TEST_F(ArrivingDisksTest, OnlyTheVmsOwnDisksGetFiles) {
  v1::VmSpec spec;
  spec.add_disks()->set_name("data");
  schema::ComputeSystem document;
  document.virtual_machine.devices.scsi["0"].attachments["0"].path = "/at/the/source";
  std::vector<ArrivingDisk> disks = Disks();
  disks[0].file.clear();
  ASSERT_TRUE(PlaceArrivingDisks(Folder(), &disks, &document, &spec).ok());
  EXPECT_EQ(disks[0].file, Folder().path() + "/0.raw");
  EXPECT_EQ(spec.disks(0).file(), disks[0].file);
  EXPECT_EQ(document.virtual_machine.devices.scsi["0"].attachments["0"].path, disks[0].file);
  for (const auto& [name, lun] : {std::pair("other", "0"), std::pair("data", "../0")}) {
    disks[0].name = name;
    disks[0].lun = lun;
    EXPECT_EQ(PlaceArrivingDisks(Folder(), &disks, &document, &spec).code(),
              absl::StatusCode::kInvalidArgument);
  }
}

TEST_F(ArrivingDisksTest, ASourceSaysWhatItCanSend) {
  const CopyWish wish;
  EXPECT_EQ(Describe(std::string(8192, 'x'), "raw", wish).refusal(), "");
  EXPECT_TRUE(has_copy_);
  std::string head(kHead, '\0');
  EXPECT_EQ(Describe(head, "qcow2", wish).refusal(), "");
  std::string over = head;
  over[15] = 1;
  // What a guest has written into a raw disk may look like anything.
  EXPECT_EQ(Describe(over, "raw", wish).refusal(), "");
  std::string snapshots = head;
  snapshots[63] = 1;
  EXPECT_THAT(Describe(snapshots, "qcow2", wish).refusal(), HasSubstr("holds snapshots"));
  EXPECT_THAT(Describe(head, "qcow2", {.has_checkpoints = true}).refusal(),
              HasSubstr("checkpoints"));
  EXPECT_TRUE(Describe(head, "qcow2", {.storage = v1::COPY_STORAGE_ALL}).always());
  Describe(head, "qcow2", {.storage = v1::COPY_STORAGE_NONE});
  EXPECT_FALSE(has_copy_);
  Describe(head, "qcow2", wish, true);
  EXPECT_FALSE(has_copy_);
}

TEST_F(ArrivingDisksTest, OneThatLiesOverAnotherFileComesWholeOrOnItsOwn) {
  std::string over(kHead, '\0');
  over[15] = 1;
  const std::string disk = folder_.path() + "/described";
  const std::string base = folder_.path() + "/base";
  std::ofstream(base) << "content";
  host_.overlays.images[disk] = {.format = "qcow2", .below = base, .below_format = "raw"};
  host_.overlays.images[base] = {.format = "raw"};
  host_.overlays.measured[disk] = 70'000;
  const state::v1::DiskCopy whole = Describe(over, "qcow2", {});
  EXPECT_FALSE(whole.has_below());
  EXPECT_EQ(whole.used_bytes(), 70'000u);
  const CopyWish top{.storage = v1::COPY_STORAGE_TOP};
  const state::v1::DiskCopy alone = Describe(over, "qcow2", top);
  EXPECT_EQ(alone.below().file(), base);
  EXPECT_EQ(alone.below().format(), "raw");
  EXPECT_EQ(alone.below().sha256(), Sha256("content"));
  EXPECT_LT(alone.used_bytes(), 70'000u);
  host_.overlays.images[base].below = "/another";
  EXPECT_THAT(Describe(over, "qcow2", top).refusal(), HasSubstr("more files than one"));
  host_.overlays.images[disk].below_format.clear();
  EXPECT_THAT(Describe(over, "qcow2", top).refusal(), HasSubstr("of which format"));
  // What it lies over matters only there.
  EXPECT_TRUE(Describe(std::string(kHead, '\0'), "qcow2", top).refusal().empty());
}

}  // namespace
}  // namespace ferry::vm
