#include "vmmanager/saving/host_turns.h"

#include <fstream>

#include "tests/unit/vmmanager/saving/saving_fixture.h"

namespace ferry::vm {
namespace {

class HostTurnsTest : public SavingTest {
 protected:
  std::shared_ptr<UtilityVm> Make(const std::string& name, v1::SaveOnStop save, bool autostart) {
    auto vm = Boot(name);
    v1::SetVmRequest set;
    set.set_save_on_stop(save);
    set.set_autostart(autostart);
    EXPECT_TRUE(Await(vm->Set(set)).ok());
    return vm;
  }
  void GoDown(bool or_shutdown) {
    HostDownOptions options;
    options.or_shutdown = or_shutdown;
    options.within = milliseconds(10'000);
    Await(StopAll(*host_.inventory, *saves_, options));
  }
  void ComeBack(const std::string& boot) {
    Await(StartAfterBoot(*host_.inventory, *saves_, folder_.path() + "/autostarted", boot));
  }
};

TEST_F(HostTurnsTest, EachVmIsStoppedAsItIsToBe) {
  auto saved = Make("saved", v1::SAVE_ON_STOP_YES, false);
  auto stopped = Make("stopped", v1::SAVE_ON_STOP_UNSPECIFIED, false);
  GoDown(false);
  EXPECT_EQ(saved->state(), v1::VM_STATE_SAVED);
  EXPECT_EQ(stopped->state(), v1::VM_STATE_STOPPED);
  // There is nothing left to do.
  GoDown(false);
}

TEST_F(HostTurnsTest, WhatCannotBeSavedRunsOnOrIsShutDown) {
  auto vm = Make("web", v1::SAVE_ON_STOP_YES, false);
  host_.backend.script().FailNext("Save", absl::AbortedError("no"));
  GoDown(false);
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  host_.backend.script().FailNext("Save", absl::AbortedError("no"));
  GoDown(true);
  EXPECT_EQ(vm->state(), v1::VM_STATE_STOPPED);
}

TEST_F(HostTurnsTest, WhatItsHostSavesByDefaultIsNotShutDownEither) {
  auto vm = Make("web", v1::SAVE_ON_STOP_UNSPECIFIED, false);
  former_.push_back(std::move(saves_));
  SavedStatesOptions options = Options();
  options.save_on_stop = true;
  saves_ = std::make_unique<SavedStates>(*host_.inventory, nullptr, digests_, options);
  host_.backend.script().FailNext("Save", absl::AbortedError("no"));
  GoDown(false);
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  GoDown(false);
  EXPECT_EQ(vm->state(), v1::VM_STATE_SAVED);
}

TEST_F(HostTurnsTest, WhoCallsOffASaveDoesNotKnowThatTheHostGoesDown) {
  auto vm = Make("web", v1::SAVE_ON_STOP_YES, false);
  host_.backend.script().FailNext("Save", absl::CancelledError("called off"));
  GoDown(false);
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  host_.backend.script().FailNext("Save", absl::CancelledError("called off"));
  GoDown(true);
  EXPECT_EQ(vm->state(), v1::VM_STATE_STOPPED);
}

TEST_F(HostTurnsTest, WhatTakesTooLongIsNotWaitedFor) {
  auto slow = Make("slow", v1::SAVE_ON_STOP_YES, false);
  auto quick = Make("quick", v1::SAVE_ON_STOP_NO, false);
  host_.backend.script().Block("Save");
  HostDownOptions options;
  options.within = milliseconds(200);
  Await(StopAll(*host_.inventory, *saves_, options));
  EXPECT_EQ(slow->state(), v1::VM_STATE_SAVING);
  EXPECT_EQ(quick->state(), v1::VM_STATE_STOPPED);
  host_.backend.script().Release("Save");
  Await(slow->AwaitOperation());
  EXPECT_EQ(slow->state(), v1::VM_STATE_SAVED);
}

TEST_F(HostTurnsTest, WhatIsJustBeingSavedIsWaitedFor) {
  auto vm = Make("web", v1::SAVE_ON_STOP_NO, false);
  host_.backend.script().Block("Save");
  auto saving = Begin(saves_->Save(vm, v1::SaveVmRequest()));
  Await(host_.backend.script().WaitBlocked("Save"));
  HostDownOptions options;
  options.within = milliseconds(10'000);
  auto going_down = [](VmInventory* vms, SavedStates* saves,
                       HostDownOptions how) -> Task<absl::Status> {
    co_await StopAll(*vms, *saves, how);
    co_return absl::OkStatus();
  };
  auto down = Begin(going_down(host_.inventory.get(), saves_.get(), options));
  Settle();
  EXPECT_FALSE(down->has_value());
  host_.backend.script().Release("Save");
  EXPECT_TRUE(Finish(down).ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_SAVED);
  EXPECT_TRUE(Finish(saving).ok());
}

TEST_F(HostTurnsTest, OnceAfterEachBootThoseStartThatAreTo) {
  auto saved = Make("saved", v1::SAVE_ON_STOP_YES, true);
  auto stopped = Make("stopped", v1::SAVE_ON_STOP_NO, true);
  auto other = Make("other", v1::SAVE_ON_STOP_NO, false);
  EXPECT_TRUE(host_.System(*saved)->Step(3));
  GoDown(false);
  ComeBack("boot-1");
  EXPECT_EQ(host_.System(*saved)->counter(), 3u);
  EXPECT_EQ(stopped->state(), v1::VM_STATE_RUNNING);
  EXPECT_EQ(other->state(), v1::VM_STATE_STOPPED);
  // What somebody stops after that stays stopped, also if the daemon is started anew.
  GoDown(false);
  ComeBack("boot-1");
  EXPECT_EQ(stopped->state(), v1::VM_STATE_STOPPED);
  host_.backend.script().FailNext("Start", absl::AbortedError("no"));
  ComeBack("boot-2");
  // One that does not start keeps none of the others from it.
  EXPECT_NE(saved->state() == v1::VM_STATE_RUNNING, stopped->state() == v1::VM_STATE_RUNNING);
  const auto types = EventTypes();
  EXPECT_EQ(std::count(types.begin(), types.end(), "vm.autostart_failed"), 1);
}

}  // namespace
}  // namespace ferry::vm
