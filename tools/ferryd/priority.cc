#include "tools/ferryd/priority.h"

#include <spdlog/spdlog.h>
#include <sys/resource.h>

#include <cerrno>
#include <cstring>

namespace ferry::tools {

int SetNiceness(int niceness) {
  const int former = ::getpriority(PRIO_PROCESS, 0);
  if (former != niceness && ::setpriority(PRIO_PROCESS, 0, niceness) != 0) {
    spdlog::info("ferryd keeps its niceness of {}: {} is not permitted ({})", former, niceness,
                 std::strerror(errno));
  }
  return former;
}

}  // namespace ferry::tools
