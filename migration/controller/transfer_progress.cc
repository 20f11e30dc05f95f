#include "migration/controller/transfer_progress.h"

#include <algorithm>

namespace ferry::migration {

v1::Progress ToProgress(const vm::TransferProgress& now, const v1::Progress& before) {
  constexpr uint64_t kFirstPass = 1;
  constexpr uint64_t kMsPerSecond = 1000;
  v1::Progress to;
  to.set_pass(now.pass);
  to.set_transferred_bytes(now.transferred_bytes);
  to.set_remaining_bytes(now.remaining_bytes);
  to.set_total_bytes(now.total_bytes);
  if (now.bytes_per_second > 0 || before.has_bytes_per_second()) {
    to.set_bytes_per_second(now.bytes_per_second);
  }
  if (now.dirty_bytes_per_second > 0 || now.pass > kFirstPass) {
    to.set_dirty_bytes_per_second(now.dirty_bytes_per_second);
  }
  to.set_throttle_percent(now.throttle_percent);
  const bool knows_disks = now.disk_total_bytes > 0;
  to.set_disk_done_bytes(knows_disks ? now.disk_done_bytes : before.disk_done_bytes());
  to.set_disk_total_bytes(knows_disks ? now.disk_total_bytes : before.disk_total_bytes());
  to.set_disk_write_limit(knows_disks ? now.disk_write_limit : before.disk_write_limit());
  if (now.bytes_per_second > 0) {
    constexpr double kMostMs = 1e15;
    const double expected = static_cast<double>(now.remaining_bytes) * kMsPerSecond /
                            static_cast<double>(now.bytes_per_second);
    to.set_expected_blackout_ms(static_cast<uint64_t>(std::min(expected, kMostMs)));
  }
  if (!to.has_bytes_per_second() || !to.has_dirty_bytes_per_second()) return to;
  to.set_converging(now.bytes_per_second > now.dirty_bytes_per_second);
  if (to.converging()) {
    const uint64_t net = now.bytes_per_second - now.dirty_bytes_per_second;
    to.set_eta_ms(now.remaining_bytes * kMsPerSecond / net);
  }
  return to;
}

}  // namespace ferry::migration
