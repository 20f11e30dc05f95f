#include "bridge/mux/mux_link.h"

#include <random>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::bridge {
namespace {

constexpr std::chrono::seconds kHandshakeRetry(1);

uint32_t RandomEpoch() { return std::random_device()(); }

absl::Status ResetByPeer(uint32_t port) {
  return absl::UnavailableError(
      absl::StrCat("the connection on port ", port, " was reset by the peer"));
}

class MuxConnection final : public Connection {
 public:
  MuxConnection(std::shared_ptr<MuxLink> link, std::shared_ptr<MuxStream> stream)
      : link_(std::move(link)), stream_(std::move(stream)) {}
  ~MuxConnection() override { Close(); }

  Task<absl::StatusOr<size_t>> Read(std::span<char> buffer) override {
    std::shared_ptr<MuxLink> link = link_;
    std::shared_ptr<MuxStream> stream = stream_;
    if (buffer.empty()) co_return absl::InvalidArgumentError("reading into an empty buffer");
    for (;;) {
      CO_RETURN_IF_ERROR(stream->state());
      MuxCore::ReadResult result = link->core().Read(stream->id, buffer);
      if (result.size > 0) {
        link->Settle();
        co_return result.size;
      }
      if (result.ended) co_return 0;
      if (result.reset) co_return ResetByPeer(stream->port);
      stream->readable.Reset();
      co_await stream->readable.Wait();
    }
  }

  Task<absl::Status> Write(std::string_view data) override {
    std::shared_ptr<MuxLink> link = link_;
    std::shared_ptr<MuxStream> stream = stream_;
    while (!data.empty()) {
      CO_RETURN_IF_ERROR(stream->state());
      absl::StatusOr<size_t> written = link->core().Write(stream->id, data);
      if (absl::IsNotFound(written.status())) co_return ResetByPeer(stream->port);
      CO_RETURN_IF_ERROR(written.status());
      data.remove_prefix(*written);
      link->Settle();
      if (data.empty()) break;
      stream->writable.Reset();
      co_await stream->writable.Wait();
    }
    co_return absl::OkStatus();
  }

  Task<absl::Status> CloseWrite() override {
    CO_RETURN_IF_ERROR(stream_->state());
    absl::Status status = link_->core().CloseWrite(stream_->id);
    if (absl::IsNotFound(status)) co_return ResetByPeer(stream_->port);
    link_->Settle();
    co_return status;
  }

  void Close() override { link_->CloseStream(*stream_); }

 private:
  std::shared_ptr<MuxLink> link_;
  std::shared_ptr<MuxStream> stream_;
};

}  // namespace

absl::Status MuxStream::state() const {
  if (closed) return absl::CancelledError("the connection was closed by its own side");
  if (gone) {
    return absl::UnavailableError(
        absl::StrCat("the guest link was reset under the connection on port ", port));
  }
  return absl::OkStatus();
}

MuxLink::MuxLink(Executor executor, MuxRole role)
    : executor_(executor),
      role_(role),
      core_(role, RandomEpoch),
      link_changed_(executor),
      retry_timer_(executor) {}

MuxLink::~MuxLink() { DropIo(); }

// ---- the stream below ----

void MuxLink::Attach(UniqueFd stream) {
  if (shut_down_) return;
  Detach();
  absl::StatusOr<std::shared_ptr<LinkIo>> io = LinkIo::Open(executor_, std::move(stream), this);
  if (!io.ok()) {
    if (on_link_lost_) on_link_lost_();
    return;
  }
  io_ = *std::move(io);
  if (paused_) io_->Pause();
  if (role_ == MuxRole::kHost) {
    core_.StartEpoch();
  } else {
    core_.RequestEpoch();
  }
  Settle();
}

void MuxLink::Detach() {
  DropIo();
  core_.LinkGone();
  Dispatch();
}

void MuxLink::Shutdown() {
  if (std::exchange(shut_down_, true)) return;
  Detach();
  retry_timer_.cancel();
  for (auto& [port, queue] : std::exchange(listeners_, {})) queue->Close();
  on_link_lost_ = nullptr;
  link_changed_.Set();
}

void MuxLink::DropIo() {
  if (io_ != nullptr) std::exchange(io_, nullptr)->Close();
}

void MuxLink::Pause() {
  paused_ = true;
  if (io_ != nullptr) io_->Pause();
}

void MuxLink::Resume() {
  paused_ = false;
  if (io_ != nullptr) io_->Resume();
}

void MuxLink::OnBytes(std::string_view bytes) {
  std::shared_ptr<MuxLink> self = shared_from_this();
  core_.Receive(bytes);
  Dispatch();
}

void MuxLink::OnWritten(size_t size) {
  std::shared_ptr<MuxLink> self = shared_from_this();
  core_.ConsumeOutput(size);
  Dispatch();
}

void MuxLink::OnEnd() {
  std::shared_ptr<MuxLink> self = shared_from_this();
  core_.LinkGone();
  if (role_ == MuxRole::kGuest) {
    // The port stays; the request waits in it for the next host.
    core_.RequestEpoch();
    Settle();
    return;
  }
  DropIo();
  Dispatch();
  std::function<void()> on_link_lost = on_link_lost_;
  if (on_link_lost) on_link_lost();
}

