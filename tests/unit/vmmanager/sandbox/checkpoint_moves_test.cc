#include "vmmanager/sandbox/checkpoint_moves.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "tests/unit/bridge/task_test.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/sandbox/fake_file_reads.h"

namespace ferry::vm {
namespace {

using state::v1::CheckpointPayload;
using state::v1::CheckpointRecord;
using ::testing::HasSubstr;
using ::testing::SizeIs;

class CheckpointMovesTest : public TaskTest {
 protected:
  CheckpointMovesTest() {
    std::ofstream(disk_) << "disk";
    std::ofstream(memory_) << "memory";
    CheckpointRecord& record = records_["a"];
    record.set_schema_version(1);
    record.set_stage(state::v1::CHECKPOINT_STAGE_WHOLE);
    record.set_memory_file(memory_);
    record.set_memory_kept(true);
    record.add_disks()->set_file(disk_);
    record.mutable_disks(0)->set_overlay(top_);
  }
  // What a peer that is up to something sends.
  void ExpectRefused(const std::function<void(CheckpointRecord&)>& change) {
    auto payload = Described();
    CheckpointRecord record = records_["a"];
    change(record);
    payload[0].set_record(record.SerializeAsString());
    EXPECT_EQ(Fit(payload).status().code(), absl::StatusCode::kInvalidArgument);
  }
  std::vector<CheckpointPayload> Described() {
    const auto described = Await(DescribeForMove(records_, {top_}, &reads_));
    EXPECT_TRUE(described.ok()) << described.status();
    return *described;
  }
  absl::StatusOr<CheckpointRecords> Fit(std::vector<CheckpointPayload> payload,
                                        std::string state_folder = "/var/lib/ferry") {
    state::v1::VmPayload vm;
    schema::ComputeSystem document;
    document.virtual_machine.devices.scsi["0"].attachments["0"].path = top_;
    if (!layer_.empty()) document.virtual_machine.devices.scsi["0"].attachments["1"].path = layer_;
    vm.set_hcs_document_json(schema::ToJson(document));
    vm.mutable_checkpoints()->Add(payload.begin(), payload.end());
    return Await(FitCheckpoints(std::move(vm), std::move(state_folder), &reads_));
  }

