#include "migration/connection/session_driver.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::migration {
namespace {

using Clock = std::chrono::steady_clock;

// How long the peer has to take our goodbye.
constexpr std::chrono::seconds kLinger{2};

}  // namespace

SessionDriver::SessionDriver(Executor executor, std::unique_ptr<ByteStream> stream, Role role,
                             const SessionLimits& limits)
    : executor_(executor),
      stream_(std::move(stream)),
      tick_interval_(limits.ping_interval / 4),
      core_(std::make_shared<SessionCore>(role, limits, Clock::now())),
      output_(std::make_shared<AsyncEvent>(executor)),
      messages_(executor),
      received_(executor),
      handshake_(executor),
      closed_(executor),
      tick_timer_(executor),
      rate_timer_(executor),
      linger_timer_(executor) {}

void SessionDriver::Start() {
  Spawn(executor_, ReadLoop(shared_from_this()));
  Spawn(executor_, WriteLoop(shared_from_this()));
  Spawn(executor_, TickLoop(shared_from_this()));
}

Task<absl::Status> SessionDriver::WaitHandshake(Self self) {
  co_await self->handshake_.Wait();
  co_return self->finished_ ? self->closed_status_ : absl::OkStatus();
}

Task<absl::Status> SessionDriver::Greet(HandshakeParams params, milliseconds deadline) {
  core_->SendHello(params);
  output_->Set();
  absl::Status status = co_await WithDeadline(deadline, "the destination's daemon",
                                              WaitHandshake(shared_from_this()));
  if (status.ok() && !core_->established()) {
    status = absl::UnavailableError("the destination closed the session connection at once");
  }
  if (!status.ok()) Finish(status);
  co_return status;
}

Task<absl::StatusOr<Hello>> SessionDriver::ReceiveHello(milliseconds deadline) {
  absl::Status status =
      co_await WithDeadline(deadline, "the source's daemon", WaitHandshake(shared_from_this()));
  if (status.ok() && !hello_) {
    status = absl::UnavailableError("the source closed the session connection at once");
  }
  if (!status.ok()) {
    Finish(status);
    co_return status;
  }
  co_return *hello_;
}

void SessionDriver::Accept(const Hello& hello, const std::string& journal_id) {
  core_->Accept(hello, journal_id);
  output_->Set();
}

void SessionDriver::Refuse(const Refusal& refusal) {
  core_->Refuse(refusal);
  Finish(absl::OkStatus());
}

absl::Status SessionDriver::SendMessage(SessionMessage message) {
  RETURN_IF_ERROR(core_->SendMessage(std::move(message)));
  output_->Set();
  return absl::OkStatus();
}

Task<std::optional<SessionMessage>> SessionDriver::NextMessage() {
  Self self = shared_from_this();
  std::optional<SessionMessage> message = co_await messages_.Pop();
  if (message) core_->MessageTaken(message->bytes.size());
  co_return message;
}

Task<absl::StatusOr<std::chrono::nanoseconds>> SessionDriver::Ping() {
  Self self = shared_from_this();
  if (finished_) co_return absl::UnavailableError("the session connection has ended");
  auto waiter = std::make_shared<PingWaiter>(executor_);
  pings_[core_->SendPing()] = waiter;
  output_->Set();
  co_await waiter->done.Wait();
  if (!waiter->rtt) co_return absl::UnavailableError("the session connection ended during a ping");
  co_return *waiter->rtt;
}

void SessionDriver::SetRateLimit(uint64_t bytes_per_second) {
  core_->SetRateLimit(bytes_per_second, Clock::now());
  rate_timer_.cancel();
  output_->Set();
}

Task<void> SessionDriver::ReadLoop(Self self) {
  absl::Status status = absl::UnavailableError(
      "the other host closed the session connection without a goodbye; its daemon may have died");
  while (true) {
    const std::span<char> space = self->core_->decoder().Space();
    absl::StatusOr<size_t> size = co_await self->stream_->ReadSome(space);
    if (!size.ok()) status = size.status();
    if (!size.ok() || *size == 0) break;
    // After the end only the peer's closing matters.
    if (self->finished_) {
      continue;
    }
    self->core_->Received(*size, Clock::now());
    self->HandleEvents();
  }
  self->Finish(status);
  self->stream_closed_ = true;
  self->stream_->Close();
  self->output_->Set();
  self->linger_timer_.cancel();
  // A session is remembered for longer than its connection is of use.
  self->core_->decoder().Release();
}

bool SessionDriver::HandleEvents() {
  while (!finished_) {
    const Clock::time_point now = Clock::now();
    absl::StatusOr<std::optional<SessionEvent>> event = core_->NextEvent(now);
    if (!event.ok()) {
      Finish(event.status());
      return false;
    }
    if (!event->has_value()) break;
    HandleEvent(*std::move(*event));
  }
  if (core_->HasControlOutput()) output_->Set();
  return !finished_;
}

