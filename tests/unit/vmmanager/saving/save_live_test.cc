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

}  // namespace
}  // namespace ferry::vm
