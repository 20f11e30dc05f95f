// What the options and the caller's time limit make of a transfer that does not go as wished.
#include <spdlog/spdlog.h>

#include <cmath>

#include "absl/strings/str_cat.h"
#include "migration/controller/source_session.h"
#include "migration/controller/transfer_progress.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::migration {
namespace {

constexpr char kTooLongABlackout[] = "blackout_threshold_exceeded";

}  // namespace

Task<void> SourceSession::CallOffByLimit(std::weak_ptr<SourceSession> weak, std::string why,
                                         std::string word) {
  Self session = weak.lock();
  if (session == nullptr || session->commit_started_ || session->info_.done()) co_return;
  spdlog::warn("session {}: {}", session->id(), why);
  EndReason reason = CalledOff(session->origin(), why);
  reason.word = std::move(word);
  absl::Status called_off = co_await session->CancelBecause(std::move(reason));
  if (!called_off.ok()) spdlog::warn("session {}: {}", session->id(), called_off.ToString());
}

void SourceSession::LimitTime(milliseconds limit, v1::TimeoutAction action) {
  if (limit.count() == 0) return;
  auto on_over = [weak = std::weak_ptr<SourceSession>(self()), limit, action] {
    return OnTimeLimit(weak, limit, action);
  };
  time_limit_ = std::make_unique<TimeLimit>(deps_.executor(), limit, std::move(on_over));
}

Task<void> SourceSession::OnTimeLimit(std::weak_ptr<SourceSession> weak, milliseconds limit,
                                      v1::TimeoutAction action) {
  Self session = weak.lock();
  // Once the guest is stopped for the switchover, the end is near and has limits of its own.
  if (session == nullptr || session->info_.done() || session->stopped_at_ != Clock::time_point()) {
    co_return;
  }
  if (action == v1::TIMEOUT_ACTION_PAUSE || action == v1::TIMEOUT_ACTION_FORCE) {
    spdlog::info("session {}: takes longer than {} ms; its switchover is forced", session->id(),
                 limit.count());
    session->force_ = action == v1::TIMEOUT_ACTION_PAUSE ? vm::SwitchoverForce::kPauseGuest
                                                         : vm::SwitchoverForce::kLiftLimits;
    // Else it waits for that.
    if (session->memory_moves_) co_await ForceSwitchover(session, *session->force_);
    co_return;
  }
  std::string why = absl::StrCat("took longer than its limit of ", limit.count(), " ms");
  if (session->sends_disks_) {
    why +=
        "; its disks were not copied yet, which takes for ever if the guest writes to them faster "
        "than they are sent: give it longer, or pause it first";
  }
  co_await CallOffByLimit(weak, std::move(why), "timed_out");
}

// The VMM takes the request only once memory moves.
Task<void> SourceSession::ForceSwitchover(Self self, vm::SwitchoverForce how) {
  if (self->transfer_ended_.is_set()) co_return;
  std::shared_ptr<vm::ComputeSystem> system = self->vm_->system();
  if (system == nullptr) co_return;
  absl::Status forced = co_await system->ForceSwitchover(how);
  if (!forced.ok()) {
    spdlog::warn("session {}: {}", self->id(), forced.ToString());
    co_return;
  }
  self->info_.mutable_statistics()->set_switchover_forced(true);
}

void SourceSession::OnBlackout(Clock::time_point when) {
  stopped_at_ = when;
  const auto threshold = schema::BlackoutThresholdMs(options_);
  if (!threshold || blackout_limit_ != nullptr) return;
  auto on_over = [weak = std::weak_ptr<SourceSession>(self()), threshold] {
    std::string why = absl::StrCat("the blackout took longer than its threshold of ", *threshold,
                                   " ms, so the VM runs on here");
    return CallOffByLimit(weak, std::move(why), kTooLongABlackout);
  };
  blackout_limit_ =
      std::make_unique<TimeLimit>(deps_.executor(), milliseconds(*threshold), std::move(on_over));
}

absl::Status SourceSession::CheckRest(const vm::TransferProgress& rest) {
  const v1::Progress progress = ToProgress(rest, info_.progress());
  const auto threshold = schema::BlackoutThresholdMs(options_);
  if (!threshold || progress.expected_blackout_ms() <= *threshold) return absl::OkStatus();
  EndReason why = CalledOff(
      origin(),
      absl::StrCat("the blackout would take about ", progress.expected_blackout_ms(),
                   " ms, more than its threshold of ", *threshold, " ms, so the VM runs on here"));
  why.word = kTooLongABlackout;
  Conclude(why);
  return rpc::ErrorWithReason(absl::StatusCode::kCancelled, why.message, why.word);
}

void SourceSession::TraceProgress(const vm::TransferProgress& progress) {
  if (!trace_) return;
  const auto now = Clock::now();
  trace_->Enter(SessionTrace::Row::kMemory, absl::StrCat("pass ", progress.pass), now);
  trace_->Counters("remaining bytes", now, {{"bytes", progress.remaining_bytes}});
  trace_->Counters("rates", now,
                   {{"sent_bytes_per_second", progress.bytes_per_second},
                    {"dirtied_bytes_per_second", progress.dirty_bytes_per_second}});
  trace_->Counters("throttle", now, {{"percent", progress.throttle_percent}});
}

}  // namespace ferry::migration