  TestFolder folder_;
  const std::string disk_ = folder_.path() + "/disk.qcow2";
  const std::string memory_ = folder_.path() + "/memory.ferry";
  const std::string top_ = folder_.path() + "/disk.a.qcow2";
  std::string layer_;  // a container's, if the VM has one
  CheckpointRecords records_;
  FakeFileReads reads_;
};

TEST_F(CheckpointMovesTest, WhereTheSameFilesAreTheyArrive) {
  EXPECT_TRUE(CheckCheckpointsMayMove("web", records_).ok());
  const auto arrived = Fit(Described());
  ASSERT_TRUE(arrived.ok()) << arrived.status();
  ASSERT_THAT(*arrived, SizeIs(1));
  EXPECT_EQ(arrived->at("a").SerializeAsString(), records_.at("a").SerializeAsString());
}

TEST_F(CheckpointMovesTest, FilesThatAreNotThereAreNamed) {
  const auto payload = Described();
  std::filesystem::remove(memory_);
  const absl::Status refused = Fit(payload).status();
  EXPECT_EQ(rpc::ReasonOf(refused), "checkpoint_not_seen");
  EXPECT_THAT(std::string(refused.message()), HasSubstr(memory_));
}

TEST_F(CheckpointMovesTest, AnOlderCopyIsNotTheFile) {
  const auto payload = Described();
  std::filesystem::last_write_time(
      disk_, std::filesystem::last_write_time(disk_) - std::chrono::seconds(1));
  const absl::Status refused = Fit(payload).status();
  EXPECT_EQ(rpc::ReasonOf(refused), "checkpoint_not_seen");
  EXPECT_THAT(std::string(refused.message()), HasSubstr(disk_));
}

TEST_F(CheckpointMovesTest, WhatItsSourceDoesNotDescribeIsRefused) {
  auto payload = Described();
  payload[0].mutable_files()->RemoveLast();
  EXPECT_EQ(Fit(payload).status().code(), absl::StatusCode::kInvalidArgument);
  payload = Described();
  payload[0].set_record("nonsense");
  EXPECT_EQ(Fit(payload).status().code(), absl::StatusCode::kInvalidArgument);
  records_["a"].set_stage(state::v1::CHECKPOINT_STAGE_MERGING);
  EXPECT_EQ(Fit(Described()).status().code(), absl::StatusCode::kInvalidArgument);
}

// A host removes files that it takes for a checkpoint's.
TEST_F(CheckpointMovesTest, RecordsThatNameOtherFilesAreRefused) {
  ExpectRefused(
      [](CheckpointRecord& record) { record.mutable_disks(0)->set_overlay("/etc/passwd"); });
  ExpectRefused(
      [](CheckpointRecord& record) { record.mutable_disks(0)->set_below("/etc/passwd"); });
  ExpectRefused([](CheckpointRecord& record) { record.set_parent("nobody"); });
  auto payload = Described();
  payload.push_back(payload[0]);
  EXPECT_EQ(Fit(payload).status().code(), absl::StatusCode::kInvalidArgument);
  payload = Described();
  payload[0].set_name("../a");
  EXPECT_EQ(Fit(payload).status().code(), absl::StatusCode::kInvalidArgument);
  payload = Described();
  CheckpointRecord kept = records_["a"];
  kept.set_memory_kept(false);
  payload[0].set_record(kept.SerializeAsString());
  EXPECT_EQ(rpc::ReasonOf(Fit(payload).status()), "vm_has_checkpoints");
  state::v1::VmPayload vm;
  vm.set_hcs_document_json(schema::ToJson(schema::ComputeSystem()));
  EXPECT_FALSE(Await(FitCheckpoints(vm, folder_.path(), &reads_)).status().code() ==
               absl::StatusCode::kInvalidArgument);
  *vm.add_checkpoints() = Described()[0];
  EXPECT_EQ(Await(FitCheckpoints(vm, folder_.path(), &reads_)).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(CheckpointMovesTest, ALayerInTheDaemonsFolderIsNoCheckpointsFile) {
  layer_ = "/var/lib/ferry/images/layers/one.erofs";
  EXPECT_TRUE(Fit(Described()).ok());
  ExpectRefused([this](CheckpointRecord& record) { record.mutable_disks(0)->set_overlay(layer_); });
  ExpectRefused([this](CheckpointRecord& record) { record.mutable_disks(0)->set_below(layer_); });
}

TEST_F(CheckpointMovesTest, WhatALinkLeadsToInTheDaemonsFolderIsRefused) {
  const TestFolder other;
  const std::string own = other.path() + "/own";
  std::filesystem::create_directory_symlink(folder_.path(), own);
  EXPECT_TRUE(Fit(Described(), other.path() + "/none").ok());
  EXPECT_EQ(Fit(Described(), own).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Fit(Described(), other.path()).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(CheckpointMovesTest, WhereItOnceWentOnIsForgotten) {
  records_["a"].mutable_disks(0)->set_overlay(folder_.path() + "/gone.qcow2");
  const auto arrived = Fit(Described());
  ASSERT_TRUE(arrived.ok()) << arrived.status();
  EXPECT_EQ(arrived->at("a").disks(0).overlay(), "");
}

TEST_F(CheckpointMovesTest, WhatNoOtherHostCanHaveKeepsTheVm) {
  records_["a"].set_memory_kept(false);
  absl::Status refused = CheckCheckpointsMayMove("web", records_);
  EXPECT_EQ(rpc::ReasonOf(refused), "vm_has_checkpoints");
  EXPECT_THAT(rpc::NextStepOf(refused), HasSubstr("--memspec"));
  records_["a"].clear_memory_file();
  EXPECT_TRUE(CheckCheckpointsMayMove("web", records_).ok());
  records_["a"].mutable_disks(0)->set_container_id("c");
  refused = CheckCheckpointsMayMove("web", records_);
  EXPECT_EQ(rpc::ReasonOf(refused), "vm_has_checkpoints");
  EXPECT_THAT(std::string(refused.message()), HasSubstr("container"));
}

}  // namespace
}  // namespace ferry::vm
