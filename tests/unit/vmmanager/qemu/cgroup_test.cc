#include "vmmanager/qemu/cgroup.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <boost/asio/io_context.hpp>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "vmmanager/qemu/qemu_process.h"

namespace ferry::vm {
namespace {

constexpr char kHybrid[] =
    "31 24 0:27 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:28 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu\n"
    "40 31 0:36 / /sys/fs/cgroup/unified rw,relatime shared:4 - cgroup2 cgroup2 rw\n";
constexpr char kUnified[] = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n";

TEST(CgroupTest, ParentIsBesideTheDaemonsOwnGroup) {
  EXPECT_EQ(CgroupBeside(kUnified, "0::/system.slice/ferryd.service\n").value(),
            "/sys/fs/cgroup/system.slice");
  EXPECT_EQ(CgroupBeside(kUnified, "0::/ferryd\n").value(), "/sys/fs/cgroup");
}

TEST(CgroupTest, TheTopmostGroupHasNothingBesideIt) {
  EXPECT_EQ(CgroupBeside(kHybrid, "4:memory:/a/b\n0::/\n").value(), "/sys/fs/cgroup/unified");
}

TEST(CgroupTest, VersionOneAloneIsNoUse) {
  const auto none = CgroupBeside("32 31 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n",
                                 "4:memory:/a/b\n");
  EXPECT_TRUE(absl::IsNotFound(none.status())) << none.status();
  EXPECT_TRUE(absl::IsNotFound(CgroupBeside(kHybrid, "4:memory:/a/b\n").status()));
}

TEST(CgroupTest, SaysWhyNothingCanBeMadeThere) {
  EXPECT_EQ(ChooseCgroupParent("none").value(), "");
  EXPECT_TRUE(absl::IsInvalidArgument(ChooseCgroupParent("here").status()));
  const auto missing = ChooseCgroupParent("/nonexistent");
  EXPECT_TRUE(absl::IsUnavailable(missing.status()));
  EXPECT_NE(missing.status().message().find("/nonexistent"), absl::string_view::npos);
}

// With the kernel's own groups, where this process may make some.
class RealCgroupTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto parent = ChooseCgroupParent("auto");
    if (!parent.ok()) GTEST_SKIP() << parent.status();
    group_ = CgroupOf(*parent, "/tmp/test." + std::to_string(::getpid()));
    ASSERT_TRUE(MakeCgroup(group_).ok());
  }
  void TearDown() override { ::rmdir(group_.c_str()); }

  asio::io_context context_;
  std::string group_;
};

TEST_F(RealCgroupTest, AProcessIsInItFromTheStartAndItGoesWithThatProcess) {
  LaunchSpec spec;
  spec.argv = {"/bin/sleep", "1000"};
  spec.cgroup = group_;
  auto process = QemuProcess::Launch(context_.get_executor(), spec);
  ASSERT_TRUE(process.ok()) << process.status();
  std::ifstream groups("/proc/" + std::to_string((*process)->pid()) + "/cgroup");
  const std::string text{std::istreambuf_iterator<char>(groups), {}};
  const std::string name = std::filesystem::path(group_).filename();
  EXPECT_NE(text.find("/" + name + "\n"), std::string::npos) << text;

  // Asked for while the process still runs; it goes as soon as that has ended.
  Spawn(context_.get_executor(), RemoveCgroup(group_));
  context_.poll();
  EXPECT_TRUE(std::filesystem::exists(group_));
  (*process)->Kill();
  context_.run_for(std::chrono::seconds(30));
  EXPECT_FALSE(std::filesystem::exists(group_));
}

TEST_F(RealCgroupTest, AGroupThatIsGoneRefusesTheProcess) {
  ASSERT_EQ(::rmdir(group_.c_str()), 0);
  LaunchSpec spec;
  spec.argv = {"/bin/true"};
  spec.cgroup = group_;
  const auto process = QemuProcess::Launch(context_.get_executor(), spec);
  ASSERT_FALSE(process.ok());
  EXPECT_NE(process.status().message().find(group_), absl::string_view::npos);
}

}  // namespace
}  // namespace ferry::vm
