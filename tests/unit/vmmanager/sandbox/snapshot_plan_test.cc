#include "vmmanager/sandbox/snapshot_plan.h"

#include <gmock/gmock.h>

#include "vmmanager/rpc/error_info.h"
#include "vmmanager/state/saved_state.h"

namespace ferry::vm {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kContainer[] = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

schema::Attachment Disk(const std::string& name, const std::string& format, bool read_only) {
  schema::Attachment disk;
  disk.name = name;
  disk.format = format;
  disk.read_only = read_only;
  return disk;
}

// Two qcow2 disks, one that is only read, and a container's scratch disk with its layer.
schema::ComputeSystem Machine() {
  schema::ComputeSystem machine;
  auto& disks = machine.virtual_machine.devices.scsi["0"].attachments;
  disks["0"] = Disk("root", "qcow2", false);
  disks["1"] = Disk("data", "qcow2", false);
  disks["2"] = Disk("tools", "raw", true);
  disks["3"] = Disk("layer-11112222", "raw", true);
  disks["4"] = Disk("scratch-0123456789abcdef", "qcow2", false);
  return machine;
}

SnapshotWish Wish(std::vector<std::string> devices, std::string vmstate) {
  SnapshotWish wish;
  wish.tag = "before-upgrade";
  wish.devices = std::move(devices);
  wish.vmstate = std::move(vmstate);
  return wish;
}

absl::Status Plan(const SnapshotWish& wish, const schema::ComputeSystem& machine = Machine()) {
  return PlanSnapshot("web", DisksByName(machine), wish).status();
}

void ExpectRefused(const absl::Status& status, absl::StatusCode code, const std::string& reason,
                   const std::string& text, const std::string& advice) {
  EXPECT_EQ(status.code(), code) << status;
  EXPECT_EQ(rpc::ReasonOf(status), reason);
  EXPECT_THAT(std::string(status.message()), HasSubstr(text));
  EXPECT_THAT(rpc::NextStepOf(status), HasSubstr(advice));
}

TEST(SnapshotPlanTest, DisksAreFoundByTheirNames) {
  const auto plan =
      PlanSnapshot("web", DisksByName(Machine()), Wish({"data", "root", kContainer}, "root"));
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->tag, "before-upgrade");
  EXPECT_THAT(plan->disks,
              ElementsAre(DiskPlace{"0", "1"}, DiskPlace{"0", "0"}, DiskPlace{"0", "4"}));
  EXPECT_EQ(plan->vm_state, (DiskPlace{"0", "0"}));
  // As many digits of a container's id as ferryctl shows, too.
  const auto again = PlanSnapshot("web", DisksByName(Machine()),
                                  Wish({"root", "data", "0123456789ab"}, "0123456789ab"));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->vm_state, (DiskPlace{"0", "4"}));
}

TEST(SnapshotPlanTest, TheFirmwaresStoreIsNoDisk) {
  for (const SnapshotWish& wish :
       {Wish({"root", "firmware-store"}, "root"), Wish({"root", "data"}, "firmware-store")}) {
    ExpectRefused(Plan(wish), absl::StatusCode::kInvalidArgument, "store_is_no_disk",
                  "is part of the memory", "Leave it out");
  }
}

TEST(SnapshotPlanTest, NothingIsGuessed) {
  ExpectRefused(Plan(Wish({}, "root")), absl::StatusCode::kInvalidArgument, "no_devices",
                "no disks were named", "--devices 0123456789abcdef,data,root");
  ExpectRefused(Plan(Wish({"root"}, "")), absl::StatusCode::kInvalidArgument, "no_vmstate",
                "which disk takes the memory", "--vmstate root");
  ExpectRefused(Plan(Wish({"root", "ruut"}, "root")), absl::StatusCode::kInvalidArgument,
                "unknown_disk", "VM web has no disk 'ruut'", "data,root");
  ExpectRefused(Plan(Wish({"root", "root"}, "root")), absl::StatusCode::kInvalidArgument,
                "named_twice", "named twice", "once");
  ExpectRefused(Plan(Wish({"root"}, "data")), absl::StatusCode::kInvalidArgument,
                "vmstate_not_listed", "'data', which is not one of the disks", "--vmstate root");
  // Too few digits to be one container's.
  ExpectRefused(Plan(Wish({"0123456789a"}, "0123456789a")), absl::StatusCode::kInvalidArgument,
                "unknown_disk", "no disk", "");
}

TEST(SnapshotPlanTest, ADiskThatIsLeftOutWouldBeOfAnotherInstant) {
  ExpectRefused(Plan(Wish({"root", "data"}, "root")), absl::StatusCode::kFailedPrecondition,
                "disk_not_listed", "writes to the disk 0123456789abcdef",
                "--devices 0123456789abcdef,data,root");
}

TEST(SnapshotPlanTest, ADiskThatCannotHoldOne) {
  schema::ComputeSystem machine = Machine();
  machine.virtual_machine.devices.scsi["0"].attachments["1"].format = "raw";
  for (const auto& devices : {std::vector<std::string>{"root", "data", kContainer},
                              std::vector<std::string>{"root", kContainer}}) {
    ExpectRefused(Plan(Wish(devices, "root"), machine), absl::StatusCode::kFailedPrecondition,
                  "disk_holds_no_snapshots",
                  "disk data of VM web cannot hold a snapshot: it is raw", "qemu-img convert");
  }
  ExpectRefused(Plan(Wish({"root", "data", kContainer, "tools"}, "root")),
                absl::StatusCode::kFailedPrecondition, "disk_holds_no_snapshots",
                "the VM only reads it", "Leave it out");
}

