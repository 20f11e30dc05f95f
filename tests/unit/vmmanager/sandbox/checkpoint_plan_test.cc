#include "vmmanager/sandbox/checkpoint_plan.h"

#include <gmock/gmock.h>

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "vmmanager/rpc/error_info.h"

namespace ferry::vm {
namespace {

using ::testing::HasSubstr;

class CheckpointPlanTest : public ::testing::Test {
 protected:
  CheckpointPlanTest() {
    scene_.vm = "web";
    scene_.state = v1::VM_STATE_RUNNING;
    Add("root", "/d/root.qcow2", "qcow2", false);
    Add("data", "/d/data.raw", "raw", false);
    Add("tools", "/d/tools.img", "raw", true);
    request_.set_vm("web");
    request_.set_name("before");
  }
  void Add(const std::string& name, const std::string& path, const std::string& format,
           bool read_only) {
    NamedDisk disk;
    disk.place = {"0", std::to_string(scene_.disks.size())};
    disk.disk.path = path;
    disk.disk.format = format;
    disk.disk.read_only = read_only;
    scene_.disks[name] = disk;
  }
  absl::StatusOr<state::v1::CheckpointRecord> Plan() { return PlanCheckpoint(scene_, request_); }
  std::string Reason() { return rpc::ReasonOf(Plan().status()); }
  v1::CheckpointDiskWish& Wish(const std::string& disk) {
    v1::CheckpointDiskWish* wish = request_.add_disks();
    wish->set_name(disk);
    return *wish;
  }

  CheckpointRecords records_;
  CheckpointScene scene_{"", v1::VM_STATE_UNSPECIFIED, {}, records_};
  v1::CreateCheckpointRequest request_;
};

TEST_F(CheckpointPlanTest, EveryDiskThatIsWrittenToGoesOnBesideItself) {
  const auto plan = Plan();
  ASSERT_TRUE(plan.ok()) << plan.status();
  ASSERT_EQ(plan->disks_size(), 2);
  EXPECT_EQ(plan->disks(0).name(), "data");
  EXPECT_EQ(plan->disks(0).format(), "raw");
  EXPECT_EQ(plan->disks(0).overlay(), "/d/data.before.qcow2");
  EXPECT_FALSE(plan->disks(0).file_is_overlay());
  EXPECT_EQ(plan->disks(1).overlay(), "/d/root.before.qcow2");
  EXPECT_EQ(plan->state(), "running");
  EXPECT_EQ(plan->parent(), "");
}

TEST_F(CheckpointPlanTest, AnOverlayOfAnOverlayIsNamedAfterTheDisk) {
  state::v1::CheckpointRecord& before = records_["first"];
  before.set_current(true);
  state::v1::CheckpointDisk* disk = before.add_disks();
  disk->set_file("/d/root.qcow2");
  disk->set_overlay("/d/root.first.qcow2");
  scene_.disks["root"].disk.path = "/d/root.first.qcow2";
  const auto plan = Plan();
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->disks(1).overlay(), "/d/root.before.qcow2");
  EXPECT_EQ(plan->disks(1).below(), "/d/root.qcow2");
  EXPECT_TRUE(plan->disks(1).file_is_overlay());
  EXPECT_EQ(plan->parent(), "first");
  request_.set_name("first");
  EXPECT_EQ(Plan().status().code(), absl::StatusCode::kAlreadyExists);
}

TEST_F(CheckpointPlanTest, ItsUserMayChooseTheFile) {
  Wish("root").set_file("/e/on.qcow2");
  const auto plan = Plan();
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->disks(1).overlay(), "/e/on.qcow2");
  EXPECT_TRUE(NamesFileOf(request_, "root"));
  EXPECT_FALSE(NamesFileOf(request_, "data"));
  Wish("data").set_file("/e/on.qcow2");
  EXPECT_THAT(std::string(Plan().status().message()), HasSubstr("two disks"));
}

TEST_F(CheckpointPlanTest, WhatContradictsItselfIsRefused) {
  const auto refuses = [this](auto change) {
    const v1::CreateCheckpointRequest before = request_;
    change(request_);
    const bool refused = absl::IsInvalidArgument(CheckRequest(request_));
    request_ = before;
    return refused;
  };
  EXPECT_TRUE(CheckRequest(request_).ok());
  EXPECT_TRUE(refuses([](auto& r) { r.set_name(""); }));
  EXPECT_TRUE(refuses([](auto& r) { r.set_name("../x"); }));
  EXPECT_TRUE(refuses([](auto& r) { r.set_name(".x"); }));
  EXPECT_TRUE(refuses([](auto& r) { r.set_disk_only(true), r.set_memory_only(true); }));
  EXPECT_TRUE(refuses([](auto& r) { r.set_disk_only(true), r.set_live(true); }));
  EXPECT_TRUE(refuses([](auto& r) { r.set_disk_only(true), r.set_memory_file("/m"); }));
  EXPECT_TRUE(refuses([](auto& r) { r.set_quiesce(true); }));
  EXPECT_TRUE(refuses([](auto& r) { r.set_quiesce(true), r.set_memory_only(true); }));
  EXPECT_TRUE(refuses([](auto& r) { r.set_halt(true), r.set_paused(true); }));
  EXPECT_TRUE(refuses([](auto& r) { r.set_memory_only(true), r.set_reuse_existing(true); }));
  EXPECT_TRUE(refuses([](auto& r) { r.set_memory_file("relative"); }));
  EXPECT_TRUE(refuses([](auto& r) { r.add_disks()->set_file("relative"); }));
  EXPECT_TRUE(refuses([](auto& r) { r.add_disks()->set_name("a"), r.add_disks()->set_name("a"); }));
  EXPECT_TRUE(refuses([](auto& r) { r.set_description(std::string(5000, 'x')); }));
}

