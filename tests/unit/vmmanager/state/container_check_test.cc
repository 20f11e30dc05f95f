#include "vmmanager/state/container_check.h"

#include <gmock/gmock.h>

#include <functional>

#include "vmmanager/state/saved_state.h"

namespace ferry::vm {
namespace {

using ::testing::HasSubstr;

constexpr char kId[] = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const std::string kDigest = "sha256:" + std::string(64, 'a');

// One VM with one container, of two layers and a scratch disk.
class ContainerCheckTest : public testing::Test {
 protected:
  ContainerCheckTest() {
    auto& disks = document_.virtual_machine.devices.scsi["0"].attachments;
    for (const char* lun : {"0", "1"}) {
      disks[lun].path = "/layer";
      disks[lun].read_only = true;
      disks[lun].format = "raw";
    }
    disks["2"].path = "/scratch";
    plan_.session_id = "session-1";
    plan_.vm.set_vm_id("vm-1");
    plan_.vm.mutable_fingerprint()->set_cpus(1);
    plan_.vm.mutable_fingerprint()->set_memory_mb(256);
    state::v1::ContainerRecord& record = *plan_.vm.add_containers();
    record.set_schema_version(1);
    record.set_container_id(kId);
    record.set_vm_id("vm-1");
    record.set_stage(state::v1::CONTAINER_STAGE_CREATED);
    record.set_scratch_file("/scratch");
    record.mutable_scratch_disk()->set_lun(2);
    record.add_layers()->set_digest(kDigest);
    record.mutable_layers(0)->mutable_disk()->set_lun(0);
    record.mutable_layers(0)->set_bytes(4096);
    record.add_layers()->set_digest("sha256:" + std::string(64, 'b'));
    record.mutable_layers(1)->mutable_disk()->set_lun(1);
  }
  absl::StatusOr<std::string> Encode() {
    plan_.vm.set_hcs_document_json(schema::ToJson(document_));
    return EncodePlan(plan_);
  }
  state::v1::ContainerRecord& record() { return *plan_.vm.mutable_containers(0); }
  void ExpectRefused(const std::string& text) {
    const absl::Status refused = Encode().status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument) << refused;
    EXPECT_THAT(std::string(refused.message()), HasSubstr(text));
  }
  absl::StatusOr<CutState> Cut(std::vector<state::v1::ContainerRecord> containers) {
    const std::string plan = *Encode();
    CutState cut;
    cut.session_id = "session-1";
    cut.vm_id = "vm-1";
    cut.plan_sha256 = PlanDigest(plan);
    cut.guest_link = "mux";
    cut.containers = std::move(containers);
    return DecodeCut(*EncodeCut(cut), plan);
  }