TEST(SnapshotPlanTest, LiveIsRefusedWithTheReason) {
  SnapshotWish wish = Wish({"root", "data", kContainer}, "root");
  wish.live = true;
  ExpectRefused(Plan(wish), absl::StatusCode::kUnimplemented, "live_not_possible",
                "while the guest stands still", "ferryctl save --live");
}

TEST(SnapshotPlanTest, TagsThatNothingElseIsTakenFor) {
  for (const char* good : {"a", "1a", "v1.2_x-3", "2026-11-28"}) {
    EXPECT_TRUE(CheckTag(good).ok()) << good;
  }
  const std::string longest(64, 'x');
  EXPECT_TRUE(CheckTag(longest).ok());
  for (const std::string& bad :
       {std::string(), std::string("7"), std::string("-a"), std::string(".a"), std::string("a b"),
        std::string("a/b"), std::string("\xc3\xbc"), longest + "x", std::string("a\nb")}) {
    const absl::Status status = CheckTag(bad);
    EXPECT_EQ(rpc::ReasonOf(status), "bad_tag") << bad;
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << bad;
  }
}

TEST(SnapshotPlanTest, TheMachineMustBeTheSame) {
  state::v1::SnapshotRecord record;
  record.set_document_json(schema::ToJson(Machine()));
  EXPECT_TRUE(CheckSameMachine("web", "t", record, Machine()).ok());
  schema::ComputeSystem more = Machine();
  more.virtual_machine.devices.scsi["0"].attachments["5"] = Disk("new", "qcow2", false);
  ExpectRefused(CheckSameMachine("web", "t", record, more), absl::StatusCode::kFailedPrecondition,
                "machine_changed", "the disk new came since", "removed");
  record.set_document_json(schema::ToJson(more));
  ExpectRefused(CheckSameMachine("web", "t", record, Machine()),
                absl::StatusCode::kFailedPrecondition, "machine_changed",
                "the disk new is not there any more", "");
  schema::ComputeSystem larger = Machine();
  larger.virtual_machine.compute_topology.memory.size_in_mb = 512;
  record.set_document_json(schema::ToJson(larger));
  ExpectRefused(CheckSameMachine("web", "t", record, Machine()),
                absl::StatusCode::kFailedPrecondition, "machine_changed",
                "it had 512 MiB of memory and 1 CPU then", "vm set");
}

state::v1::SnapshotRecord Record(std::vector<std::string> disks, const std::string& vmstate) {
  state::v1::SnapshotRecord record;
  record.set_schema_version(kStateSchemaVersion);
  record.set_stage(state::v1::SNAPSHOT_STAGE_WHOLE);
  record.set_vmstate(vmstate);
  record.set_taken_unix_ms(50);
  for (const std::string& name : disks) record.add_disks()->set_name(name);
  return record;
}

TEST(SnapshotPlanTest, ListsTagsByDisks) {
  const NamedDisks disks = DisksByName(Machine());
  const SnapshotRecords records = {{"whole", Record({"root", "data"}, "root")},
                                   {"partial", Record({"root", "data"}, "root")}};
  const std::vector<DiskSnapshots> present = {
      {{"0", "0"}, {{"whole", 4096, 40}, {"partial", 4096, 45}, {"other", 0, 10}}},
      {{"0", "1"}, {{"whole", 0, 40}}},
      {{"0", "4"}, {}},
  };
  const auto all = DescribeSnapshots(records, present, disks, true);
  ASSERT_EQ(all.size(), 3u);
  EXPECT_EQ(all[0].tag(), "other");
  EXPECT_FALSE(all[0].loadable());
  EXPECT_THAT(all[0].reason(), HasSubstr("not taken by Ferry"));
  EXPECT_THAT(all[0].missing(), ElementsAre("0123456789abcdef", "data"));
  EXPECT_EQ(all[1].tag(), "partial");
  EXPECT_FALSE(all[1].loadable());
  EXPECT_THAT(all[1].missing(), ElementsAre("data"));
  EXPECT_EQ(all[2].tag(), "whole");
  EXPECT_TRUE(all[2].loadable()) << all[2].reason();
  EXPECT_EQ(all[2].vmstate(), "root");
  EXPECT_EQ(all[2].vm_state_bytes(), 4096u);
  EXPECT_THAT(all[2].devices(), ElementsAre("data", "root"));
}

TEST(SnapshotPlanTest, ATagThatADiskHasTwiceIsNotLoadable) {
  const SnapshotRecords records = {{"t", Record({"root", "data"}, "root")}};
  const std::vector<DiskSnapshots> present = {
      {{"0", "0"}, {{"t", 4096, 40}}},
      {{"0", "1"}, {{"t", 0, 40}, {"t", 0, 41}}},
  };
  const auto all = DescribeSnapshots(records, present, DisksByName(Machine()), true);
  ASSERT_EQ(all.size(), 1u);
  EXPECT_FALSE(all[0].loadable());
  EXPECT_THAT(all[0].reason(), HasSubstr("several of that tag"));
  EXPECT_THAT(all[0].devices(), ElementsAre("data", "root"));
}

TEST(SnapshotPlanTest, OfAVmThatDoesNotRunWhatIsRememberedIsListed) {
  const SnapshotRecords records = {{"t", Record({"root"}, "root")}};
  const auto all = DescribeSnapshots(records, {}, DisksByName(Machine()), false);
  ASSERT_EQ(all.size(), 1u);
  EXPECT_THAT(all[0].devices(), ElementsAre("root"));
  EXPECT_EQ(all[0].missing_size(), 0);
  EXPECT_FALSE(all[0].loadable());
  EXPECT_THAT(all[0].reason(), HasSubstr("does not run"));
}

}  // namespace
}  // namespace ferry::vm
