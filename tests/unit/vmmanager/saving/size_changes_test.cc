// Memory and CPUs that are changed while a VM runs, is saved or stands.
#include "tests/unit/vmmanager/saving/saving_fixture.h"

namespace ferry::vm {
namespace {

class SizeChangesTest : public SavingTest {
 protected:
  absl::Status Set(std::optional<uint64_t> memory_mb, std::optional<uint32_t> cpus) {
    v1::SetVmRequest request;
    if (memory_mb) request.set_memory_mb(*memory_mb);
    if (cpus) request.set_cpus(*cpus);
    return Await(Found()->Set(request));
  }
  void ExpectMachine(uint64_t memory_mb, uint32_t cpus) {
    const schema::Topology& has = Found()->document().virtual_machine.compute_topology;
    EXPECT_EQ(has.memory.size_in_mb, memory_mb);
    EXPECT_EQ(has.processor.count, cpus);
    EXPECT_EQ(Found()->memory_mb(), memory_mb);
  }
  void ExpectConfigured(uint64_t memory_mb, uint32_t cpus) {
    EXPECT_EQ(Found()->spec().memory_mb(), memory_mb);
    EXPECT_EQ(Found()->spec().cpus(), cpus);
  }
  bool DiffersUntilBoot() { return Found()->Describe(false).has_until_boot(); }
  absl::Status Restart() {
    v1::StopVmRequest stop;
    stop.set_save(false);
    EXPECT_TRUE(Stop(Found(), stop).ok());
    return Start(Found()).status();
  }
};

TEST_F(SizeChangesTest, WhatRunsKeepsWhatItHasUntilItsNextBoot) {
  Boot();
  ASSERT_TRUE(Set(512, std::nullopt).ok());
  ExpectConfigured(512, 1);
  ExpectMachine(256, 1);
  const v1::Vm told = Found()->Describe(false);
  EXPECT_EQ(told.spec().memory_mb(), 512u);
  EXPECT_EQ(told.until_boot().memory_mb(), 256u);
  EXPECT_EQ(told.until_boot().cpus(), 1u);
  ASSERT_TRUE(Restart().ok());
  ExpectMachine(512, 1);
  EXPECT_FALSE(DiffersUntilBoot());
  // What it has been set back to is not told.
  ASSERT_TRUE(Set(std::nullopt, 4).ok());
  EXPECT_TRUE(DiffersUntilBoot());
  ASSERT_TRUE(Set(std::nullopt, 1).ok());
  EXPECT_FALSE(DiffersUntilBoot());
}

TEST_F(SizeChangesTest, WhatIsSavedGoesOnWithWhatItHad) {
  host_.System(*Boot())->Step(5);
  ASSERT_TRUE(Save(Found()).ok());
  ASSERT_TRUE(Set(512, 2).ok());
  EXPECT_TRUE(DiffersUntilBoot());
  RestartDaemon();
  ExpectConfigured(512, 2);
  ASSERT_TRUE(Start(Found()).ok());
  EXPECT_EQ(host_.System(*Found())->counter(), 5u);
  ExpectMachine(256, 1);
  EXPECT_TRUE(DiffersUntilBoot());
  ASSERT_TRUE(Restart().ok());
  ExpectMachine(512, 2);
  EXPECT_FALSE(DiffersUntilBoot());
}

TEST_F(SizeChangesTest, ItBootsWithThemOnceWhatWasSavedIsDiscarded) {
  Boot();
  ASSERT_TRUE(Save(Found()).ok());
  ASSERT_TRUE(Set(512, 2).ok());
  v1::StartVmRequest start;
  start.set_discard_saved(true);
  ASSERT_TRUE(Start(Found(), start).ok());
  ExpectMachine(512, 2);
  EXPECT_FALSE(DiffersUntilBoot());
}

TEST_F(SizeChangesTest, AFileIsGoneOnFromWithWhatItHad) {
  Boot();
  const std::string file = folder_.path() + "/then.ferry";
  ASSERT_TRUE(Save(Found(), file, true).ok());
  ASSERT_TRUE(Set(512, 2).ok());
  ASSERT_TRUE(Restart().ok());
  v1::StopVmRequest stop;
  stop.set_save(false);
  ASSERT_TRUE(Stop(Found(), stop).ok());
  v1::StartVmRequest start;
  start.set_from_file(file);
  ASSERT_TRUE(Start(Found(), start).ok());
  ExpectMachine(256, 1);
  ExpectConfigured(512, 2);
  ASSERT_TRUE(Restart().ok());
  ExpectMachine(512, 2);
}

TEST_F(SizeChangesTest, AStandingVmHasThemAtOnce) {
  Create("web");
  ASSERT_TRUE(Set(512, 2).ok());
  EXPECT_FALSE(DiffersUntilBoot());
  ASSERT_TRUE(Start(Found()).ok());
  ExpectMachine(512, 2);
}

TEST_F(SizeChangesTest, WhatCannotBeChangesNothing) {
  Boot();
  EXPECT_TRUE(absl::IsInvalidArgument(Set(1, std::nullopt)));
  EXPECT_TRUE(absl::IsInvalidArgument(Set(512, 100'000)));
  Settle();
  host_.store.FailNext(absl::ResourceExhaustedError("no room"));
  EXPECT_TRUE(absl::IsResourceExhausted(Set(512, 2)));
  ExpectConfigured(256, 1);
  EXPECT_FALSE(DiffersUntilBoot());
  RestartDaemon();
  ExpectConfigured(256, 1);
}

}  // namespace
}  // namespace ferry::vm
