// VMs that live on when they have been saved.
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
    if (host_.System(*vm) != nullptr) runs[point] = host_.System(*vm)->Step();
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

}  // namespace
}  // namespace ferry::vm
