#include "vmmanager/containers/vm_disks.h"

#include "tests/unit/vmmanager/containers/containers_fixture.h"

namespace ferry::vm {
namespace {

// The layers of one guest that keeps books.
class VmLayersTest : public ContainersTest {
 protected:
  absl::StatusOr<ContainerDisk> Acquire(const std::string& container) {
    return Await(layers_.Acquire("sha256:1", "/images/1", container));
  }
  absl::Status Release(const std::string& container) {
    return Await(layers_.Release("sha256:1", container));
  }
  bool IsThere() const {
    return guest_.disks.contains("/images/1") && guest_.mounts.contains("/run/gcs/l/0-0");
  }

  FakeContainerGuest guest_{io_.get_executor()};
  FakeContainerMachine machine_{guest_};
  VmLayers layers_{io_.get_executor(), machine_};
};

TEST_F(VmLayersTest, OneIsThereOnceAndGoesWithTheLastOfItsUsers) {
  ASSERT_TRUE(Acquire("a").ok());
  ASSERT_TRUE(Acquire("b").ok());
  EXPECT_EQ(guest_.disks.size(), 1u);
  ASSERT_TRUE(Release("a").ok());
  EXPECT_TRUE(IsThere());
  ASSERT_TRUE(Release("b").ok());
  EXPECT_TRUE(guest_.empty());
  EXPECT_EQ(layers_.size(), 0u);
}

TEST_F(VmLayersTest, ARemovalThatIsRepeatedTakesNothingFromOthers) {
  for (const char* step : {"unmount", "eject", "detach"}) {
    ASSERT_TRUE(Acquire("a").ok());
    guest_.fails_at = {step};
    EXPECT_FALSE(Release("a").ok()) << step;
    // It is whole for whoever comes next, however far out it was.
    ASSERT_TRUE(Acquire("b").ok()) << step;
    EXPECT_TRUE(IsThere()) << step;
    ASSERT_TRUE(Release("a").ok());
    EXPECT_TRUE(IsThere()) << step;
    ASSERT_TRUE(Release("b").ok());
    EXPECT_TRUE(guest_.empty()) << step;
  }
}

TEST_F(VmLayersTest, ARemovalThatFailedCanBeRepeated) {
  ASSERT_TRUE(Acquire("a").ok());
  guest_.fails_at = {"eject", "detach"};
  EXPECT_FALSE(Release("a").ok());
  EXPECT_FALSE(Release("a").ok());
  EXPECT_TRUE(Release("a").ok());
  EXPECT_TRUE(guest_.empty());
}

TEST_F(VmLayersTest, OneThatCannotBeMountedIsNotForgotten) {
  guest_.fails_at = {"mount", "detach"};
  EXPECT_FALSE(Acquire("a").ok());
  EXPECT_FALSE(Release("a").ok());
  EXPECT_EQ(guest_.disks.size(), 1u);
  ASSERT_TRUE(Release("a").ok());
  EXPECT_TRUE(guest_.empty());
}

TEST_F(VmLayersTest, OneOfADeadDaemonComesAnewUnlessItIsKnownToBeMounted) {
  ASSERT_TRUE(Await(machine_.AttachDisk({.path = "/images/1"})).ok());
  const ContainerDisk disk = DiskAt(DiskSlot{}, "");
  layers_.TakeUp("sha256:1", disk, "half", false);
  ASSERT_TRUE(Acquire("a").ok());
  EXPECT_TRUE(IsThere());
  ASSERT_TRUE(Release("half").ok());
  EXPECT_TRUE(IsThere());
  VmLayers next(io_.get_executor(), machine_);
  next.TakeUp("sha256:1", disk, "half", false);
  next.TakeUp("sha256:1", disk, "whole", true);
  guest_.calls.clear();
  ASSERT_TRUE(Await(next.Acquire("sha256:1", "/images/1", "a")).ok());
  EXPECT_TRUE(guest_.calls.empty());
}

TEST_F(VmLayersTest, ThoseOfAFormerBootAreForgotten) {
  ASSERT_TRUE(Acquire("a").ok());
  ++guest_.boots;
  guest_.disks.clear();
  guest_.mounts.clear();
  ASSERT_TRUE(Acquire("b").ok());
  EXPECT_TRUE(IsThere());
  ASSERT_TRUE(Release("b").ok());
  EXPECT_TRUE(guest_.empty());
}

}  // namespace
}  // namespace ferry::vm