// Each pair of options, with what either of them cannot be without.
TEST_F(CheckpointPlanTest, EveryPairOfOptionsIsTakenOrRefused) {
  const std::vector<std::string> options = {"live",        "disk-only", "memory-only",
                                            "halt",        "quiesce",   "reuse-existing",
                                            "no-metadata", "paused",    "memspec"};
  const std::set<std::pair<std::string, std::string>> contradict = {
      {"live", "disk-only"},    {"live", "quiesce"},        {"disk-only", "memory-only"},
      {"disk-only", "memspec"}, {"memory-only", "quiesce"}, {"memory-only", "reuse-existing"},
      {"halt", "paused"},       {"quiesce", "memspec"}};
  for (size_t first = 0; first < options.size(); ++first) {
    for (size_t second = first + 1; second < options.size(); ++second) {
      const std::pair pair(options[first], options[second]);
      const auto has = [&pair](const std::string& option) {
        return pair.first == option || pair.second == option;
      };
      request_.Clear();
      request_.set_name("before");
      request_.set_live(has("live"));
      request_.set_memory_only(has("memory-only"));
      request_.set_halt(has("halt"));
      request_.set_quiesce(has("quiesce"));
      request_.set_disk_only(has("disk-only") || has("quiesce"));
      request_.set_reuse_existing(has("reuse-existing"));
      request_.set_no_metadata(has("no-metadata"));
      request_.set_paused(has("paused"));
      const bool needs_place = has("no-metadata") && !request_.disk_only();
      if (has("memspec") || needs_place) request_.set_memory_file("/d/memory");
      for (auto& [name, disk] : scene_.disks) {
        if (name != "tools") disk.disk.read_only = has("memory-only");
        if (name == "tools" || !has("reuse-existing")) continue;
        Wish(name).set_file("/d/over-" + name);
      }
      const auto plan = Plan();
      const std::string what = pair.first + " and " + pair.second;
      ASSERT_EQ(plan.ok(), !contradict.contains(pair)) << what << ": " << plan.status();
      if (!plan.ok()) {
        EXPECT_TRUE(absl::IsInvalidArgument(plan.status())) << what << ": " << plan.status();
        continue;
      }
      EXPECT_EQ(plan->disks_size(), has("memory-only") ? 0 : 2) << what;
      for (const auto& disk : plan->disks()) {
        EXPECT_EQ(disk.overlay_kept(), has("reuse-existing")) << what;
      }
    }
  }
}

TEST_F(CheckpointPlanTest, MemoryAloneIsOfNoVmThatCanWriteToADisk) {
  for (const bool halt : {false, true}) {
    request_.set_memory_only(true);
    request_.set_halt(halt);
    EXPECT_TRUE(absl::IsFailedPrecondition(Plan().status())) << Plan().status();
  }
}

TEST_F(CheckpointPlanTest, MemoryAndDisksAreOfOneInstant) {
  Wish("data").set_left_out(true);
  EXPECT_EQ(Reason(), "disk_left_out");
  request_.set_disk_only(true);
  const auto plan = Plan();
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->disks_size(), 1);
  request_.set_disk_only(false);
  request_.clear_disks();
  request_.set_memory_only(true);
  EXPECT_EQ(Reason(), "writable_disks");
  for (const char* name : {"root", "data"}) scene_.disks[name].disk.read_only = true;
  EXPECT_TRUE(Plan().ok());
  request_.set_memory_only(false);
  request_.set_disk_only(true);
  EXPECT_EQ(Reason(), "no_disks");
}

TEST_F(CheckpointPlanTest, DisksThatCannotBePutAsideAreNamed) {
  Wish("nope");
  EXPECT_EQ(Reason(), "unknown_disk");
  request_.clear_disks();
  Wish("tools");
  EXPECT_EQ(Reason(), "disk_is_read_only");
  request_.clear_disks();
  scene_.disks["root"].disk.path = "/dev/vg/root";
  EXPECT_EQ(Reason(), "no_place_for_overlay");
  Wish("root").set_file("/d/root.over.qcow2");
  EXPECT_TRUE(Plan().ok());
}

