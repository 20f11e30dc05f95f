// VMs that live on when they have been saved.
#include <filesystem>
#include <fstream>
#include <map>

#include "tests/unit/vmmanager/saving/saving_fixture.h"

namespace ferry::vm {
namespace {

using SaveLiveTest = SavingTest;

// The disk may take its time, and nothing more is wanted of the guest.
TEST_F(SaveLiveTest, OneThatLivesOnGoesOnBeforeItsFileIsWhole) {
  auto vm = Boot();
  std::map<std::string, bool> runs;
  host_.at_point = [&](const std::string& point) {
    const bool looks = point == "SAVE.written" || point == "SAVE.sealed";
    if (looks) runs[point] = host_.System(*vm)->Step();
  };
  ASSERT_TRUE(Save(vm, folder_.path() + "/copy.ferry", true).ok());
  EXPECT_FALSE(runs.at("SAVE.written"));
  EXPECT_TRUE(runs.at("SAVE.sealed"));
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  runs.clear();
  ASSERT_TRUE(Await(vm->Pause()).ok());
  ASSERT_TRUE(Save(vm, folder_.path() + "/paused.ferry", true).ok());
  EXPECT_FALSE(runs.at("SAVE.sealed"));
  EXPECT_EQ(vm->state(), v1::VM_STATE_PAUSED);
  ASSERT_TRUE(Await(vm->Resume()).ok());
  runs.clear();
  ASSERT_TRUE(Save(vm).ok());
  EXPECT_FALSE(runs.at("SAVE.sealed"));
}

TEST_F(SaveLiveTest, ADiskThatComesMeanwhileIsSeen) {
  auto vm = Boot();
  host_.backend.script().Block("Pause");
  auto pausing = Begin(vm->Pause());
  Await(host_.backend.script().WaitBlocked("Pause"));
  schema::Attachment scratch;
  scratch.path = folder_.path() + "/scratch";
  std::ofstream(scratch.path) << "disk";
  auto attaching = Begin(vm->AttachDisk(scratch));
  v1::SaveVmRequest request;
  request.set_to_file(folder_.path() + "/copy.ferry");
  request.set_live(true);
  auto saving = Begin(saves_->Save(vm, request));
  Settle();
  host_.backend.script().Release("Pause");
  ASSERT_TRUE(Finish(pausing).ok());
  ASSERT_TRUE(Finish(attaching).ok());
  EXPECT_THAT(Finish(saving).message(), HasSubstr("would go on writing to its disks"));
  EXPECT_FALSE(std::filesystem::exists(request.to_file()));
}

TEST_F(SaveLiveTest, OfSeveralWhoStartFromAFileOneGoesOn) {
  auto vm = Boot();
  v1::StartVmRequest request;
  request.set_from_file(folder_.path() + "/file");
  request.set_or_boot(true);
  ASSERT_TRUE(Save(vm, request.from_file(), true).ok());
  ASSERT_TRUE(Await(vm->Stop(true, milliseconds(0))).ok());
  auto one = Begin(saves_->Start(vm, request));
  auto other = Begin(saves_->Start(vm, request));
  const absl::Status of_one = Finish(one).status();
  const absl::Status of_other = Finish(other).status();
  EXPECT_NE(of_one.ok(), of_other.ok()) << of_one << of_other;
  const absl::Status refused = of_one.ok() ? of_other : of_one;
  EXPECT_EQ(rpc::ReasonOf(refused), "wrong_state") << refused;
  EXPECT_THAT(NextStepOf(refused), HasSubstr("ferryctl stop"));
  // Nor is it looked at what has become of the file meanwhile, or booted for that.
  std::filesystem::remove(request.from_file());
  EXPECT_EQ(rpc::ReasonOf(Start(vm, request).status()), "wrong_state");
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
}

TEST_F(SaveLiveTest, WhoStartsWhatAnotherLetsGoOnIsContent) {
  auto vm = Boot();
  for (const bool paused : {false, true}) {
    if (paused) {
      ASSERT_TRUE(Await(vm->Pause()).ok());
    }
    ASSERT_TRUE(Save(vm).ok());
    auto first = Begin(saves_->Start(vm, {}));
    auto second = Begin(saves_->Start(vm, {}));
    EXPECT_TRUE(Finish(first).ok());
    const absl::Status also = Finish(second).status();
    EXPECT_TRUE(also.ok()) << also;
    EXPECT_EQ(vm->state(), paused ? v1::VM_STATE_PAUSED : v1::VM_STATE_RUNNING);
  }
}

}  // namespace
}  // namespace ferry::vm
