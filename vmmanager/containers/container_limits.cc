#include "vmmanager/containers/container_limits.h"

#include "absl/strings/str_cat.h"

namespace ferry::vm {
namespace {

namespace json = boost::json;

// Less, and a container's init does not come up.
constexpr uint64_t kMinMemory = uint64_t{6} << 20;
constexpr uint64_t kMaxMemory = uint64_t{1} << 50;
// Below, the kernel refuses the quota: 1 ms in a period.
constexpr uint32_t kMinCpuMillis = 10;
constexpr uint32_t kMaxCpuMillis = 1'000'000;
constexpr uint32_t kMaxPids = 4'194'304;  // the kernel's own bound
constexpr uint64_t kCpuPeriodUs = 100'000;

absl::Status OutOfRange(const char* what, uint64_t value, const std::string& range) {
  return absl::InvalidArgumentError(absl::StrCat(what, " is ", value, "; use ", range));
}

}  // namespace

absl::Status CheckLimits(const v1::ContainerLimits& limits) {
  const uint64_t memory = limits.memory_bytes();
  if (limits.has_memory_bytes() && (memory < kMinMemory || memory > kMaxMemory)) {
    return OutOfRange("the container's memory limit", memory, "at least 6 MiB (6291456 bytes)");
  }
  const uint32_t cpu = limits.cpu_millis();
  if (limits.has_cpu_millis() && (cpu < kMinCpuMillis || cpu > kMaxCpuMillis)) {
    return OutOfRange("the container's CPU limit", cpu,
                      absl::StrCat(kMinCpuMillis, " to ", kMaxCpuMillis, " thousandths of a CPU"));
  }
  if (limits.has_pids() && (limits.pids() == 0 || limits.pids() > kMaxPids)) {
    return OutOfRange("the container's limit of processes", limits.pids(),
                      absl::StrCat("1 to ", kMaxPids));
  }
  return absl::OkStatus();
}

v1::ContainerLimits MergeLimits(const v1::ContainerLimits& limits,
                                const v1::ContainerLimits& changes) {
  v1::ContainerLimits merged = limits;
  merged.MergeFrom(changes);
  return merged;
}

json::object LimitsToResources(const v1::ContainerLimits& limits) {
  json::object resources;
  if (limits.has_memory_bytes()) {
    resources["memory"] = json::object{{"limit", limits.memory_bytes()}};
  }
  if (limits.has_cpu_millis()) {
    resources["cpu"] = json::object{{"quota", limits.cpu_millis() * kCpuPeriodUs / 1000},
                                    {"period", kCpuPeriodUs}};
  }
  if (limits.has_pids()) resources["pids"] = json::object{{"limit", limits.pids()}};
  return resources;
}

}  // namespace ferry::vm
