// A destination whose disk fills up in the middle of a migration, and stays full for a while.
#include "tests/unit/migration/controller/controller_fixture.h"

namespace ferry::migration {
namespace {

class FullDiskTest : public ControllerTest, public ::testing::WithParamInterface<const char*> {
 protected:
  void SetUp() override {
    ControllerTest::SetUp();
    a_.deps->limits.release = milliseconds(5);
    a_.deps->limits.ask_again = milliseconds(5);
    // From the record of that kind on nothing can be written.
    b_.host.store.before_append = [this](vm::JournalRecord record) {
      full_ = full_ || (!room_ && record.kind == GetParam());
      if (full_) ++failed_;
      return Fail(full_);
    };
  }

  void MakeRoom() {
    room_ = true;
    full_ = false;
  }

  bool full_ = false;
  bool room_ = false;
  int failed_ = 0;
};

class FullBeforeCommitTest : public FullDiskTest {};

TEST_P(FullBeforeCommitTest, TheVmRunsOnAtItsSource) {
  auto vm = Boot();
  // It does not sit out the time for a vote that cannot come, with its guest stopped.
  a_.deps->limits.vote = milliseconds(600'000);
  const std::string id = Migrate();
  const v1::Session session = Wait(a_, id);
  EXPECT_EQ(session.vm_location(), "host-a:1");
  EXPECT_EQ(session.outcome(), v1::SESSION_OUTCOME_FAILED);
  EXPECT_TRUE(a_.host.System(*vm)->Step());
  EXPECT_EQ(Kinds(a_, id).back(), "ABORT");
  // What it could not refuse it refuses once there is room.
  Until([&] { return failed_ > 3; });
  EXPECT_FALSE(Describe(b_, id).done());
  MakeRoom();
  Wait(b_, id);
  EXPECT_EQ(Kinds(b_, id).back(), "REFUSED");
  ExpectRolledBack(vm);
  EXPECT_EQ(Wait(a_, Migrate()).vm_location(), "host-b:1");
}
INSTANTIATE_TEST_SUITE_P(Records, FullBeforeCommitTest, ::testing::Values("PREPARED"),
                         [](const auto& info) { return std::string(info.param); });

class FullAfterCommitTest : public FullDiskTest {};

TEST_P(FullAfterCommitTest, TheSourceWaitsUntilThereIsRoom) {
  auto vm = Boot();
  const std::string id = Migrate();
  Until([&] { return failed_ > 3; });
  EXPECT_EQ(vm->state(), v1::VM_STATE_IN_DOUBT);
  EXPECT_FALSE(Describe(a_, id).done());
  EXPECT_EQ(Kinds(a_, id).back(), "COMMIT");
  EXPECT_EQ(Kinds(b_, id).back(), GetParam() == std::string("GRANTED") ? "PREPARED" : "GRANTED");
  MakeRoom();
  EXPECT_EQ(Wait(a_, id).vm_location(), "host-b:1");
  EXPECT_EQ(Kinds(b_, id).back(), "RUNNING");
  ExpectMoved(vm, 2);
}
INSTANTIATE_TEST_SUITE_P(Records, FullAfterCommitTest, ::testing::Values("GRANTED", "RUNNING"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace ferry::migration
