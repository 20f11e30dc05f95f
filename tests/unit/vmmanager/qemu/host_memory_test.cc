#include "vmmanager/qemu/host_memory.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/unit/bridge/task_test.h"

namespace ferry::vm {
namespace {

class HostMemoryTest : public ::testing::Test {
 protected:
  HostMemoryTest() {
    Write("proc/meminfo", "MemTotal:  8388608 kB\nMemFree: 1024 kB\nMemAvailable: 4194304 kB\n");
  }

  void Write(const std::string& name, const std::string& text) {
    const std::filesystem::path path = folder_.path() + "/" + name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text;
  }
  absl::StatusOr<HostMemory> Read() {
    return ReadHostMemory(folder_.path() + "/proc", folder_.path() + "/cgroup");
  }

  TestFolder folder_;
};

TEST_F(HostMemoryTest, WithoutLimitsItIsTheKernelsEstimate) {
  Write("proc/self/cgroup", "0::/\n");
  const auto memory = Read();
  ASSERT_TRUE(memory.ok()) << memory.status();
  EXPECT_EQ(memory->total_mb, 8192u);
  EXPECT_EQ(memory->available_mb, 4096u);
}

TEST_F(HostMemoryTest, TheNarrowestLimitOnTheWayCounts) {
  Write("proc/self/cgroup", "4:memory:/old\n0::/system.slice/ferryd.service\n");
  Write("cgroup/system.slice/memory.max", "1073741824\n");
  Write("cgroup/system.slice/memory.current", "805306368\n");
  Write("cgroup/system.slice/memory.stat", "anon 1\ninactive_file 268435456\n");
  Write("cgroup/system.slice/ferryd.service/memory.max", "max\n");
  auto memory = Read();
  ASSERT_TRUE(memory.ok()) << memory.status();
  EXPECT_EQ(memory->total_mb, 1024u);
  EXPECT_EQ(memory->available_mb, 512u);  // what is cached can be given up
  Write("cgroup/system.slice/ferryd.service/memory.max", "268435456\n");
  Write("cgroup/system.slice/ferryd.service/memory.current", "268435456\n");
  EXPECT_EQ(Read()->available_mb, 0u);
}

TEST_F(HostMemoryTest, UnreadableMeminfoIsAnError) {
  Write("proc/meminfo", "nothing\n");
  EXPECT_FALSE(Read().ok());
}

}  // namespace
}  // namespace ferry::vm
