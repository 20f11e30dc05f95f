// What a VM's firmware remembers goes back in time with it. The fake VMM never touches the store,
// so what is seen is what ferryd does for a guest that does not run.
#include <iterator>

#include "tests/unit/vmmanager/saving/checkpoints_fixture.h"
#include "vmmanager/sandbox/firmware_store.h"
#include "vmmanager/saving/snapshots.h"

namespace ferry::vm {
namespace {

class FirmwareMovesTest : public CheckpointsTest {
 protected:
  void SetUp() override {
    v1::CreateVmRequest request;
    request.mutable_spec()->set_name("web");
    request.mutable_spec()->set_firmware(v1::FIRMWARE_OVMF);
    v1::DiskSpec* disk = request.mutable_spec()->add_disks();
    disk->set_name("root");
    disk->set_file(File("root.qcow2"));
    std::ofstream(disk->file()) << EmptyQcow2(kDiskBytes);
    auto vm = Await(host_.inventory->Create(request));
    ASSERT_TRUE(vm.ok()) << vm.status();
    vm_ = *vm;
    ASSERT_TRUE(Await(vm_->Start()).ok());
    Remember("then");
  }

  std::string StoreOf(const std::string& vm_id) const {
    return StorePathOf(host_.settings.firmware, vm_id);
  }
  void Remember(const std::string& text) {
    std::ofstream(StoreOf(vm_->id()), std::ios::trunc) << text;
  }
  std::string Remembered(const std::string& vm_id) const {
    std::ifstream file(StoreOf(vm_id));
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  }
  std::string Remembered() const { return Remembered(vm_->id()); }

  std::shared_ptr<UtilityVm> vm_;
};

TEST_F(FirmwareMovesTest, ACheckpointPutsItBackWithMemoryOrWithout) {
  for (const bool disk_only : {true, false}) {
    v1::CreateCheckpointRequest request = Request(disk_only ? "disks" : "all");
    request.set_disk_only(disk_only);
    const auto taken = Take(request);
    ASSERT_TRUE(taken.ok()) << taken.status();
    Remember("now!");
    const auto back = Revert(request.name(), v1::RevertToCheckpointRequest::THEN_STOPPED);
    ASSERT_TRUE(back.ok()) << back.status();
    EXPECT_EQ(Remembered(), "then") << request.name();
    ASSERT_TRUE(Start(vm_).ok());
    EXPECT_EQ(Remembered(), "then") << request.name();
  }
}

TEST_F(FirmwareMovesTest, AVmMadeOfACheckpointHasItsOwn) {
  host_.overlays.before_copy = [](const std::string& to) -> Task<absl::Status> {
    std::ofstream(to) << EmptyQcow2(kDiskBytes);
    co_return absl::OkStatus();
  };
  ASSERT_TRUE(Take("a").ok());
  Remember("now!");
  for (const bool disk_only : {true, false}) {
    v1::RestoreCheckpointAsRequest request;
    request.set_vm("web");
    request.set_name("a");
    request.set_new_name(disk_only ? "web-2" : "web-3");
    request.set_disk_only(disk_only);
    const auto made = Await(checkpoints_->RestoreAs(request));
    ASSERT_TRUE(made.ok()) << made.status();
    EXPECT_EQ(Remembered(made->id()), "then");
    EXPECT_TRUE(Start(*host_.inventory->Find(made->id())).ok());
    EXPECT_EQ(Remembered(made->id()), "then");
  }
  EXPECT_EQ(Remembered(), "now!");
}

TEST_F(FirmwareMovesTest, APausedVmHasItAsItsFileSays) {
  ASSERT_TRUE(Await(vm_->Pause()).ok());
  ASSERT_TRUE(Save(vm_, File("web.ferry")).ok());
  Remember("now!");
  v1::StartVmRequest start;
  start.set_from_file(File("web.ferry"));
  const auto started = Start(vm_, start);
  ASSERT_TRUE(started.ok()) << started.status();
  EXPECT_EQ(vm_->state(), v1::VM_STATE_PAUSED);
  EXPECT_EQ(Remembered(), "then");
}

TEST_F(FirmwareMovesTest, APausedVmHasItAsItsSnapshotSays) {
  Snapshots snapshots(*host_.inventory, nullptr);
  ASSERT_TRUE(Await(vm_->Pause()).ok());
  v1::SaveSnapshotRequest save;
  save.set_vm("web");
  save.set_tag("a");
  save.add_devices("root");
  save.set_vmstate("root");
  const auto saved = Await(snapshots.Save(save));
  ASSERT_TRUE(saved.ok()) << saved.status();
  Remember("now!");
  v1::LoadSnapshotRequest load;
  load.set_vm("web");
  load.set_tag("a");
  const auto loaded = Await(snapshots.Load(load));
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(Remembered(), "then");
}

TEST_F(FirmwareMovesTest, AStoreThatIsLostComesBackFromTheFile) {
  ASSERT_TRUE(Save(vm_).ok());
  std::filesystem::remove(StoreOf(vm_->id()));
  const auto started = Start(vm_);
  ASSERT_TRUE(started.ok()) << started.status();
  EXPECT_EQ(Remembered(), "then");
}

}  // namespace
}  // namespace ferry::vm
