#include "guestmanager/guest_connection.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "guestmanager/guest_clock.h"

namespace ferry::guest {
namespace {

struct PendingAnswer {
  explicit PendingAnswer(Executor executor) : done(std::move(executor)) {}
  AsyncEvent done;
  absl::StatusOr<std::string> value = absl::UnknownError("no answer yet");
};

Task<absl::Status> AwaitAnswer(std::shared_ptr<PendingAnswer> answer) {
  co_await answer->done.Wait();
  co_return absl::OkStatus();
}

}  // namespace

struct GuestConnection::Link {
  Link(Executor executor, std::unique_ptr<bridge::Connection> c)
      : connection(std::move(c)), outgoing(executor), negotiation_limit(executor) {}

  void Close() {
    closed = true;
    negotiation_limit.cancel();
    outgoing.Set();
    connection->Close();
  }

  std::unique_ptr<bridge::Connection> connection;
  AsyncEvent outgoing;
  asio::steady_timer negotiation_limit;
  bool closed = false;
};

GuestConnection::GuestConnection(std::shared_ptr<LinkGate> gate, milliseconds rpc_timeout)
    : gate_(std::move(gate)),
      rpc_timeout_(rpc_timeout),
      ready_(gate_->executor),
      clock_mutex_(gate_->executor) {}

absl::Status GuestConnection::Listen() {
  absl::StatusOr<std::unique_ptr<bridge::Listener>> listener =
      gate_->transport.Listen(bridge::kBridgePort);
  if (!listener.ok()) return listener.status();
  listener_ = *std::move(listener);
  Spawn(gate_->executor, AcceptLoop(shared_from_this()));
  return absl::OkStatus();
}

Task<void> GuestConnection::AcceptLoop(std::shared_ptr<GuestConnection> self) {
  std::shared_ptr<bridge::Listener> listener = self->listener_;
  while (self->closed_.ok()) {
    absl::StatusOr<std::unique_ptr<bridge::Connection>> connection = co_await listener->Accept();
    if (!connection.ok()) co_return;
    if (!self->closed_.ok()) {
      (*connection)->Close();
      co_return;
    }
    self->Take(*std::move(connection));
  }
}

void GuestConnection::Take(std::unique_ptr<bridge::Connection> connection) {
  if (link_) Break(link_, absl::UnavailableError("the guest's agent has connected anew"));
  // Whoever has hung up already breaks it in the middle of this.
  const auto link = std::make_shared<Link>(gate_->executor, std::move(connection));
  link_ = link;
  core_.Connected();
  link->negotiation_limit.expires_after(rpc_timeout_);
  link->negotiation_limit.async_wait(
      [weak = weak_from_this(), taken = std::weak_ptr<Link>(link)](boost::system::error_code ec) {
        std::shared_ptr<GuestConnection> self = weak.lock();
        std::shared_ptr<Link> late = taken.lock();
        if (ec || !self || !late) return;
        self->Break(late, absl::DeadlineExceededError("the agent did not negotiate in time"));
      });
  Spawn(gate_->executor, ReadLoop(shared_from_this(), link));
  Spawn(gate_->executor, WriteLoop(shared_from_this(), link));
  Kick();
}

Task<void> GuestConnection::ReadLoop(std::shared_ptr<GuestConnection> self,
                                     std::shared_ptr<Link> link) {
  std::vector<char> buffer(bridge::kMaxFrameSize);
  while (!link->closed) {
    absl::StatusOr<size_t> read = co_await link->connection->Read(buffer);
    // What arrives while frozen is not taken in: the saved state must stay the last word.
    co_await self->gate_->open.Wait();
    if (link->closed) co_return;
    if (!read.ok()) co_return self->Break(link, read.status());
    if (*read == 0) {
      co_return self->Break(link, absl::UnavailableError("the guest's agent hung up"));
    }
    const bool was_ready = self->ready();
    absl::Status status = self->core_.Receive(std::string_view(buffer.data(), *read));
    if (link->closed) co_return;
    if (!status.ok()) co_return self->Break(link, status);
    if (was_ready || !self->ready()) continue;
    self->Negotiated(link);
  }
}

void GuestConnection::Negotiated(const std::shared_ptr<Link>& link) {
  link->negotiation_limit.cancel();
  gate_->resumable_stdio = core_.capabilities().guest_defined.resumable_stdio_supported;
  gate_->capabilities_known.Set();
  ready_.Set();
  if (!still_) Spawn(gate_->executor, SetClock(shared_from_this(), link));
  if (on_ready_) on_ready_();
}

Task<void> GuestConnection::SetClock(std::shared_ptr<GuestConnection> self,
                                     std::shared_ptr<Link> link) {
  const AsyncMutex::Guard one = co_await self->clock_mutex_.Lock();
  if (link->closed) co_return;
  uint64_t turn = 0;
  do {
    turn = self->clock_turn_;
    if (!self->core_.capabilities().guest_defined.clock_supported) continue;
    const AgentCall call = [&self, &link](uint32_t type, std::string text) {
      return self->Ask(type, std::move(text), self->rpc_timeout_, link);
    };
    const absl::Status set = co_await SetGuestClock(call);
    if (link->closed) co_return;
    if (!set.ok()) spdlog::debug("a guest's clock is not set: {}", std::string(set.message()));
  } while (turn != self->clock_turn_ && !self->still_);
  if (!self->still_) self->gate_->clock_set.Set();
}

void GuestConnection::StandsStill() {
  if (!closed_.ok()) return;
  still_ = true;
  ++clock_turn_;
  gate_->clock_set.Reset();
}

void GuestConnection::RunsAgain() {
  still_ = false;
  StoodStill();
}

void GuestConnection::StoodStill() {
  if (!closed_.ok()) return;
  ++clock_turn_;
  gate_->clock_set.Reset();
  if (!still_ && link_ && ready()) Spawn(gate_->executor, SetClock(shared_from_this(), link_));
}

Task<void> GuestConnection::WriteLoop(std::shared_ptr<GuestConnection> self,
                                      std::shared_ptr<Link> link) {
  while (!link->closed) {
    co_await self->gate_->open.Wait();
    if (link->closed) co_return;
    std::optional<std::string> frame = self->core_.TakeFrame();
    if (!frame) {
      link->outgoing.Reset();
      co_await link->outgoing.Wait();
      continue;
    }
    // A frame that was cut by a failure is dropped with its connection, never continued on another.
    absl::Status status = co_await link->connection->Write(*frame);
    if (!status.ok()) co_return self->Break(link, status);
  }
}

void GuestConnection::Break(const std::shared_ptr<Link>& link, const absl::Status& reason) {
  if (link->closed) return;
  link->Close();
  if (link_ != link) return;
  link_.reset();
  ready_.Reset();
  core_.Disconnected(absl::UnavailableError(absl::StrCat(
      "the link to the guest was lost: ", reason.message(), "; the call may be repeated")));
}

void GuestConnection::Kick() {
  if (link_) link_->outgoing.Set();
}

Task<absl::Status> GuestConnection::WaitReady() {
  std::shared_ptr<GuestConnection> self = shared_from_this();
  while (true) {
    if (!closed_.ok()) co_return closed_;
    if (ready()) co_return absl::OkStatus();
    ready_.Reset();
    co_await ready_.Wait();
  }
}

Task<absl::Status> GuestConnection::AwaitClock(milliseconds limit) {
  std::shared_ptr<GuestConnection> self = shared_from_this();
  if (!ready() || gate_->clock_set.is_set()) co_return absl::OkStatus();
  Task<void> clock_set = gate_->clock_set.Wait();
  co_return co_await WithDeadline(limit, "the guest's clock to be set", std::move(clock_set));
}

Task<void> GuestConnection::AwaitClock() {
  std::shared_ptr<GuestConnection> self = shared_from_this();
  if (ready()) co_await gate_->clock_set.Wait();
}

Task<absl::StatusOr<std::string>> GuestConnection::Call(uint32_t type, std::string payload,
                                                        milliseconds limit) {
  std::shared_ptr<GuestConnection> self = shared_from_this();
  const auto begun = std::chrono::steady_clock::now();
  const bool ends_all = type == bridge::kShutdownGraceful || type == bridge::kShutdownForced;
  // What is frozen stands still for as long as this waits.
  if (!ends_all && type != bridge::kThawFilesystems) {
    const absl::Status set = co_await AwaitClock(limit);
    if (!set.ok()) co_return set;
  }
  const auto spent = std::chrono::steady_clock::now() - begun;
  limit -= std::chrono::duration_cast<milliseconds>(spent);
  co_return co_await Ask(type, std::move(payload), std::max(limit, milliseconds(1)), link_);
}

Task<absl::StatusOr<std::string>> GuestConnection::Ask(uint32_t type, std::string payload,
                                                       milliseconds limit,
                                                       std::shared_ptr<Link> on) {
  std::shared_ptr<GuestConnection> self = shared_from_this();
  if (on != link_) co_return absl::UnavailableError("the link to the guest was lost");
  auto answer = std::make_shared<PendingAnswer>(gate_->executor);
  auto complete = [answer](absl::StatusOr<std::string> value) {
    answer->value = std::move(value);
    answer->done.Set();
  };
  absl::StatusOr<int64_t> id =
      core_.Call(type, payload, BridgeClientCore::Kind::kShort, std::move(complete));
  if (!id.ok()) co_return id.status();
  std::weak_ptr<Link> sent_on = std::exchange(on, nullptr);
  Kick();
  absl::Status status = co_await WithDeadline(limit, "the guest's agent", AwaitAnswer(answer));
  if (!status.ok()) {
    // A guest that is paused cannot answer.
    if (std::shared_ptr<Link> link = sent_on.lock(); link && !still_) Break(link, status);
    co_return status;
  }
  co_return std::move(answer->value);
}

int64_t GuestConnection::StartLasting(uint32_t type, const std::string& payload,
                                      BridgeClientCore::Completion completion) {
  absl::StatusOr<int64_t> id =
      core_.Call(type, payload, BridgeClientCore::Kind::kWait, std::move(completion));
  Kick();
  return id.ok() ? *id : 0;
}

bool GuestConnection::Repeat(int64_t id, const std::string& payload) {
  const bool sent = core_.Repeat(id, payload);
  Kick();
  return sent;
}

bool GuestConnection::Send(uint32_t type, const std::string& payload,
                           BridgeClientCore::Completion completion) {
  absl::StatusOr<int64_t> id =
      core_.Call(type, payload, BridgeClientCore::Kind::kShort, std::move(completion));
  Kick();
  return id.ok();
}

bool GuestConnection::Post(uint32_t type, const std::string& payload) {
  return Send(type, payload, [](absl::StatusOr<std::string>) {});
}

void GuestConnection::Close(const absl::Status& reason) {
  if (!closed_.ok()) return;
  closed_ = reason.ok() ? absl::UnavailableError("the guest's connection was closed") : reason;
  if (listener_) listener_->Close();
  if (link_) {
    link_->Close();
    link_.reset();
  }
  core_.Close(closed_);
  ready_.Set();
  gate_->clock_set.Set();
}

}  // namespace ferry::guest
