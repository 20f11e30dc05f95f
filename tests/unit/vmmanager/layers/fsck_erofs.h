#pragma once

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "tests/unit/vmmanager/layers/memory_file.h"

namespace ferry::layers {

// Debian's own check of such images, made by others. Empty if it finds nothing wrong.
inline std::string FsckSays(const std::string& image) {
  const UniqueFd file = MemoryFile(image);
  const UniqueFd said = MemoryFile();
  std::string program = "/usr/bin/fsck.erofs";
  std::string path = absl::StrCat("/proc/", ::getpid(), "/fd/", file.get());
  char* arguments[] = {program.data(), path.data(), nullptr};
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, said.get(), STDOUT_FILENO);
  ::posix_spawn_file_actions_adddup2(&actions, said.get(), STDERR_FILENO);
  pid_t pid = 0;
  int status = ::posix_spawn(&pid, program.c_str(), &actions, nullptr, arguments, environ);
  ::posix_spawn_file_actions_destroy(&actions);
  if (status != 0) return absl::StrCat("cannot run ", program);
  if (::waitpid(pid, &status, 0) != pid || status != 0) {
    return absl::StrCat("fsck.erofs: ", ContentOf(said.get()));
  }
  return "";
}

}  // namespace ferry::layers
