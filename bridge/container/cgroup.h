#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/protocol/container_messages.h"

namespace ferry::bridge {

// The texts of a cgroup's files (cgroup v2); a file that is not there is empty.
struct CgroupTexts {
  std::string memory_current;
  std::string memory_max;
  std::string memory_peak;
  std::string memory_stat;
  std::string memory_events;
  std::string cpu_stat;
  std::string pids_current;
  std::string pids_max;
  std::string io_stat;
};

// Pure: what is missing or not understood stays 0, or without a limit.
ContainerMetrics ParseMetrics(const CgroupTexts& texts);

// The cgroup v2 tree at `root`, usually /sys/fs/cgroup.
class CgroupTree {
 public:
  explicit CgroupTree(std::string root) : root_(std::move(root)) {}

  // NOT_FOUND if there is no such cgroup.
  absl::StatusOr<ContainerMetrics> Read(std::string_view cgroup) const;

  // Limits the memory of a cgroup of processes' cgroups; makes it if it is not there. 0: no limit.
  absl::Status LimitMemory(std::string_view cgroup, uint64_t bytes) const;

 private:
  std::string ReadFile(std::string_view cgroup, const char* name) const;
  absl::Status WriteFile(std::string_view cgroup, const char* name, std::string_view text) const;

  std::string root_;
};

}  // namespace ferry::bridge