TEST_F(CheckpointPlanTest, OfAStoppedVmThereAreOnlyItsDisks) {
  scene_.state = v1::VM_STATE_STOPPED;
  EXPECT_EQ(Reason(), "vm_not_running");
  request_.set_disk_only(true);
  const auto plan = Plan();
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->state(), "stopped");
  scene_.state = v1::VM_STATE_SAVED;
  EXPECT_EQ(Reason(), "wrong_state");
}

TEST_F(CheckpointPlanTest, TheVmIsLeftAsIsWantedWhateverIsTaken) {
  for (const v1::VmState state : {v1::VM_STATE_RUNNING, v1::VM_STATE_PAUSED}) {
    scene_.state = state;
    for (const bool disk_only : {false, true}) {
      for (const bool halt : {false, true}) {
        request_.set_disk_only(disk_only);
        request_.set_live(!disk_only);
        request_.set_halt(halt);
        request_.set_paused(!halt);
        EXPECT_TRUE(Plan().ok()) << state << disk_only << halt;
      }
    }
  }
}

TEST_F(CheckpointPlanTest, AStoppedVmIsStoppedAfterwardsAndNotPaused) {
  scene_.state = v1::VM_STATE_STOPPED;
  request_.set_disk_only(true);
  request_.set_halt(true);
  EXPECT_TRUE(Plan().ok());
  request_.set_halt(false);
  request_.set_paused(true);
  EXPECT_EQ(Reason(), "vm_not_running");
  EXPECT_THAT(std::string(Plan().status().message()), HasSubstr("cannot be paused afterwards"));
}

TEST_F(CheckpointPlanTest, OnlyAGuestThatRunsCanFreezeItsFilesystems) {
  request_.set_disk_only(true);
  request_.set_quiesce(true);
  EXPECT_TRUE(Plan().ok());
  scene_.state = v1::VM_STATE_PAUSED;
  EXPECT_EQ(Reason(), "vm_paused");
  scene_.state = v1::VM_STATE_STOPPED;
  EXPECT_EQ(Reason(), "vm_not_running");
  scene_.state = v1::VM_STATE_SAVED;
  EXPECT_EQ(Reason(), "wrong_state");
}

TEST_F(CheckpointPlanTest, WhatChangedMeanwhileIsSeen) {
  const auto plan = Plan();
  ASSERT_TRUE(plan.ok());
  EXPECT_TRUE(CheckStillFits(scene_, *plan, true).ok());
  // A container came, and writes to a disk of its own.
  Add("scratch", "/s/new.qcow2", "qcow2", false);
  EXPECT_TRUE(absl::IsAborted(CheckStillFits(scene_, *plan, true)));
  EXPECT_TRUE(CheckStillFits(scene_, *plan, false).ok());
  scene_.disks["root"].disk.path = "/d/root.other.qcow2";
  EXPECT_TRUE(absl::IsAborted(CheckStillFits(scene_, *plan, false)));
}

TEST_F(CheckpointPlanTest, WhatIsNotRememberedNeedsAPlaceAndNoOthers) {
  request_.set_no_metadata(true);
  EXPECT_EQ(Plan().status().code(), absl::StatusCode::kInvalidArgument);
  request_.set_memory_file("/m");
  EXPECT_TRUE(Plan().ok());
  records_["first"].set_current(true);
  EXPECT_EQ(Reason(), "vm_has_checkpoints");
}

TEST_F(CheckpointPlanTest, FilesThatAreThereHaveToBeNamed) {
  request_.set_reuse_existing(true);
  Wish("root").set_file("/d/mine.qcow2");
  EXPECT_EQ(Reason(), "file_not_named");
  Wish("data").set_file("/d/mine-too.qcow2");
  const auto plan = Plan();
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_TRUE(plan->disks(0).overlay_kept() && plan->disks(1).overlay_kept());
  request_.clear_disks();
  for (const char* name : {"root", "data"}) scene_.disks[name].disk.read_only = true;
  EXPECT_EQ(Reason(), "no_disks");
}

// It does not go with a checkpoint that is taken of it.
TEST_F(CheckpointPlanTest, AFileOfItsUsersStaysTheirs) {
  state::v1::CheckpointRecord& first = records_["first"];
  first.set_current(true);
  state::v1::CheckpointDisk* disk = first.add_disks();
  disk->set_file("/d/older.qcow2");
  disk->set_overlay("/d/root.qcow2");
  const auto ours = Plan();
  ASSERT_TRUE(ours.ok()) << ours.status();
  EXPECT_TRUE(ours->disks(1).file_is_overlay());
  disk->set_overlay_kept(true);
  EXPECT_FALSE(Plan()->disks(1).file_is_overlay());
}

}  // namespace
}  // namespace ferry::vm
