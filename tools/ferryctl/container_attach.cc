#include "tools/ferryctl/container_attach.h"

#include "absl/strings/str_cat.h"
#include "tools/ferryctl/container_view.h"
#include "tools/ferryctl/exit_codes.h"
#include "tools/ferryctl/process_exit.h"
#include "tools/ferryctl/terminal.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::ctl {
namespace {

using ContainerAsync = v1::ContainerService::StubInterface::async_interface;

// Why there is no process to attach to.
absl::Status NoProcess(const v1::Container& container) {
  const std::string& name = container.spec().name();
  if (container.state() == v1::CONTAINER_STATE_CREATED) {
    return rpc::ErrorWithReason(
        absl::StatusCode::kFailedPrecondition,
        absl::StrCat("container ", name, " has not been started"), "wrong_state",
        absl::StrCat("Start it and stay attached: ferryctl container start -a ", name));
  }
  if (container.state() != v1::CONTAINER_STATE_STOPPED) {
    return rpc::ErrorWithReason(
        absl::StatusCode::kFailedPrecondition,
        absl::StrCat("container ", name, " is ", ContainerStateName(container.state()),
                     ", but its host does not know its main process"),
        "init_unknown",
        absl::StrCat("Run another process in it: ferryctl exec --container ", name));
  }
  return rpc::ErrorWithReason(
      absl::StatusCode::kFailedPrecondition,
      absl::StrCat("container ", name, " has stopped; what it still had to say was taken, or went ",
                   "with its VM"),
      "wrong_state",
      absl::StrCat("See what is known of it (ferryctl container inspect ", name,
                   "), or remove it: ferryctl container rm ", name));
}

}  // namespace

v1::ContainerRef RefTo(const std::string& container, const std::string& vm) {
  v1::ContainerRef ref;
  ref.set_container(container);
  ref.set_vm(vm);
  return ref;
}

v1::ContainerRef RefAnywhereTo(const v1::Container& container) {
  const std::string& guest_id = container.guest_id();
  return RefTo(guest_id.empty() ? container.id() : guest_id, container.vm_id());
}

Task<absl::StatusOr<v1::Container>> FindContainer(Client* client, v1::ContainerRef ref) {
  co_return co_await rpc::CallUnary(client->containers->async(), &ContainerAsync::GetContainer,
                                    std::move(ref), kCallTimeout);
}

Task<absl::Status> RemoveContainer(Client* client, v1::ContainerRef ref, bool force) {
  v1::RemoveContainerRequest request;
  *request.mutable_ref() = std::move(ref);
  request.set_force(force);
  const absl::StatusOr<v1::RemoveContainerResponse> removed =
      co_await rpc::CallUnary(client->containers->async(), &ContainerAsync::RemoveContainer,
                              std::move(request), kRemovalTimeout);
  co_return removed.status();
}

void AddDetachKeys(CLI::App* sub, AttachWish* wish) {
  const auto parse = [wish](const std::string& text) {
    const absl::StatusOr<DetachKeys> keys = DetachKeys::Parse(text);
    if (!keys.ok()) {
      throw CLI::ValidationError("--detach-keys", std::string(keys.status().message()));
    }
    wish->detach_keys = *keys;
  };
  sub->add_option_function<std::string>("--detach-keys", parse,
                                        "Keys that leave it running (default: ctrl-p,ctrl-q)");
}

void AddAttachWish(CLI::App* sub, AttachWish* wish) {
  sub->add_flag("--steal", wish->steal, "Take it over from whoever is attached");
  AddDetachKeys(sub, wish);
}

Task<int> AttachToContainer(Client* client, v1::Container container, AttachWish wish,
                            std::string* address) {
  if (container.process_id() == 0) {
    const std::string doing = absl::StrCat("attaching to container ", container.spec().name());
    Fail(*client, doing, NoProcess(container));
    co_return kExecFailed;
  }
  AttachConfig config;
  config.address = client->options.host;
  config.tls = client->options.tls;
  config.vm = container.vm_name();
  config.process_id = container.process_id();
  config.started = wish.started;
  config.steal = wish.steal;
  config.detach_keys = wish.detach_keys;
  config.handle_signals = true;
  AttachSession session(client->executor, config);
  const AttachOutcome outcome = co_await session.Run();
  const std::string text = ContainerOutcomeText(outcome, container);
  std::fputs(text.c_str(), stderr);
  if (address != nullptr && outcome.exit_status) *address = outcome.address;
  co_return ExitCodeFor(outcome);
}

bool LacksTerminal(bool interactive, bool terminal, bool detached) {
  if (!interactive || !terminal || detached || IsTerminal(0)) return false;
  std::fputs(
      "Error: -t together with -i needs a terminal, but stdin is not a terminal\n"
      "  Next:     leave -t out to pass on a file or a pipe\n",
      stderr);
  return true;
}

}  // namespace ferry::ctl
