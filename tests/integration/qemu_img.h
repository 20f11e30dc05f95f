#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <vector>

// QEMU's tool for disks that no QEMU has open.
namespace ferry::vm {

// Runs it to its end, and expects that to be a good one.
inline void RunTool(std::vector<std::string> words) {
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t quiet;
  ::posix_spawn_file_actions_init(&quiet);
  ::posix_spawn_file_actions_addopen(&quiet, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  pid_t pid = 0;
  ASSERT_EQ(::posix_spawnp(&pid, argv[0], &quiet, nullptr, argv.data(), environ), 0) << words[0];
  ::posix_spawn_file_actions_destroy(&quiet);
  int status = 0;
  ASSERT_EQ(::waitpid(pid, &status, 0), pid);
  EXPECT_EQ(status, 0) << words[0] << " " << words[1];
}

inline void MakeDisk(const std::string& path, const char* format) {
  RunTool({"qemu-img", "create", "-q", "-f", format, path, "64M"});
}

inline void MakeOverlayDisk(const std::string& path, const std::string& below,
                            const std::string& format) {
  RunTool({"qemu-img", "create", "-q", "-f", "qcow2", "-b", below, "-F", format, path});
}

}  // namespace ferry::vm
