#include "bridge/container/sandbox_namespaces.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

namespace ferry::bridge {
namespace {

ino_t Inode(const std::string& path) {
  struct stat info = {};
  return stat(path.c_str(), &info) == 0 ? info.st_ino : 0;
}

TEST(SandboxNamespacesTest, OutliveTheProcessThatTheyWereTakenFrom) {
  const pid_t child = fork();
  if (child == 0) {
    while (true) pause();
  }
  const auto namespaces = SandboxNamespaces::Open(child);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  ASSERT_TRUE(namespaces.ok()) << namespaces.status();
  EXPECT_EQ(Inode(namespaces->paths().network), Inode("/proc/self/ns/net"));
  EXPECT_EQ(Inode(namespaces->paths().ipc), Inode("/proc/self/ns/ipc"));
  EXPECT_EQ(Inode(namespaces->paths().uts), Inode("/proc/self/ns/uts"));
  EXPECT_EQ(Inode(namespaces->paths().pid), Inode("/proc/self/ns/pid"));
  EXPECT_TRUE(absl::IsFailedPrecondition(SandboxNamespaces::Open(child).status()));
}

}  // namespace
}  // namespace ferry::bridge
