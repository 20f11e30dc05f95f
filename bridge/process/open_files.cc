#include "bridge/process/open_files.h"

#include <algorithm>

namespace ferry::bridge {
namespace {

constexpr rlim_t kMany = 65'536;

struct rlimit Current() {
  struct rlimit limit = {};
  getrlimit(RLIMIT_NOFILE, &limit);
  return limit;
}

}  // namespace

const struct rlimit& InheritedOpenFiles() {
  static const struct rlimit limit = Current();
  return limit;
}

void AllowManyOpenFiles() {
  struct rlimit limit = InheritedOpenFiles();
  limit.rlim_cur = std::max(limit.rlim_cur, kMany);
  limit.rlim_max = std::max(limit.rlim_max, limit.rlim_cur);
  if (setrlimit(RLIMIT_NOFILE, &limit) == 0) return;
  // Only a privileged process raises its hard limit.
  limit = InheritedOpenFiles();
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace ferry::bridge
