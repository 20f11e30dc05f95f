#include "vmmanager/qemu/host_memory.h"

#include <algorithm>
#include <fstream>
#include <optional>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace ferry::vm {
namespace {

constexpr uint64_t kKibInMib = 1024;
constexpr uint64_t kBytesInMib = 1024 * 1024;

// The number after `name` in a file of lines "name number".
std::optional<uint64_t> NumberAfter(const std::string& path, const std::string& name) {
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line)) {
    std::istringstream words(line);
    std::string word;
    uint64_t number = 0;
    if (words >> word && word == name && words >> number) return number;
  }
  return std::nullopt;
}

// The number in a file that holds nothing else; none for "max".
std::optional<uint64_t> NumberIn(const std::string& path) {
  std::ifstream file(path);
  uint64_t number = 0;
  if (file >> number) return number;
  return std::nullopt;
}

// Our cgroup's path below the root of cgroup v2; empty if there is none.
std::string OwnCgroup(const std::string& proc) {
  std::ifstream file(proc + "/self/cgroup");
  std::string line;
  while (std::getline(file, line)) {
    absl::string_view path = line;
    if (absl::ConsumePrefix(&path, "0::")) return std::string(path);
  }
  return {};
}

// A limit counts for all below it, so each folder on the way down has its say.
void ApplyLimit(const std::string& folder, HostMemory& memory) {
  const std::optional<uint64_t> limit = NumberIn(folder + "/memory.max");
  if (!limit) return;
  const uint64_t used = NumberIn(folder + "/memory.current").value_or(0);
  // What the page cache keeps of files that nobody uses is given up first.
  const uint64_t cache = NumberAfter(folder + "/memory.stat", "inactive_file").value_or(0);
  const uint64_t held = used - std::min(used, cache);
  memory.total_mb = std::min(memory.total_mb, *limit / kBytesInMib);
  memory.available_mb =
      std::min(memory.available_mb, (*limit - std::min(*limit, held)) / kBytesInMib);
}

}  // namespace

absl::StatusOr<HostMemory> ReadHostMemory(const std::string& proc, const std::string& cgroups) {
  const std::string file = proc + "/meminfo";
  const std::optional<uint64_t> total = NumberAfter(file, "MemTotal:");
  const std::optional<uint64_t> available = NumberAfter(file, "MemAvailable:");
  if (!total || !available) {
    return absl::UnavailableError(absl::StrCat(file, " does not tell how much memory there is"));
  }
  HostMemory memory{*total / kKibInMib, *available / kKibInMib};
  const std::string own = OwnCgroup(proc);
  for (size_t end = own.find('/'); end != std::string::npos; end = own.find('/', end + 1)) {
    if (end > 0) ApplyLimit(cgroups + own.substr(0, end), memory);
  }
  if (own.size() > 1) ApplyLimit(cgroups + own, memory);
  return memory;
}

}  // namespace ferry::vm
