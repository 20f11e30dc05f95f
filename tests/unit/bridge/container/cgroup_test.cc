#include "bridge/container/cgroup.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>

namespace ferry::bridge {
namespace {

TEST(CgroupTest, ParsesTheKernelsTexts) {
  CgroupTexts texts;
  texts.memory_current = "1048576\n";
  texts.memory_max = "2097152\n";
  texts.memory_peak = "1500000\n";
  texts.memory_stat = "anon 4096\nfile 8192\nkernel 1\n";
  texts.memory_events = "low 0\nhigh 0\nmax 5\noom 1\noom_kill 2\n";
  texts.cpu_stat =
      "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 4\nnr_throttled 3\n"
      "throttled_usec 7\n";
  texts.pids_current = "2\n";
  texts.pids_max = "max\n";
  texts.io_stat = "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n8:16 rbytes=9\nnonsense\n";
  const ContainerMetrics metrics = ParseMetrics(texts);
  EXPECT_EQ(metrics.memory_usage, 1048576u);
  EXPECT_EQ(metrics.memory_limit, 2097152u);
  EXPECT_EQ(metrics.memory_max, 1500000u);
  EXPECT_EQ(metrics.memory_anonymous, 4096u);
  EXPECT_EQ(metrics.memory_file, 8192u);
  EXPECT_EQ(metrics.memory_failcnt, 5u);
  EXPECT_EQ(metrics.oom_kills, 2u);
  EXPECT_EQ(metrics.cpu_total, 30'000u);
  EXPECT_EQ(metrics.cpu_user, 20'000u);
  EXPECT_EQ(metrics.cpu_kernel, 10'000u);
  EXPECT_EQ(metrics.cpu_periods, 4u);
  EXPECT_EQ(metrics.cpu_throttled_periods, 3u);
  EXPECT_EQ(metrics.cpu_throttled_time, 7'000u);
  EXPECT_EQ(metrics.pids_current, 2u);
  EXPECT_EQ(metrics.pids_limit, ContainerMetrics::kNoLimit);
  ASSERT_EQ(metrics.io.size(), 2u);
  EXPECT_EQ(metrics.io[0].major, 8u);
  EXPECT_EQ(metrics.io[0].writes, 4u);
  EXPECT_EQ(metrics.io[1].minor, 16u);
  EXPECT_EQ(metrics.io[1].read_bytes, 9u);
}

TEST(CgroupTest, NothingIsNothing) {
  const ContainerMetrics metrics = ParseMetrics(CgroupTexts());
  EXPECT_EQ(metrics.memory_usage, 0u);
  EXPECT_EQ(metrics.memory_limit, ContainerMetrics::kNoLimit);
  EXPECT_TRUE(metrics.io.empty());
}

class CgroupTreeTest : public testing::Test {
 protected:
  CgroupTreeTest() {
    char name[] = "/tmp/ferry-cgroup-XXXXXX";
    root_ = mkdtemp(name);
  }
  ~CgroupTreeTest() override { std::filesystem::remove_all(root_); }

  void Write(const std::string& name, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(root_ + name).parent_path());
    std::ofstream(root_ + name) << text;
  }
  std::string Read(const std::string& name) {
    std::ifstream file(root_ + name);
    std::string text;
    std::getline(file, text);
    return text;
  }

  std::string root_;
};

TEST_F(CgroupTreeTest, ReadsACgroupsFiles) {
  const CgroupTree tree(root_);
  EXPECT_TRUE(absl::IsNotFound(tree.Read("/containers/a").status()));
  Write("/containers/a/memory.current", "77\n");
  const auto metrics = tree.Read("/containers/a");
  ASSERT_TRUE(metrics.ok()) << metrics.status();
  EXPECT_EQ(metrics->memory_usage, 77u);
}

TEST_F(CgroupTreeTest, LimitsTheMemoryOfAllContainers) {
  const CgroupTree tree(root_);
  Write("/cgroup.subtree_control", "");
  EXPECT_FALSE(tree.LimitMemory("/containers", 4096).ok()) << "there is no memory.max yet";
  Write("/containers/memory.max", "");
  ASSERT_TRUE(tree.LimitMemory("/containers", 4096).ok());
  EXPECT_EQ(Read("/cgroup.subtree_control"), "+memory");
  EXPECT_EQ(Read("/containers/memory.max"), "4096");
}

}  // namespace
}  // namespace ferry::bridge
