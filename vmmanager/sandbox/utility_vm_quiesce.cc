// The part of UtilityVm that has its guest freeze its filesystems.
#include <spdlog/spdlog.h>

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "guestmanager/guest_filesystems.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/sandbox/agent_wait.h"
#include "vmmanager/sandbox/utility_vm.h"

namespace ferry::vm {
namespace {

constexpr char kWithout[] = "Take it without --quiesce, or";

// Whoever leaves without an answer that says that they are thawed, has them thawed all the same.
class ThawOnExit {
 public:
  explicit ThawOnExit(std::shared_ptr<guest::Guest> guest) : guest_(std::move(guest)) {}
  ThawOnExit(const ThawOnExit&) = delete;
  ThawOnExit& operator=(const ThawOnExit&) = delete;
  ~ThawOnExit() {
    if (guest_ != nullptr) guest_->filesystems().ThawSoon();
  }
  void Dismiss() { guest_ = nullptr; }

 private:
  std::shared_ptr<guest::Guest> guest_;
};

}  // namespace

Task<absl::Status> UtilityVm::CheckCanQuiesce() {
  using asio::experimental::awaitable_operators::operator||;
  std::shared_ptr<guest::Guest> guest = guest_;
  if (phase_ != Phase::kUp || paused_ || guest == nullptr) co_return Refuse("quiesced");
  const milliseconds limit = deps_.settings.agent_wait;
  const std::function<bool()> stays = [this] {
    return !detached_ && !called_off() && system_ != nullptr;
  };
  auto first = co_await (WithDeadline(limit, "the guest's agent", guest->WaitReady()) ||
                         AwaitWhile(stays, kAsLongAsItTakes));
  CO_RETURN_IF_ERROR(CheckHere());
  if (first.index() != 0 && called_off()) co_return CalledOff("taken a checkpoint of");
  if (first.index() != 0) co_return absl::AbortedError("its VMM ended");
  const absl::Status ready = std::get<0>(std::move(first));
  if (absl::IsDeadlineExceeded(ready)) {
    co_return AgentAway(*this, absl::StrCat("is not connected and did not come back within ",
                                            limit.count(), " ms"));
  }
  CO_RETURN_IF_ERROR(ready);
  const absl::Status supported = guest->filesystems().CheckSupported();
  if (!absl::IsUnimplemented(supported)) co_return supported;
  co_return rpc::ErrorWithReason(
      absl::StatusCode::kFailedPrecondition,
      absl::StrCat("the filesystems of VM ", row_.name, " cannot be frozen: ", supported.message()),
      "agent_cannot_quiesce",
      absl::StrCat(kWithout, " restart the VM with a newer guest image: ferryctl restart ",
                   row_.name));
}

Task<absl::Status> UtilityVm::FreezeFilesystems() {
  using asio::experimental::awaitable_operators::operator||;
  std::shared_ptr<guest::Guest> guest = guest_;
  if (guest == nullptr) co_return absl::AbortedError("its VMM ended");
  // It may be at it for somebody who does not wait any more.
  ThawOnExit unless_frozen(guest);
  const std::function<bool()> stays = [this] {
    return !detached_ && !called_off() && system_ != nullptr;
  };
  auto first = co_await (guest->filesystems().Freeze(deps_.settings.quiesce_limit) ||
                         AwaitWhile(stays, kAsLongAsItTakes));
  absl::Status frozen = absl::AbortedError("its VMM ended");
  size_t count = 0;
  if (first.index() == 0) {
    frozen = std::get<0>(first).status();
    count = frozen.ok() ? *std::get<0>(first) : 0;
  } else if (called_off()) {
    frozen = CalledOff("taken a checkpoint of");
  }
  CO_RETURN_IF_ERROR(CheckHere());
  if (frozen.ok()) {
    unless_frozen.Dismiss();
    deps_.events.Publish("vm.filesystems_frozen", row_.id,
                         {{"name", row_.name}, {"filesystems", absl::StrCat(count)}});
    Reached("CHECKPOINT.frozen");
    co_return absl::OkStatus();
  }
  if (first.index() != 0) co_return frozen;
  co_return rpc::ErrorWithReason(
      frozen.code(), absl::StrCat("its filesystems were not frozen: ", frozen.message()),
      "guest_not_frozen",
      absl::StrCat(kWithout, " see in the guest what keeps them from that: ferryctl exec ",
                   row_.name, " -- cat /proc/mounts"));
}

Task<absl::Status> UtilityVm::ThawFilesystems() {
  using asio::experimental::awaitable_operators::operator||;
  std::shared_ptr<guest::Guest> guest = guest_;
  ThawOnExit unless_thawed(guest);
  CO_RETURN_IF_ERROR(CheckHere());
  if (guest == nullptr || system_ == nullptr) co_return absl::AbortedError("its VMM ended");
  const std::function<bool()> stays = [this] {
    return !detached_ && !called_off() && system_ != nullptr;
  };
  auto first = co_await (guest->filesystems().Thaw(deps_.settings.quiesce_limit) ||
                         AwaitWhile(stays, kAsLongAsItTakes));
  CO_RETURN_IF_ERROR(CheckHere());
  if (first.index() != 0 && called_off()) co_return CalledOff("taken a checkpoint of");
  if (first.index() != 0) co_return absl::AbortedError("its VMM ended");
  const absl::Status held = std::get<0>(std::move(first));
  deps_.events.Publish("vm.filesystems_thawed", row_.id,
                       {{"name", row_.name}, {"error", std::string(held.message())}});
  Reached("CHECKPOINT.thawed");
  if (held.ok()) {
    unless_thawed.Dismiss();
    co_return held;
  }
  spdlog::warn("vm {}: {}", row_.name, held.ToString());
  co_return rpc::ErrorWithReason(
      held.code(), absl::StrCat("its filesystems did not stay frozen: ", held.message()),
      "guest_not_frozen", "Try again, or take it without --quiesce.");
}

}  // namespace ferry::vm