  schema::ComputeSystem document_;
  PlanState plan_;
};

TEST_F(ContainerCheckTest, ContainersComeBackAsTheyWere) {
  const auto encoded = Encode();
  ASSERT_TRUE(encoded.ok()) << encoded.status();
  const auto decoded = DecodePlan(*encoded);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  ASSERT_EQ(decoded->vm.containers_size(), 1);
  EXPECT_EQ(decoded->vm.containers(0).SerializeAsString(), record().SerializeAsString());
}

TEST_F(ContainerCheckTest, WhatIsNoContainerIsRefused) {
  record().set_container_id("../../etc");
  ExpectRefused("no proper id");
  record().set_container_id(kId);
  record().mutable_layers(0)->set_digest("sha256:short");
  ExpectRefused("no proper digest");
  record().mutable_layers(0)->set_digest(kDigest);
  record().set_stage(state::v1::CONTAINER_STAGE_MAKING);
  ExpectRefused("in no state");
  record().set_stage(state::v1::CONTAINER_STAGE_RUNNING);
  *plan_.vm.add_containers() = record();
  ExpectRefused("there twice");
}

TEST_F(ContainerCheckTest, AGuestKnowsEachByAnIdOfItsOwn) {
  record().set_guest_id("../../etc");
  ExpectRefused("by no proper id");
  record().set_guest_id(std::string(64, 'e'));
  EXPECT_TRUE(EncodePlan(plan_).ok());
  EXPECT_TRUE(Cut({record()}).ok());
  state::v1::ContainerRecord other = record();
  other.set_guest_id(std::string(64, 'f'));
  EXPECT_FALSE(Cut({other}).ok());
  other = record();
  other.set_container_id(std::string(64, 'f'));
  other.clear_scratch_disk();
  other.clear_scratch_file();
  *plan_.vm.add_containers() = other;
  ExpectRefused("there twice");
  plan_.vm.mutable_containers(1)->set_guest_id(record().container_id());
  ExpectRefused("knows another one by its id");
  plan_.vm.mutable_containers(1)->clear_guest_id();
  EXPECT_TRUE(EncodePlan(plan_).ok());
}

TEST_F(ContainerCheckTest, DisksAreTheMachinesAndForOneThing) {
  record().mutable_layers(1)->mutable_disk()->set_lun(7);
  ExpectRefused("no disk of the machine");
  record().mutable_layers(1)->mutable_disk()->set_lun(2);
  ExpectRefused("no disk of the machine");  // it can be written to
  record().mutable_layers(1)->mutable_disk()->set_lun(0);
  ExpectRefused("two different layers");
  record().mutable_layers(1)->mutable_disk()->set_lun(1);
  record().mutable_scratch_disk()->set_lun(1);
  ExpectRefused("its scratch disk is no disk");
  record().mutable_scratch_disk()->set_lun(9);
  ExpectRefused("its scratch disk is no disk");
}

TEST_F(ContainerCheckTest, NobodysBytesAreTakenForAFormat) {
  auto& disks = document_.virtual_machine.devices.scsi["0"].attachments;
  disks["0"].format = "qcow2";
  ExpectRefused("not taken as it is");
  disks["0"].format = "raw";
  disks["2"].format = "raw";
  ExpectRefused("its scratch disk is no disk");
  disks["2"].format = "qcow2";
  disks["2"].read_only = true;
  ExpectRefused("its scratch disk is no disk");
}

TEST_F(ContainerCheckTest, ItIsInTheVmThatComes) {
  record().set_vm_id("victim");
  ExpectRefused("in another VM");
  record().set_vm_id("vm-1");
  state::v1::ContainerRecord other = record();
  other.set_vm_id("victim");
  EXPECT_FALSE(Cut({other}).ok());
}

TEST_F(ContainerCheckTest, PathsAndPodsAreProper) {
  record().set_scratch_file("scratch");
  ExpectRefused("no proper path");
  record().set_scratch_file("/scratch");
  record().set_sandbox_id("../pod");
  ExpectRefused("no proper id");
  record().clear_sandbox_id();
  state::v1::ContainerRecord other = record();
  other.set_container_id(std::string(64, 'f'));
  other.clear_scratch_disk();
  *plan_.vm.add_containers() = other;
  ExpectRefused("another's, too");
}

TEST_F(ContainerCheckTest, OutputOfAFormerBootIsWithinBounds) {
  record().mutable_stdout()->set_bytes("long ago");
  record().mutable_stdout()->set_start(UINT64_MAX - 3);
  ExpectRefused("more output than can be");
  record().mutable_stdout()->set_start(100);
  ASSERT_TRUE(Encode().ok());
  // It is in the plan only.
  state::v1::ContainerRecord now = record();
  now.clear_stdout();
  EXPECT_TRUE(Cut({now}).ok());
}

TEST_F(ContainerCheckTest, TheCutHasWhatThePlanHadInWhateverState) {
  state::v1::ContainerRecord now = record();
  now.mutable_layers(0)->clear_bytes();
  now.set_stage(state::v1::CONTAINER_STAGE_STOPPED);
  now.mutable_exit()->set_code(3);
  now.set_process_id(9);
  const auto cut = Cut({now});
  ASSERT_TRUE(cut.ok()) << cut.status();
  EXPECT_EQ(cut->containers[0].exit().code(), 3u);
}

TEST_F(ContainerCheckTest, ACutWithOtherContainersIsRefused) {
  EXPECT_FALSE(Cut({}).ok());
  EXPECT_FALSE(Cut({record(), record()}).ok());
  state::v1::ContainerRecord other = record();
  other.set_container_id(std::string(64, 'f'));
  EXPECT_FALSE(Cut({other}).ok());
  other = record();
  other.mutable_layers(0)->set_digest("sha256:" + std::string(64, 'c'));
  EXPECT_FALSE(Cut({other}).ok());
  other = record();
  other.set_scratch_file("/elsewhere");
  EXPECT_FALSE(Cut({other}).ok());
}

}  // namespace
}  // namespace ferry::vm
