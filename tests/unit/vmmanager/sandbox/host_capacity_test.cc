#include "vmmanager/sandbox/host_capacity.h"

#include "tests/unit/vmmanager/sandbox/sandbox_fixture.h"

namespace ferry::vm {
namespace {

constexpr char kOther[] = "11111111-2222-3333-4444-555555555555";

class HostCapacityTest : public SandboxTest {
 protected:
  // A VM of 256 MiB that is on its way here.
  void Announce() {
    VmRow row;
    row.id = kOther;
    row.name = "other";
    v1::VmSpec spec;
    spec.set_name("other");
    spec.set_memory_mb(256);
    auto vm = host_.inventory->AddIncoming("s", row, spec, {});
    ASSERT_TRUE(vm.ok()) << vm.status();
    const schema::MigrationInitializeOptions options;
    const MigrationEndpoint endpoint{folder_.path() + "/m"};
    const absl::Status prepared = Await((*vm)->PrepareIncoming(options, endpoint));
    ASSERT_TRUE(prepared.ok()) << prepared;
    ASSERT_EQ((*vm)->state(), v1::VM_STATE_INCOMING);
  }
};

TEST_F(HostCapacityTest, NumbersAreInTheRefusal) {
  host_.backend.mutable_memory() = {4096, 300};
  EXPECT_TRUE(CheckCapacity(200, "web", *host_.inventory).ok());
  const absl::Status status = CheckCapacity(256, "web", *host_.inventory);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(status.message(), HasSubstr("needs 320 MiB of memory"));
  EXPECT_THAT(status.message(), HasSubstr("300 MiB available"));
}

TEST_F(HostCapacityTest, WhatTheAdministratorKeepsIsNotAvailable) {
  host_.backend.mutable_memory() = {4096, 1000};
  EXPECT_TRUE(CheckCapacity(256, "web", *host_.inventory).ok());
  host_.settings.memory_reserve_mb = 900;
  EXPECT_EQ(MemoryFor(256, "web", *host_.inventory)->available_mb, 100u);
  EXPECT_FALSE(CheckCapacity(256, "web", *host_.inventory).ok());
  host_.settings.memory_reserve_mb = 2000;
  EXPECT_EQ(MemoryFor(256, "web", *host_.inventory)->available_mb, 0u);
}

TEST_F(HostCapacityTest, VmsThatArriveHaveTheirsPromised) {
  host_.backend.mutable_memory() = {4096, 600};
  EXPECT_TRUE(CheckCapacity(256, "web", *host_.inventory).ok());
  Announce();
  EXPECT_EQ(MemoryFor(256, "web", *host_.inventory)->available_mb, 280u);
  EXPECT_FALSE(CheckCapacity(256, "web", *host_.inventory).ok());
  // Its own promise does not keep it out.
  EXPECT_TRUE(CheckCapacity(256, kOther, *host_.inventory).ok());
}

TEST_F(HostCapacityTest, StateFolderThatIsGoneIsAnError) {
  EXPECT_TRUE(StateRoom(host_.settings)->enough());
  host_.settings.state_folder = folder_.path() + "/gone";
  EXPECT_FALSE(CheckCapacity(256, "web", *host_.inventory).ok());
}

}  // namespace
}  // namespace ferry::vm