void SessionDriver::HandleEvent(SessionEvent event) {
  using Kind = SessionEvent::Kind;
  const std::shared_ptr<ChannelRelay> relay = FindRelay(event.channel);
  switch (event.kind) {
    case Kind::kHello:
      hello_ = std::move(event.hello);
      handshake_.Set();
      return;
    case Kind::kEstablished:
      handshake_.Set();
      return;
    case Kind::kOpened:
      unverified_.insert(event.channel);
      AddRelay(event.channel, std::nullopt);
      return;
    case Kind::kData:
      if (relay) relay->OnData(event.data);
      return;
    case Kind::kPeerClosed:
      // The core has compared the digests.
      unverified_.erase(event.channel);
      verified_any_ = true;
      received_.Set();
      NotePeerEnd(relay.get());
      if (relay) relay->OnPeerClosed();
      return;
    case Kind::kReset:
      cut_off_ = cut_off_ || unverified_.contains(event.channel);
      received_.Set();
      NotePeerEnd(relay.get());
      if (relay) relay->Abort();
      relays_.erase(event.channel);
      return;
    case Kind::kCredit:
      output_->Set();
      return;
    case Kind::kMessage:
      messages_.Push(std::move(event.message));
      return;
    case Kind::kPong:
      HandlePong(event);
      return;
    case Kind::kGoodbye:
      Finish(event.status);
      return;
  }
}

void SessionDriver::NotePeerEnd(const ChannelRelay* relay) {
  if (relay == nullptr || !relay->ended_here()) stream_ended_by_peer_ = true;
}

void SessionDriver::HandlePong(const SessionEvent& event) {
  rtt_ = rtt_ ? *rtt_ + (event.rtt - *rtt_) / 8 : event.rtt;
  const auto it = pings_.find(event.id);
  if (it == pings_.end()) return;
  it->second->rtt = event.rtt;
  it->second->done.Set();
  pings_.erase(it);
}

Task<void> SessionDriver::WriteLoop(Self self) {
  while (!self->stream_closed_ && !self->core_->goodbye_written()) {
    const std::optional<OutputFrame> frame = self->core_->NextOutput(Clock::now());
    if (!frame) {
      co_await self->WaitForOutput();
      continue;
    }
    // Keeps the payload's buffer even if the channel ends meanwhile.
    const std::shared_ptr<ChannelRelay> relay = self->FindRelay(frame->bulk_channel);
    const std::string_view header(frame->header.data(), frame->header.size());
    const absl::Status status = co_await self->stream_->Write(header, frame->payload);
    if (!status.ok()) {
      self->Finish(status);
      self->stream_->Close();
      co_return;
    }
    if (self->core_->OutputDone() && relay) relay->OnBufferFree();
    if (!relay) self->SweepRelays();
  }
  self->stream_->ShutdownWrite();
}

Task<void> SessionDriver::WaitForOutput() {
  output_->Reset();
  const auto resume_at = core_->NextBulkTime();
  if (!resume_at) {
    co_await output_->Wait();
    co_return;
  }
  // The rate limit holds bulk back; the timer wakes us through the same event.
  std::weak_ptr<AsyncEvent> output = output_;
  rate_timer_.expires_at(*resume_at);
  rate_timer_.async_wait([output](const boost::system::error_code& ec) {
    const auto event = output.lock();
    if (!ec && event) event->Set();
  });
  co_await output_->Wait();
}

Task<void> SessionDriver::TickLoop(Self self) {
  while (!self->finished_) {
    boost::system::error_code ignored;
    self->tick_timer_.expires_after(self->tick_interval_);
    co_await self->tick_timer_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
    if (self->finished_) co_return;
    const absl::Status status = self->core_->Tick(Clock::now());
    if (!status.ok()) self->Finish(status);
    if (self->core_->HasControlOutput()) self->output_->Set();
  }
}

absl::Status SessionDriver::RelayFromListener(const std::string& path) {
  RETURN_IF_ERROR(CheckUnixPath(path));
  if (finished_) return absl::UnavailableError("the session connection has ended");
  if (acceptor_) return absl::FailedPreconditionError("the session connection listens already");
  const asio::local::stream_protocol::endpoint endpoint(path);
  acceptor_.emplace(executor_);
  boost::system::error_code ec;
  acceptor_->open(endpoint.protocol(), ec);
  if (!ec) ::fcntl(acceptor_->native_handle(), F_SETFD, FD_CLOEXEC);
  if (!ec) acceptor_->bind(endpoint, ec);
  if (!ec) listen_path_ = path;
  // Who may enter the folder may connect: the VMM may be another user, whatever the umask says.
  if (!ec) ::chmod(path.c_str(), 0666);
  if (!ec) acceptor_->listen(asio::socket_base::max_listen_connections, ec);
  if (ec) {
    acceptor_.reset();
    return absl::InternalError(
        absl::StrCat("cannot listen for the VM's migration stream at ", path, ": ", ec.message()));
  }
  Spawn(executor_, AcceptLoop(shared_from_this()));
  return absl::OkStatus();
}

