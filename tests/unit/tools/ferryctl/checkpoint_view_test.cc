#include "tools/ferryctl/checkpoint_view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ferry::ctl {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

v1::Checkpoint WithMemory(const std::string& name, const std::string& parent) {
  v1::Checkpoint checkpoint;
  checkpoint.set_name(name);
  checkpoint.set_parent(parent);
  checkpoint.set_taken_unix_ms(1769860800000);
  checkpoint.set_state(v1::VM_STATE_RUNNING);
  checkpoint.set_whole(true);
  checkpoint.add_disks()->set_name("root");
  checkpoint.add_disks()->set_name("data");
  checkpoint.set_memory_file("/var/lib/ferry/checkpoints/m");
  checkpoint.set_file_bytes(64 << 20);
  checkpoint.set_stood_still_us(14'200);
  return checkpoint;
}

v1::Checkpoint DisksOnly(const std::string& name, const std::string& parent) {
  v1::Checkpoint checkpoint = WithMemory(name, parent);
  checkpoint.mutable_disks()->RemoveLast();
  checkpoint.clear_memory_file();
  checkpoint.clear_file_bytes();
  checkpoint.clear_stood_still_us();
  checkpoint.set_state(v1::VM_STATE_STOPPED);
  return checkpoint;
}

TEST(CheckpointViewTest, ATableHasALineForEach) {
  v1::ListCheckpointsResponse response;
  *response.add_checkpoints() = DisksOnly("installed", "");
  v1::Checkpoint second = WithMemory("tuned", "installed");
  second.set_current(true);
  second.set_description("before the\x1b upgrade");
  *response.add_checkpoints() = second;
  EXPECT_EQ(
      CheckpointTable(response),
      "NAME        TAKEN                  PARENT      CURRENT   STATE     DISKS       MEMORY     "
      "STOOD STILL   DESCRIPTION\n"
      "installed   2026-01-31T12:00:00Z   -           -         stopped   root        -          "
      "-             -\n"
      "tuned       2026-01-31T12:00:00Z   installed   yes       running   root,data   64.0 MiB   "
      "14 ms         before the? upgrade\n");
}

TEST(CheckpointViewTest, WhatIsNotWholeIsMarked) {
  v1::ListCheckpointsResponse response;
  v1::Checkpoint& half = *response.add_checkpoints() = DisksOnly("half", "");
  half.set_whole(false);
  half.clear_disks();
  EXPECT_THAT(CheckpointTable(response), HasSubstr("half (incomplete)   "));
  EXPECT_THAT(CheckpointTree("web", response), HasSubstr("half (incomplete)\n"));
}

TEST(CheckpointViewTest, ATreeHasEachUnderWhatItFollows) {
  v1::ListCheckpointsResponse response;
  for (const auto& [name, parent] : {std::pair("base", ""),
                                     {"a", "base"},
                                     {"a1", "a"},
                                     {"b", "base"},
                                     {"a2", "a"},
                                     {"b1", "b"},
                                     {"other", ""},
                                     {"other1", "other"}}) {
    v1::Checkpoint checkpoint = DisksOnly(name, parent);
    checkpoint.set_current(checkpoint.name() == "a2");
    *response.add_checkpoints() = checkpoint;
  }
  EXPECT_EQ(CheckpointTree("web", response),
            "base\n"
            "|-- a\n"
            "|   |-- a1\n"
            "|   `-- a2   <- the VM goes on from here\n"
            "`-- b\n"
            "    `-- b1\n"
            "other\n"
            "`-- other1\n");
}

TEST(CheckpointViewTest, ATreeIsDrawnOfWhateverADaemonSays) {
  v1::ListCheckpointsResponse response;
  EXPECT_EQ(CheckpointTree("web\x1b", response), "VM web? has no checkpoints\n");
  for (const auto& [name, parent] :
       {std::pair("orphan", "gone"), {"self", "self"}, {"x", "y"}, {"y", "x"}, {"\x1b[2J", ""}}) {
    *response.add_checkpoints() = DisksOnly(name, parent);
  }
  EXPECT_EQ(CheckpointTree("web", response), "orphan\n?[2J\nself\nx\n`-- y\n");
}

TEST(CheckpointViewTest, TakenSaysOfWhatAndHowLongTheVmStood) {
  v1::CreateCheckpointRequest request;
  request.set_vm("web");
  v1::Checkpoint checkpoint = WithMemory("before-upgrade", "");
  EXPECT_EQ(TakenCheckpointLine(request, checkpoint),
            "checkpoint before-upgrade of VM web: memory and 2 disks, stood still for 14 ms\n");
  request.set_paused(true);
  checkpoint.clear_disks();
  checkpoint.set_stood_still_us(2'340);
  EXPECT_EQ(TakenCheckpointLine(request, checkpoint),
            "checkpoint before-upgrade of VM web: memory, stood still for 2.3 ms; it is paused\n");
  request.set_paused(false);
  request.set_halt(true);
  EXPECT_EQ(TakenCheckpointLine(request, DisksOnly("cold", "")),
            "checkpoint cold of VM web: 1 disk; it is stopped\n");
  request.set_halt(false);
  checkpoint = DisksOnly("clean", "");
  checkpoint.set_quiesced(true);
  EXPECT_EQ(TakenCheckpointLine(request, checkpoint),
            "checkpoint clean of VM web: 1 disk, quiesced\n");
}

TEST(CheckpointViewTest, RevertedSaysWhatTheVmIsUnlessItRuns) {
  v1::RevertToCheckpointRequest request;
  request.set_vm("web");
  v1::Checkpoint checkpoint = WithMemory("before", "");
  const std::string back = "web went back to checkpoint before of 2026-01-31T12:00:00Z";
  EXPECT_EQ(RevertedCheckpointLine(request, checkpoint), back + "\n");
  checkpoint.set_state(v1::VM_STATE_PAUSED);
  EXPECT_EQ(RevertedCheckpointLine(request, checkpoint), back + "; it is paused\n");
  checkpoint.set_state(v1::VM_STATE_STOPPED);
  EXPECT_EQ(RevertedCheckpointLine(request, checkpoint), back + "; it is stopped\n");
  request.set_then(v1::RevertToCheckpointRequest::THEN_RUNNING);
  EXPECT_EQ(RevertedCheckpointLine(request, checkpoint), back + "\n");
  request.set_then(v1::RevertToCheckpointRequest::THEN_STOPPED);
  checkpoint.set_state(v1::VM_STATE_RUNNING);
  EXPECT_EQ(RevertedCheckpointLine(request, checkpoint), back + "; it is stopped\n");
}

}  // namespace
}  // namespace ferry::ctl
