#include "bridge/transport/vsock.h"

#include <sys/socket.h>

#include <boost/asio/error.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/async.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/transport/queue_listener.h"

namespace ferry::bridge {
namespace {

using WaitType = asio::posix::descriptor_base::wait_type;

constexpr milliseconds kRedialDelay(5);
constexpr milliseconds kExhaustedDelay(100);

}  // namespace

// ---- the registry ----

struct VsockPortRegistry::Port {
  Port(Executor executor, UniqueFd listener)
      : descriptor(std::move(executor), listener.Release()) {}

  asio::posix::stream_descriptor descriptor;
  std::map<uint32_t, Receiver> receivers;  // by context id
};

VsockPortRegistry::VsockPortRegistry(Executor executor, std::shared_ptr<VsockSockets> sockets)
    : executor_(std::move(executor)), sockets_(std::move(sockets)) {}

absl::StatusOr<std::unique_ptr<VsockHostTransport>> VsockPortRegistry::MakeTransport(uint32_t cid) {
  if (!transports_.insert(cid).second) {
    return absl::AlreadyExistsError(absl::StrCat("context id ", cid, " is in use already"));
  }
  return std::make_unique<VsockHostTransport>(executor_, shared_from_this(), cid);
}

absl::Status VsockPortRegistry::Register(uint32_t cid, uint32_t port, Receiver receiver) {
  auto it = ports_.find(port);
  if (it == ports_.end()) {
    ASSIGN_OR_RETURN(UniqueFd listener, sockets_->Listen(port));
    it = ports_.emplace(port, std::make_shared<Port>(executor_, std::move(listener))).first;
    Spawn(executor_, AcceptLoop(it->second, sockets_));
  }
  if (!it->second->receivers.try_emplace(cid, std::move(receiver)).second) {
    return absl::AlreadyExistsError(
        absl::StrCat("port ", port, " of context id ", cid, " is being listened on already"));
  }
  return absl::OkStatus();
}

void VsockPortRegistry::Unregister(uint32_t cid, uint32_t port) {
  auto it = ports_.find(port);
  if (it == ports_.end()) return;
  it->second->receivers.erase(cid);
  if (!it->second->receivers.empty()) return;
  boost::system::error_code ignored;
  it->second->descriptor.close(ignored);
  ports_.erase(it);
}

Task<void> VsockPortRegistry::AcceptLoop(std::shared_ptr<Port> port,
                                         std::shared_ptr<VsockSockets> sockets) {
  while (port->descriptor.is_open()) {
    absl::StatusOr<std::optional<VsockSockets::Accepted>> accepted =
        sockets->Accept(port->descriptor.native_handle());
    if (accepted.ok() && accepted->has_value()) {
      VsockSockets::Accepted& connection = **accepted;
      auto receiver = port->receivers.find(connection.peer_cid);
      if (receiver == port->receivers.end()) continue;
      Receiver receive = receiver->second;
      receive(std::move(connection.socket));
      continue;
    }
    if (!accepted.ok()) {
      // The connection stays in the backlog until descriptors are free; waiting for the listener
      // to be readable would return at once.
      co_await Delay(kExhaustedDelay);
      continue;
    }
    boost::system::error_code error;
    co_await port->descriptor.async_wait(WaitType::wait_read,
                                         asio::redirect_error(asio::use_awaitable, error));
  }
}

// ---- the host's end ----

struct VsockHostTransport::State {
  State(Executor executor_in, std::shared_ptr<VsockPortRegistry> registry_in, uint32_t cid_in)
      : executor(executor_in),
        registry(std::move(registry_in)),
        cid(cid_in),
        gate(std::make_shared<ReadGate>(executor_in)) {}

  std::unique_ptr<Connection> Adopt(UniqueFd socket) {
    auto connection = std::make_unique<StreamSocketConnection>(executor, std::move(socket), gate);
    std::erase_if(sockets, [](const auto& weak) { return weak.expired(); });
    sockets.push_back(connection->socket());
    return connection;
  }

  Executor executor;
  std::shared_ptr<VsockPortRegistry> registry;
  const uint32_t cid;
  std::shared_ptr<ReadGate> gate;
  std::vector<std::weak_ptr<StreamSocket>> sockets;
  std::map<uint32_t, std::shared_ptr<AcceptQueue>> queues;
  bool closed = false;
};

VsockHostTransport::VsockHostTransport(Executor executor,
                                       std::shared_ptr<VsockPortRegistry> registry, uint32_t cid)
    : state_(std::make_shared<State>(std::move(executor), std::move(registry), cid)) {}

VsockHostTransport::~VsockHostTransport() { Close(); }

absl::StatusOr<std::unique_ptr<Listener>> VsockHostTransport::Listen(uint32_t port) {
  if (state_->closed) return absl::CancelledError("the guest link was closed by its own side");
  auto queue = std::make_shared<AcceptQueue>(state_->executor);
  auto receive = [weak = std::weak_ptr<State>(state_), queue](UniqueFd socket) {
    std::shared_ptr<State> state = weak.lock();
    return state != nullptr && queue->Push(state->Adopt(std::move(socket)));
  };
  RETURN_IF_ERROR(state_->registry->Register(state_->cid, port, receive));
  state_->queues[port] = queue;
  auto forget = [weak = std::weak_ptr<State>(state_), port] {
    std::shared_ptr<State> state = weak.lock();
    if (state == nullptr || state->queues.erase(port) == 0) return;
    state->registry->Unregister(state->cid, port);
  };
  return std::make_unique<QueueListener>(std::move(queue), forget);
}

void VsockHostTransport::PauseReading() { state_->gate->Pause(); }

void VsockHostTransport::ResumeReading() { state_->gate->Resume(); }

void VsockHostTransport::Close() {
  if (std::exchange(state_->closed, true)) return;
  for (auto& [port, queue] : std::exchange(state_->queues, {})) {
    state_->registry->Unregister(state_->cid, port);
    queue->Close();
  }
  for (const std::weak_ptr<StreamSocket>& weak : std::exchange(state_->sockets, {})) {
    if (std::shared_ptr<StreamSocket> socket = weak.lock()) CloseStreamSocket(*socket);
  }
  state_->gate->Resume();
  state_->registry->ForgetTransport(state_->cid);
}

// ---- the guest's end ----

VsockGuestTransport::VsockGuestTransport(Executor executor, std::shared_ptr<VsockSockets> sockets)
    : executor_(std::move(executor)), sockets_(std::move(sockets)) {}

Task<absl::StatusOr<std::unique_ptr<Connection>>> VsockGuestTransport::Dial(uint32_t port) {
  Executor executor = executor_;
  CO_ASSIGN_OR_RETURN(UniqueFd socket, sockets_->StartConnect(kVsockHostCid, port));
  int error = 0;
  {
    asio::posix::stream_descriptor descriptor(executor, socket.Release());
    co_await descriptor.async_wait(WaitType::wait_write, asio::use_awaitable);
    socket.Reset(descriptor.release());
  }
  socklen_t size = sizeof(error);
  ::getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &size);
  if (error != 0) {
    co_return absl::UnavailableError(
        absl::StrCat("the host refuses port ", port, ": ", std::strerror(error)));
  }
  co_return std::make_unique<StreamSocketConnection>(executor, std::move(socket));
}

Task<uint64_t> VsockGuestTransport::WaitForLink(uint64_t seen) {
  co_await Delay(kRedialDelay);
  co_return seen + 1;
}

}  // namespace ferry::bridge
