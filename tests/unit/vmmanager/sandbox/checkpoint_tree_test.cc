#include "vmmanager/sandbox/checkpoint_tree.h"

#include <gmock/gmock.h>

#include "vmmanager/rpc/error_info.h"

namespace ferry::vm {
namespace {

using state::v1::CheckpointDisk;
using state::v1::CheckpointRecord;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

CheckpointDisk Disk(const std::string& file, const std::string& below, const std::string& overlay) {
  CheckpointDisk disk;
  disk.set_name("root");
  disk.set_controller("0");
  disk.set_lun("0");
  disk.set_file(file);
  disk.set_format(below.empty() ? "raw" : "qcow2");
  disk.set_file_is_overlay(!below.empty());
  disk.set_below(below);
  disk.set_overlay(overlay);
  return disk;
}

CheckpointRecord Record(const std::string& parent, uint64_t taken, const CheckpointDisk& disk) {
  CheckpointRecord record;
  record.set_stage(state::v1::CHECKPOINT_STAGE_WHOLE);
  record.set_parent(parent);
  record.set_taken_unix_ms(taken);
  *record.add_disks() = disk;
  return record;
}

// base <- b1 (a) ; b1 <- b2 (b) ; b2 <- vm, and another way from a: b1' (c).
CheckpointRecords Chain() {
  CheckpointRecords records;
  records["a"] = Record("", 1, Disk("/base", "", "/over-a"));
  records["b"] = Record("a", 2, Disk("/over-a", "/base", "/over-b"));
  records["b"].set_current(true);
  return records;
}
const std::set<std::string> kVmFiles = {"/over-b"};

std::vector<std::string> Names(const std::vector<v1::Checkpoint>& all) {
  std::vector<std::string> names;
  for (const v1::Checkpoint& one : all) names.push_back(one.name());
  return names;
}

TEST(CheckpointTreeTest, EachComesAfterTheOneThatItFollows) {
  CheckpointRecords records = Chain();
  records["z"] = Record("", 0, Disk("/other", "", "/over-z"));
  records["c"] = Record("b", 9, Disk("/over-b", "/over-a", "/over-c"));
  records["aa"] = Record("a", 3, Disk("/over-a-2", "/base", "/over-aa"));
  EXPECT_THAT(Names(DescribeCheckpoints(records)), ElementsAre("z", "a", "b", "c", "aa"));
  EXPECT_EQ(CurrentCheckpoint(records), "b");
  EXPECT_THAT(FollowersOf(records, "a"), ElementsAre("b", "aa"));
}

TEST(CheckpointTreeTest, TheVmsOwnWritesGoIntoTheCurrentOne) {
  const auto plan = PlanDeletion("web", Chain(), kVmFiles, "b");
  ASSERT_TRUE(plan.ok()) << plan.status();
  ASSERT_EQ(plan->merges.size(), 1u);
  EXPECT_EQ(plan->merges[0].overlay, "/over-b");
  EXPECT_EQ(plan->merges[0].disk.file(), "/over-a");
  EXPECT_TRUE(plan->merges[0].is_vms);
  EXPECT_THAT(plan->merges[0].above, IsEmpty());
  EXPECT_EQ(plan->changed.at("a").disks(0).overlay(), "/over-a");
  // The one before is where the VM goes on from then.
  ASSERT_TRUE(plan->changed.contains("a"));
  EXPECT_TRUE(plan->changed.at("a").current());
}

TEST(CheckpointTreeTest, AFollowersFileGoesIntoTheOneBelow) {
  const auto plan = PlanDeletion("web", Chain(), kVmFiles, "a");
  ASSERT_TRUE(plan.ok()) << plan.status();
  ASSERT_EQ(plan->merges.size(), 1u);
  EXPECT_EQ(plan->merges[0].overlay, "/over-a");
  EXPECT_FALSE(plan->merges[0].is_vms);
  // What is over the follower goes on over the file that it is in now.
  EXPECT_THAT(plan->merges[0].above, ElementsAre("/over-b"));
  ASSERT_TRUE(plan->changed.contains("b"));
  const CheckpointRecord& b = plan->changed.at("b");
  EXPECT_EQ(b.parent(), "");
  EXPECT_EQ(b.disks(0).file(), "/base");
  EXPECT_EQ(b.disks(0).format(), "raw");
  EXPECT_EQ(b.disks(0).below(), "");
  // Which must never be removed: the VM was made with it.
  EXPECT_FALSE(b.disks(0).file_is_overlay());
  EXPECT_EQ(b.disks(0).taken_as(), "/over-a");
}

TEST(CheckpointTreeTest, WhereTwoWaysGoOnItStays) {
  CheckpointRecords records = Chain();
  records["c"] = Record("a", 3, Disk("/over-a-2", "/base", "/over-c"));
  const auto refused = PlanDeletion("web", records, kVmFiles, "a");
  EXPECT_EQ(rpc::ReasonOf(refused.status()), "checkpoint_has_branches");
  // One without anything after it goes with what it had, and nothing is merged.
  const auto leaf = PlanDeletion("web", records, kVmFiles, "c");
  ASSERT_TRUE(leaf.ok()) << leaf.status();
  EXPECT_THAT(leaf->merges, IsEmpty());
  EXPECT_THAT(leaf->changed, IsEmpty());
  EXPECT_EQ(rpc::ReasonOf(PlanDeletion("web", records, kVmFiles, "x").status()),
            "no_such_checkpoint");
}

TEST(CheckpointTreeTest, AVmThatWentBackIsAWayToo) {
  CheckpointRecords records = Chain();
  records["b"].set_current(false);
  records["a"].set_current(true);
  records["a"].mutable_disks(0)->set_overlay("/over-a-2");
  const std::set<std::string> files = {"/over-a-2"};
  EXPECT_EQ(rpc::ReasonOf(PlanDeletion("web", records, files, "a").status()),
            "checkpoint_has_branches");
  EXPECT_TRUE(PlanDeletion("web", records, files, "b").ok());
}

// What the VM goes on in after a merge is known to be over what is below that, whichever way it
// went before.
TEST(CheckpointTreeTest, AfterAMergeTheVmIsStillOverWhatIsBelow) {
  CheckpointRecords records = Chain();
  // It went back to a, and then to b.
  records["a"].mutable_disks(0)->set_overlay("/over-a-2");
  const auto b = PlanDeletion("web", records, kVmFiles, "b");
  ASSERT_TRUE(b.ok()) << b.status();
  records.erase("b");
  for (const auto& [name, record] : b->changed) records[name] = record;
  EXPECT_EQ(BelowOf(records, "/over-a"), "/base");
  const auto a = PlanDeletion("web", records, {"/over-a"}, "a");
  ASSERT_TRUE(a.ok()) << a.status();
  ASSERT_EQ(a->merges.size(), 1u);
  EXPECT_EQ(a->merges[0].overlay, "/over-a");
}

// And whose that file is: its user's, if it was not one of ours.
TEST(CheckpointTreeTest, AfterAMergeAUsersFileIsStillItsUsers) {
  CheckpointRecords records = Chain();
  records["a"].mutable_disks(0)->set_overlay("/over-a-2");
  records["b"].mutable_disks(0)->set_file_is_overlay(false);
  const auto users = PlanDeletion("web", records, kVmFiles, "b");
  ASSERT_TRUE(users.ok()) << users.status();
  EXPECT_TRUE(users->changed.at("a").disks(0).overlay_kept());
  records["b"].mutable_disks(0)->set_file_is_overlay(true);
  records["a"].mutable_disks(0)->set_overlay_kept(true);
  const auto ours = PlanDeletion("web", records, kVmFiles, "b");
  ASSERT_TRUE(ours.ok()) << ours.status();
  EXPECT_FALSE(ours->changed.at("a").disks(0).overlay_kept());
}

// Whoever deleted it got as far as that, and then the VMM died.
TEST(CheckpointTreeTest, WhatIsMergedAlreadyIsStillOverWhatIsBelow) {
  CheckpointRecords records = Chain();
  records["a"].mutable_disks(0)->set_overlay("/over-a-2");
  const auto again = PlanDeletion("web", records, {"/over-a"}, "b");
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(again->merges.empty());
  records.erase("b");
  for (const auto& [name, record] : again->changed) records[name] = record;
  EXPECT_EQ(BelowOf(records, "/over-a"), "/base");
}

// Three deep: the topmost is put over another file, which is another generation of it.
TEST(CheckpointTreeTest, WhatIsPutOverAnotherFileIsKnownToHaveChanged) {
  CheckpointRecords records = Chain();
  records["b"].set_current(false);
  records["c"] = Record("b", 3, Disk("/over-b", "/over-a", "/over-c"));
  records["c"].set_current(true);
  const auto plan = PlanDeletion("web", records, {"/over-c"}, "a");
  ASSERT_TRUE(plan.ok()) << plan.status();
  ASSERT_TRUE(plan->changed.contains("c"));
  EXPECT_EQ(plan->changed.at("c").disks(0).taken_as(), "/over-b");
  EXPECT_EQ(plan->changed.at("c").disks(0).below(), "/base");
}

// A disk that a checkpoint left out goes on as it did.
TEST(CheckpointTreeTest, DisksAreMergedWhereTheyWentOn) {
  CheckpointRecords records = Chain();
  CheckpointDisk data = Disk("/data", "", "/over-data");
  data.set_name("data");
  data.set_lun("1");
  *records["a"].add_disks() = data;
  const std::set<std::string> files = {"/over-b", "/over-data"};
  const auto plan = PlanDeletion("web", records, files, "a");
  ASSERT_TRUE(plan.ok()) << plan.status();
  ASSERT_EQ(plan->merges.size(), 2u);
  EXPECT_FALSE(plan->merges[0].is_vms);
  EXPECT_TRUE(plan->merges[1].is_vms);
  EXPECT_EQ(plan->merges[1].overlay, "/over-data");
}

TEST(CheckpointTreeTest, KnowsWhatIsNeeded) {
  EXPECT_THAT(FilesOf(Chain()), UnorderedElementsAre("/base", "/over-a"));
  EXPECT_EQ(BelowOf(Chain(), "/over-b"), "/over-a");
  EXPECT_EQ(BelowOf(Chain(), "/base"), "");
  CheckpointRecords records = Chain();
  EXPECT_EQ(UnsettledCheckpoint(records), "");
  records["b"].set_stage(state::v1::CHECKPOINT_STAGE_MERGING);
  EXPECT_EQ(UnsettledCheckpoint(records), "b");
}

}  // namespace
}  // namespace ferry::vm
