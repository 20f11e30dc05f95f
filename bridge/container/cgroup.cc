#include "bridge/container/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

#include "absl/strings/numbers.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/str_cat.h"
#include "bridge/runtime/unique_fd.h"

namespace ferry::bridge {
namespace {

// "max" and what is no number leave the value as it is.
void ReadNumber(const std::string& text, uint64_t* out) {
  std::istringstream words(text);
  std::string word;
  uint64_t number = 0;
  if (words >> word && absl::SimpleAtoi(word, &number)) *out = number;
}

// The value after `key` in lines of "key value".
uint64_t KeyedNumber(const std::string& text, const char* key) {
  std::istringstream lines(text);
  uint64_t number = 0;
  for (std::string name, value; lines >> name >> value;) {
    if (name == key) ReadNumber(value, &number);
  }
  return number;
}

// A line of io.stat: "8:0 rbytes=1 wbytes=2 rios=3 wios=4 ...".
void ReadDevice(const std::string& line, std::vector<DeviceTraffic>* out) {
  std::istringstream words(line);
  DeviceTraffic device;
  char colon = 0;
  if (!(words >> device.major >> colon >> device.minor) || colon != ':') return;
  for (std::string word; words >> word;) {
    const size_t equals = word.find('=');
    if (equals == std::string::npos) continue;
    const std::string name = word.substr(0, equals);
    const std::string value = word.substr(equals + 1);
    if (name == "rbytes") ReadNumber(value, &device.read_bytes);
    if (name == "wbytes") ReadNumber(value, &device.written_bytes);
    if (name == "rios") ReadNumber(value, &device.reads);
    if (name == "wios") ReadNumber(value, &device.writes);
  }
  out->push_back(device);
}

constexpr uint64_t kNanosecondsPerMicrosecond = 1000;

}  // namespace

ContainerMetrics ParseMetrics(const CgroupTexts& texts) {
  ContainerMetrics metrics;
  ReadNumber(texts.memory_current, &metrics.memory_usage);
  ReadNumber(texts.memory_max, &metrics.memory_limit);
  ReadNumber(texts.memory_peak, &metrics.memory_max);
  metrics.memory_failcnt = KeyedNumber(texts.memory_events, "max");
  metrics.oom_kills = KeyedNumber(texts.memory_events, "oom_kill");
  metrics.memory_anonymous = KeyedNumber(texts.memory_stat, "anon");
  metrics.memory_file = KeyedNumber(texts.memory_stat, "file");
  const auto time = [&texts](const char* key) {
    return KeyedNumber(texts.cpu_stat, key) * kNanosecondsPerMicrosecond;
  };
  metrics.cpu_total = time("usage_usec");
  metrics.cpu_user = time("user_usec");
  metrics.cpu_kernel = time("system_usec");
  metrics.cpu_throttled_time = time("throttled_usec");
  metrics.cpu_periods = KeyedNumber(texts.cpu_stat, "nr_periods");
  metrics.cpu_throttled_periods = KeyedNumber(texts.cpu_stat, "nr_throttled");
  ReadNumber(texts.pids_current, &metrics.pids_current);
  ReadNumber(texts.pids_max, &metrics.pids_limit);
  std::istringstream lines(texts.io_stat);
  for (std::string line; std::getline(lines, line);) ReadDevice(line, &metrics.io);
  return metrics;
}

std::string CgroupTree::ReadFile(std::string_view cgroup, const char* name) const {
  std::ifstream file(StrCat(root_, cgroup, "/", name));
  std::ostringstream text;
  text << file.rdbuf();
  return file ? text.str() : "";
}

absl::Status CgroupTree::WriteFile(std::string_view cgroup, const char* name,
                                   std::string_view text) const {
  const std::string path = StrCat(root_, cgroup, "/", name);
  const UniqueFd file(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (file.valid() &&
      write(file.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size())) {
    return absl::OkStatus();
  }
  return absl::ErrnoToStatus(errno, StrCat("cannot write ", path));
}

absl::StatusOr<ContainerMetrics> CgroupTree::Read(std::string_view cgroup) const {
  const std::string folder = StrCat(root_, cgroup);
  if (access(folder.c_str(), F_OK) != 0) {
    return absl::NotFoundError(StrCat("there is no cgroup ", folder));
  }
  CgroupTexts texts;
  texts.memory_current = ReadFile(cgroup, "memory.current");
  texts.memory_max = ReadFile(cgroup, "memory.max");
  texts.memory_peak = ReadFile(cgroup, "memory.peak");
  texts.memory_stat = ReadFile(cgroup, "memory.stat");
  texts.memory_events = ReadFile(cgroup, "memory.events");
  texts.cpu_stat = ReadFile(cgroup, "cpu.stat");
  texts.pids_current = ReadFile(cgroup, "pids.current");
  texts.pids_max = ReadFile(cgroup, "pids.max");
  texts.io_stat = ReadFile(cgroup, "io.stat");
  return ParseMetrics(texts);
}

absl::Status CgroupTree::LimitMemory(std::string_view cgroup, uint64_t bytes) const {
  RETURN_IF_ERROR(WriteFile("", "cgroup.subtree_control", "+memory"));
  const std::string folder = StrCat(root_, cgroup);
  if (mkdir(folder.c_str(), 0755) != 0 && errno != EEXIST) {
    return absl::ErrnoToStatus(errno, StrCat("cannot make ", folder));
  }
  return WriteFile(cgroup, "memory.max", bytes == 0 ? "max" : StrCat(bytes));
}

}  // namespace ferry::bridge
