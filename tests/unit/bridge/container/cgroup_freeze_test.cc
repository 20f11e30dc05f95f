#include "bridge/container/cgroup_freeze.h"

#include <gtest/gtest.h>

#include <fstream>

#include "tests/unit/bridge/task_test.h"

namespace ferry::bridge {
namespace {

class CgroupFreezeTest : public TaskTest {
 protected:
  void Write(const std::string& text) { std::ofstream(folder_.path() + "/cgroup.events") << text; }
  Task<absl::Status> AwaitIt() { return AwaitFrozen(folder_.path(), milliseconds(600'000)); }

  TestFolder folder_;
};

TEST_F(CgroupFreezeTest, IsSeenWhenItComes) {
  Write("populated 1\nfrozen 0\n");
  const auto frozen = Begin(AwaitIt());
  Settle();
  EXPECT_FALSE(frozen->has_value());
  Write("populated 1\nfrozen 1\n");
  EXPECT_TRUE(Finish(frozen).ok());
}

TEST_F(CgroupFreezeTest, IsSeenIfItIsThereAlready) {
  Write("populated 1\nfrozen 1\n");
  EXPECT_TRUE(Await(AwaitIt()).ok());
}

TEST_F(CgroupFreezeTest, ACgroupThatIsNotThereIsNotFound) {
  EXPECT_TRUE(absl::IsNotFound(Await(AwaitIt())));
}

}  // namespace
}  // namespace ferry::bridge
