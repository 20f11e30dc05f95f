#include "vmmanager/qemu/mirror_watch.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/qemu/bandwidth_share.h"
#include "vmmanager/qemu/qemu_machine.h"
#include "vmmanager/qemu/rest_watch.h"

namespace ferry::vm {
namespace {

namespace json = boost::json;

constexpr milliseconds kLookPause{500};
// What one write makes a mirror copy again, at least (bdrv_get_default_bitmap_granularity()); an
// image with larger clusters has more, and is slowed down once more for that.
constexpr uint64_t kGrain = uint64_t{64} << 10;
// Their limit is for all disks together.
constexpr char kThrottleGroup[] = "ferry-copies";

absl::Status Hopeless(uint64_t rest, uint64_t write_limit) {
  const std::string limited = write_limit == 0 ? ""
                                               : absl::StrCat(", though it may write no more than ",
                                                              write_limit, " bytes in a second");
  absl::Status status = absl::AbortedError(
      absl::StrCat("the guest writes to its disks as fast as they are copied", limited, ": ", rest,
                   " bytes are left, and have not become less for ",
                   RestWatch::kHopelessFor.count() / 1000, " s"));
  status.SetPayload(kNeverTheSame, absl::Cord());
  return status;
}

Task<absl::Status> ShareAmongUnready(QemuMachine* machine, std::shared_ptr<MirrorJobs> copies,
                                     uint64_t bytes_per_second) {
  const std::vector<std::string> unready = copies->Unready();
  const uint64_t speed = ShareOf(bytes_per_second, unready.size());
  for (const std::string& id : unready) {
    CO_RETURN_IF_ERROR(co_await SetJobSpeed(machine, id, speed));
  }
  co_return absl::OkStatus();
}

// Keeps those that are not ready, which alone can be limited, to what the others leave.
class UnreadyLimit {
 public:
  UnreadyLimit(std::shared_ptr<MirrorJobs> copies, uint64_t bytes_per_second)
      : copies_(std::move(copies)), limit_(bytes_per_second), share_(bytes_per_second) {}

  // As QEMU's block jobs are now; all have been begun.
  Task<absl::Status> Keep(QemuMachine* machine, const json::value* jobs) {
    if (limit_ == 0) co_return absl::OkStatus();
    std::optional<uint64_t> left;
    if (copies_->ready.size() != ready_) {
      ready_ = copies_->ready.size();
      share_.Restart();
      left = share_.given();  // the same as before, for those that are not ready yet
    }
    const CopiedBytes unlimited =
        SumOfJobs(*jobs, [this](const std::string& id) { return copies_->ready.contains(id); });
    if (const auto now = share_.Look(unlimited.done, BandwidthShare::Clock::now())) left = now;
    if (!left) co_return absl::OkStatus();
    co_return co_await ShareAmongUnready(machine, copies_, *left);
  }

 private:
  const std::shared_ptr<MirrorJobs> copies_;
  const uint64_t limit_;
  BandwidthShare share_;
  size_t ready_ = 0;
};

json::object ThrottleOf(std::string device, uint64_t bytes_per_second) {
  // A write of n bytes touches fewer than n and two grains, so half of the limit each for bytes and
  // for writes is all of it at most.
  const auto half = static_cast<int64_t>(bytes_per_second / 2);
  const auto writes = static_cast<int64_t>(bytes_per_second / 2 / (2 * kGrain));
  const bool limited = bytes_per_second > 0;
  return {{"id", std::move(device)},
          {"bps", 0},
          {"bps_rd", 0},
          {"bps_wr", limited ? std::max<int64_t>(1, half) : 0},
          {"iops", 0},
          {"iops_rd", 0},
          {"iops_wr", limited ? std::max<int64_t>(1, writes) : 0},
          {"group", kThrottleGroup}};
}

Task<absl::Status> Throttle(QemuMachine* machine, std::string device, uint64_t bytes_per_second) {
  json::object limits = ThrottleOf(std::move(device), bytes_per_second);
  co_return (co_await machine->Command("block_set_io_throttle", std::move(limits))).status();
}

}  // namespace

Task<bool> KeepWriteLimit(QemuMachine* machine, std::shared_ptr<WriteLimit> limit,
                          CopiedBytes copied) {
  if (limit == nullptr) co_return false;
  const std::optional<uint64_t> wanted =
      limit->Look(copied.done, copied.total, WriteLimit::Clock::now());
  if (!wanted) co_return false;
  const absl::StatusOr<json::value> jobs = co_await machine->Command("query-block-jobs");
  if (!jobs.ok()) co_return false;
  const std::map<DiskPlace, WritableDisk> disks = WritableDisksOf(*machine);
  for (const auto& [place, disk] : disks) {
    const std::string job = CopyJobOf(disk.stem);
    const CopiedBytes its = SumOfJobs(*jobs, [&job](const std::string& id) { return id == job; });
    if (its.total == 0) continue;
    std::string device = disk.stem;
    const absl::Status slowed = co_await Throttle(machine, std::move(device), *wanted);
    // It may suffice all the same, and if not, that is told.
    if (!slowed.ok()) spdlog::warn("{}: {}", machine->id(), slowed.ToString());
  }
  co_return true;
}

Task<absl::Status> LiftWriteLimit(QemuMachine* machine, std::string stem) {
  const absl::Status lifted = co_await Throttle(machine, std::move(stem), 0);
  // What is no device any more has no limit.
  co_return GotNoAnswer(lifted) ? lifted : absl::OkStatus();
}

Task<absl::Status> WatchMirrors(QemuMachine* machine, std::shared_ptr<MirrorJobs> copies,
                                MirrorLimits limits, TellCopied tell) {
  RestWatch watch;
  UnreadyLimit limit(copies, limits.bytes_per_second);
  while (true) {
    co_await Delay(kLookPause);
    const auto answer = co_await machine->Command("query-block-jobs");
    if (!answer.ok()) continue;
    CopiedBytes copied = SumOfJobs(
        *answer, [&copies](const std::string& id) { return copies->states.contains(id); });
    if (copied.total == 0) continue;
    if (limits.writes) copied.write_limit = limits.writes->given();
    if (tell) tell(copied);
    if (!copies->all_begun) continue;
    const json::value& jobs = *answer;
    CO_RETURN_IF_ERROR(co_await limit.Keep(machine, &jobs));
    // What had not become less before may do so now.
    if (co_await KeepWriteLimit(machine, limits.writes, copied)) watch = RestWatch();
    const uint64_t rest = copied.total - std::min(copied.done, copied.total);
    const RestWatch::Verdict verdict = watch.Look(rest, RestWatch::Clock::now());
    if (verdict == RestWatch::Verdict::kLittle) {
      // From here on the memory yields to all of them.
      co_return co_await ShareAmongUnready(machine, copies, limits.bytes_per_second);
    }
    if (verdict == RestWatch::Verdict::kHopeless) {
      co_return Hopeless(rest, copied.write_limit);
    }
  }
}

}  // namespace ferry::vm
