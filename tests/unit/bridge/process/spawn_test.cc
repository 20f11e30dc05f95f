#include "bridge/process/spawn.h"

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "bridge/process/open_files.h"

namespace ferry::bridge {
namespace {

int StatusOf(const std::string& script) {
  SpawnSpec spec;
  spec.command = {"/bin/sh", "-c", script};
  const absl::StatusOr<SpawnedProcess> spawned = SpawnProcess(spec);
  if (!spawned.ok()) return -1;
  int status = 0;
  waitpid(spawned->pid, &status, 0);
  return WEXITSTATUS(status);
}

// Before anything is started: room between the soft and the hard limit.
rlim_t StartWithALowLimit() {
  struct rlimit limit = {};
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, 512);
  setrlimit(RLIMIT_NOFILE, &limit);
  return InheritedOpenFiles().rlim_cur;
}
const rlim_t kInherited = StartWithALowLimit();

TEST(SpawnTest, TheLimitOfOpenFilesIsRaisedForThisProcessAlone) {
  AllowManyOpenFiles();
  struct rlimit own = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &own), 0);
  EXPECT_GT(own.rlim_cur, kInherited);
  EXPECT_EQ(StatusOf(absl::StrCat("test $(ulimit -Sn) = ", kInherited)), 0);
}

}  // namespace
}  // namespace ferry::bridge
