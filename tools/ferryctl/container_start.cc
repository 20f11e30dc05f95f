#include "tools/ferryctl/container_start.h"

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "tools/ferryctl/container_attach.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::ctl {
namespace {

using ContainerAsync = v1::ContainerService::StubInterface::async_interface;

// Hosts that send whoever asks from one to the other are at odds with each other.
constexpr int kMostMoves = 16;

Task<absl::StatusOr<v1::Container>> StartAt(Client* client, v1::ContainerRef ref) {
  co_return co_await rpc::CallUnary(client->containers->async(), &ContainerAsync::StartContainer,
                                    std::move(ref), kLongTimeout);
}

absl::Status NotFollowed(const std::string& host, const absl::Status& why) {
  const std::string text = absl::StrCat("its VM moved to ", host, " meanwhile, and that host does ",
                                        "not answer for it: ", why.message());
  const absl::Status moved = rpc::ErrorOfMove(absl::StatusCode::kFailedPrecondition, text, host);
  v1::ErrorInfo info = *rpc::GetErrorInfo(moved);
  info.set_next_step(
      absl::StrCat("See what became of it: ferryctl --host ", host, " container list -a"));
  return rpc::WithErrorInfo(moved, info);
}

// Of a start that came along with its VM. It may be over by now, and then the init's output and
// status wait there. `known`: the host has the container, or knows who does.
Task<absl::StatusOr<v1::Container>> StartThere(Client* there, v1::ContainerRef ref, bool* known) {
  CO_RETURN_IF_ERROR(there->Connect());
  const absl::StatusOr<v1::Container> started = co_await StartAt(there, ref);
  *known = started.ok() || !rpc::MovedTo(started.status()).empty();
  if (*known) co_return started;
  const absl::StatusOr<v1::Container> found = co_await FindContainer(there, std::move(ref));
  *known = found.ok();
  const bool began = found.ok() && found->state() != v1::CONTAINER_STATE_CREATED;
  if (began && found->process_id() != 0) co_return found;
  co_return started;
}

}  // namespace

Task<StartedContainer> StartAndFollow(Client* client, v1::Container container) {
  StartedContainer start;
  const v1::ContainerRef ref = RefAnywhereTo(container);
  start.container = co_await StartAt(client, ref);
  GlobalOptions options = client->options;
  for (int moves = 0; moves < kMostMoves && !start.lost; ++moves) {
    options.host = rpc::MovedTo(start.container.status());
    if (options.host.empty()) co_return start;
    start.there = std::make_shared<Client>(client->executor, options);
    bool known = false;
    start.container = co_await StartThere(start.there.get(), ref, &known);
    start.lost = !known;
  }
  start.lost = !start.container.ok();
  if (start.lost) start.container = NotFollowed(options.host, start.container.status());
  co_return start;
}

}  // namespace ferry::ctl
