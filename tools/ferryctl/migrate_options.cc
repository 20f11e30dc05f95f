#include "tools/ferryctl/migrate_options.h"

#include <map>

#include "tools/ferryctl/units.h"

namespace ferry::ctl {
namespace {

const std::map<std::string, v1::MigrationProfile> kProfiles = {
    {"gentle", v1::MIGRATION_PROFILE_GENTLE},
    {"balanced", v1::MIGRATION_PROFILE_BALANCED},
    {"must-finish", v1::MIGRATION_PROFILE_MUST_FINISH}};
const std::map<std::string, v1::TimeoutAction> kActions = {{"cancel", v1::TIMEOUT_ACTION_CANCEL},
                                                           {"pause", v1::TIMEOUT_ACTION_PAUSE},
                                                           {"force", v1::TIMEOUT_ACTION_FORCE}};
const std::map<std::string, v1::CopyStorage> kCopies = {
    {"all", v1::COPY_STORAGE_ALL}, {"top", v1::COPY_STORAGE_TOP}, {"none", v1::COPY_STORAGE_NONE}};

uint32_t Duration(const char* flag, const std::string& text) {
  const absl::StatusOr<uint32_t> ms = ParseDurationMs(text);
  if (!ms.ok()) throw CLI::ValidationError(flag, std::string(ms.status().message()));
  return *ms;
}

}  // namespace

void MigrateOptions::AddTo(CLI::App* app) {
  app->add_option("--profile", profile_, "What matters more: the guest's speed, or an end")
      ->check(CLI::IsMember({"gentle", "balanced", "must-finish"}));
  app->add_option("--timeout", timeout_, "How long it may take; 0ms: the profile's limit");
  app->add_option("--on-timeout", on_timeout_, "What happens then (default: cancel)")
      ->check(CLI::IsMember({"cancel", "pause", "force"}));
  app->add_option("--downtime-limit", downtime_limit_, "How long the switch should take");
  app->add_option("--max-blackout", max_blackout_, "Call it off if the switch takes longer");
  app->add_option("--copy-storage", copy_storage_,
                  "Disks to copy (default: those that the destination does not see)")
      ->check(CLI::IsMember({"all", "top", "none"}));
  app->add_option("--max-bandwidth", max_bandwidth_, "Bytes per second; 0: no limit");
  CLI::Option* throttle = app->add_flag("--throttle", throttle_, "Slow a busy guest down");
  app->add_flag("--no-throttle", no_throttle_, "Never slow the guest down")->excludes(throttle);
  app->add_option("--throttle-min", throttle_min_, "By how many percent at first");
  app->add_option("--throttle-step", throttle_step_, "By how many percent more each time");
  app->add_option("--throttle-from-pass", throttle_from_pass_, "Not before this pass");
  app->add_option("--target-passes", target_passes_, "Passes over the memory before the switch");
  app->add_option("--max-passes", max_passes_, "After so many passes the switch is forced");
  app->add_option("--compress-workers", compress_workers_, "Compress the memory with so many");
  app->add_flag("--checksum", checksum_, "Switch only if both hosts have the same digest");
  app->add_flag("--trace", trace_, "Keep a timeline; see ferryctl migration trace");
  app->add_flag("--patient", patient_, "Wait longer for the other host at each step");
}

void MigrateOptions::FillThrottle(v1::MemoryTransferThrottleParams* params) const {
  if (throttle_ || no_throttle_) params->set_skip_throttling(no_throttle_);
  if (throttle_step_) params->set_throttling_scale(*throttle_step_);
  if (throttle_min_) params->set_minimum_throttle_percentage(*throttle_min_);
  if (throttle_from_pass_) {
    params->set_starting_brownout_pass_number_for_throttling(*throttle_from_pass_);
  }
  if (target_passes_) params->set_target_number_of_brownout_transfer_passes(*target_passes_);
  if (max_passes_) params->set_maximum_number_of_brownout_transfer_passes(*max_passes_);
  if (!downtime_limit_.empty()) {
    params->set_target_blackout_transfer_time(Duration("--downtime-limit", downtime_limit_));
  }
  if (!max_blackout_.empty()) {
    params->set_blackout_time_threshold_for_cancelling_migration(
        Duration("--max-blackout", max_blackout_));
  }
}

void MigrateOptions::Fill(v1::MigrateRequest* request) const {
  if (!profile_.empty()) request->set_profile(kProfiles.at(profile_));
  if (!timeout_.empty()) request->set_timeout_ms(Duration("--timeout", timeout_));
  if (!on_timeout_.empty()) request->set_on_timeout(kActions.at(on_timeout_));
  v1::InitializeOptions* options = request->mutable_options();
  FillThrottle(options->mutable_memory_transfer_throttle_params());
  options->set_cancel_if_blackout_threshold_exceeds(!max_blackout_.empty());
  if (!max_bandwidth_.empty()) {
    const absl::StatusOr<uint64_t> bandwidth = ParseSize(max_bandwidth_);
    if (!bandwidth.ok()) {
      throw CLI::ValidationError("--max-bandwidth", std::string(bandwidth.status().message()));
    }
    options->set_max_bandwidth(*bandwidth);
  }
  if (!copy_storage_.empty()) options->set_copy_storage(kCopies.at(copy_storage_));
  if (compress_workers_) {
    options->mutable_compression_settings()->set_throttle_worker_count(*compress_workers_);
  }
  options->set_checksum_verification(checksum_);
  options->set_perf_tracing_enabled(trace_);
  options->set_prepare_memory_transfer_mode(patient_);
}

}  // namespace ferry::ctl