Task<void> SessionDriver::AcceptLoop(Self self) {
  while (!self->finished_) {
    boost::system::error_code ec;
    ChannelRelay::Socket socket(self->executor_);
    co_await self->acceptor_->async_accept(socket, asio::redirect_error(asio::use_awaitable, ec));
    if (self->finished_) co_return;
    if (ec == asio::error::connection_aborted) continue;
    if (ec) {
      self->Finish(absl::ResourceExhaustedError(
          absl::StrCat("accepting the VM's migration stream: ", ec.message())));
      co_return;
    }
    self->SweepRelays();
    // One channel too many: the VMM sees its connection closed and gives up by itself.
    const absl::StatusOr<uint16_t> channel = self->core_->Open();
    if (channel.ok()) self->AddRelay(*channel, std::move(socket));
    self->output_->Set();
  }
}

absl::Status SessionDriver::RelayToPath(const std::string& path) {
  RETURN_IF_ERROR(CheckUnixPath(path));
  if (finished_) return absl::UnavailableError("the session connection has ended");
  relay_path_ = path;
  for (auto& [channel, relay] : relays_) {
    if (!relay->started()) relay->StartByConnecting(path);
  }
  return absl::OkStatus();
}

void SessionDriver::AddRelay(uint16_t channel, std::optional<ChannelRelay::Socket> socket) {
  auto relay = std::make_shared<ChannelRelay>(executor_, channel, core_, output_);
  relays_[channel] = relay;
  channel_ids_.push_back(channel);
  if (socket) {
    relay->Start(*std::move(socket));
  } else if (!relay_path_.empty()) {
    relay->StartByConnecting(relay_path_);
  }
}

std::shared_ptr<ChannelRelay> SessionDriver::FindRelay(uint16_t channel) const {
  const auto it = relays_.find(channel);
  return it == relays_.end() ? nullptr : it->second;
}

void SessionDriver::SweepRelays() {
  std::erase_if(relays_, [](const auto& entry) { return entry.second->finished(); });
}

void SessionDriver::ResetChannels(std::string_view why) {
  for (auto& [channel, relay] : relays_) {
    core_->Reset(channel, why);
    relay->Abort();
  }
  relays_.clear();
  output_->Set();
}

void SessionDriver::CloseLocal() {
  for (auto& [channel, relay] : relays_) relay->Abort();
  relays_.clear();
  boost::system::error_code ignored;
  if (acceptor_) acceptor_->close(ignored);
  if (!listen_path_.empty()) ::unlink(listen_path_.c_str());
}

void SessionDriver::Finish(const absl::Status& status) {
  if (finished_) return;
  finished_ = true;
  closed_status_ = status;
  core_->SayGoodbye(status);
  CloseLocal();
  messages_.Close();
  for (auto& [id, waiter] : pings_) waiter->done.Set();
  pings_.clear();
  handshake_.Set();
  closed_.Set();
  received_.Set();
  output_->Set();
  tick_timer_.cancel();
  rate_timer_.cancel();
  Spawn(executor_, Linger(shared_from_this()));
}

Task<void> SessionDriver::Linger(Self self) {
  if (self->stream_closed_) co_return;
  boost::system::error_code ignored;
  self->linger_timer_.expires_after(kLinger);
  co_await self->linger_timer_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
  self->stream_closed_ = true;
  self->stream_->Close();
  self->output_->Set();
}

Task<absl::Status> SessionDriver::WaitReceived() {
  const Self keep = shared_from_this();
  while (!cut_off_ && (!verified_any_ || !unverified_.empty())) {
    if (finished_) {
      if (!closed_status_.ok()) co_return closed_status_;
      co_return absl::AbortedError("the connection ended before the whole stream had arrived");
    }
    received_.Reset();
    co_await received_.Wait();
  }
  if (cut_off_) co_return absl::AbortedError("the stream was cut off before its end");
  co_return absl::OkStatus();
}

Task<absl::Status> SessionDriver::WaitClosed() {
  Self self = shared_from_this();
  co_await closed_.Wait();
  co_return closed_status_;
}

}  // namespace ferry::migration
