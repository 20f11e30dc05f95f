#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>

#include "ferry/v1/migration.pb.h"

namespace ferry::ctl {

// The flags of `ferryctl migrate` that become a request's options, one for each; what is not given
// stays unset, so that the profile decides.
class MigrateOptions {
 public:
  void AddTo(CLI::App* app);
  // Throws CLI::ValidationError for a value that cannot be read. Ranges are the daemon's affair.
  void Fill(v1::MigrateRequest* request) const;

 private:
  void FillThrottle(v1::MemoryTransferThrottleParams* params) const;

  std::string profile_, timeout_, on_timeout_, downtime_limit_, max_blackout_, max_bandwidth_,
      copy_storage_;
  std::optional<double> throttle_step_;
  std::optional<uint32_t> throttle_min_, throttle_from_pass_, target_passes_, max_passes_;
  std::optional<uint32_t> compress_workers_;
  bool throttle_ = false;
  bool no_throttle_ = false;
  bool checksum_ = false;
  bool trace_ = false;
  bool patient_ = false;
};

}  // namespace ferry::ctl