void MuxLink::ArmRetry() {
  if (retrying_ || shut_down_ || io_ == nullptr || core_.established()) return;
  retrying_ = true;
  retry_timer_.expires_after(kHandshakeRetry);
  retry_timer_.async_wait([weak = weak_from_this()](const boost::system::error_code& error) {
    std::shared_ptr<MuxLink> self = weak.lock();
    if (error || self == nullptr) return;
    self->retrying_ = false;
    if (self->io_ != nullptr) self->core_.RetryHandshake();
    self->Settle();
  });
}

// ---- events ----

void MuxLink::Settle() {
  Dispatch();
  if (io_ != nullptr && !core_.output().empty()) io_->Kick();
}

void MuxLink::Dispatch() {
  for (;;) {
    std::vector<MuxEvent> events = core_.TakeEvents();
    if (events.empty()) break;
    for (const MuxEvent& event : events) Handle(event);
  }
  ArmRetry();
}

void MuxLink::Handle(const MuxEvent& event) {
  switch (event.kind) {
    case MuxEvent::Kind::kLinkUp:
      ++times_up_;
      link_changed_.Set();
      return;
    case MuxEvent::Kind::kLinkDown:
      return OnLinkDown();
    case MuxEvent::Kind::kIncoming:
      return OnIncoming(event.connection, event.port);
    default:
      break;
  }
  auto it = streams_.find(event.connection);
  if (it == streams_.end()) return;
  MuxStream& stream = *it->second;
  if (event.kind == MuxEvent::Kind::kAccepted) stream.accepted = true;
  if (event.kind == MuxEvent::Kind::kReset && !stream.accepted) stream.refused = true;
  if (event.kind != MuxEvent::Kind::kWritable) stream.readable.Set();
  if (event.kind != MuxEvent::Kind::kReadable) stream.writable.Set();
}

void MuxLink::OnIncoming(uint32_t id, uint32_t port) {
  auto listener = listeners_.find(port);
  if (listener == listeners_.end()) return core_.Close(id);
  std::shared_ptr<MuxStream> stream = AddStream(id, port);
  stream->accepted = true;
  core_.Accept(id);
  // A full queue drops the connection, which resets it.
  listener->second->Push(std::make_unique<MuxConnection>(shared_from_this(), std::move(stream)));
}

void MuxLink::OnLinkDown() {
  for (auto& [id, stream] : std::exchange(streams_, {})) {
    stream->gone = true;
    stream->readable.Set();
    stream->writable.Set();
  }
  for (auto& [port, queue] : listeners_) queue->Clear();
}

std::shared_ptr<MuxStream> MuxLink::AddStream(uint32_t id, uint32_t port) {
  auto stream = std::make_shared<MuxStream>(executor_, id, port);
  streams_[id] = stream;
  return stream;
}

void MuxLink::CloseStream(MuxStream& stream) {
  if (std::exchange(stream.closed, true)) return;
  stream.readable.Set();
  stream.writable.Set();
  if (stream.gone) return;
  core_.Close(stream.id);
  streams_.erase(stream.id);
  Settle();
}

// ---- ports ----

absl::StatusOr<std::unique_ptr<Listener>> MuxLink::Listen(uint32_t port) {
  if (shut_down_) return absl::CancelledError("the guest link was closed by its own side");
  auto [it, added] = listeners_.try_emplace(port);
  if (!added) {
    return absl::AlreadyExistsError(absl::StrCat("port ", port, " is being listened on already"));
  }
  it->second = std::make_shared<AcceptQueue>(executor_);
  auto forget = [weak = weak_from_this(), port] {
    if (std::shared_ptr<MuxLink> self = weak.lock()) self->listeners_.erase(port);
  };
  return std::make_unique<QueueListener>(it->second, forget);
}

Task<absl::StatusOr<std::unique_ptr<Connection>>> MuxLink::Dial(uint32_t port) {
  std::shared_ptr<MuxLink> self = shared_from_this();
  if (shut_down_) co_return absl::CancelledError("the guest link was closed by its own side");
  CO_ASSIGN_OR_RETURN(uint32_t id, core_.Connect(port));
  std::shared_ptr<MuxStream> stream = AddStream(id, port);
  // Takes the dial back if we are cancelled.
  std::unique_ptr<Connection> connection = std::make_unique<MuxConnection>(self, stream);
  Settle();
  while (!stream->accepted && !stream->refused && stream->state().ok()) {
    stream->readable.Reset();
    co_await stream->readable.Wait();
  }
  if (stream->refused) {
    co_return absl::UnavailableError(absl::StrCat("the host refuses port ", port));
  }
  CO_RETURN_IF_ERROR(stream->state());
  co_return connection;
}

Task<uint64_t> MuxLink::WaitForLink(uint64_t seen) {
  std::shared_ptr<MuxLink> self = shared_from_this();
  // After Shutdown() there is none any more; whoever dialled on would find no rest.
  while (!core_.established() || times_up_ == seen) {
    link_changed_.Reset();
    co_await link_changed_.Wait();
  }
  co_return times_up_;
}

}  // namespace ferry::bridge
