#include "guestmanager/guest_log.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <optional>
#include <utility>

namespace ferry::guest {

milliseconds LogAllowance::Wait(std::chrono::steady_clock::time_point now) {
  if (now - began_ >= kPeriod) {
    began_ = now;
    taken_ = 0;
  }
  if (taken_ < lines_) return milliseconds(0);
  return std::chrono::ceil<milliseconds>(began_ + kPeriod - now);
}

GuestLog::GuestLog(std::shared_ptr<LinkGate> gate, GuestLogSink sink,
                   std::shared_ptr<LogAllowance> shared)
    : gate_(std::move(gate)),
      sink_(std::move(sink)),
      closed_(gate_->executor),
      shared_(std::move(shared)) {}

absl::Status GuestLog::Listen() {
  absl::StatusOr<std::unique_ptr<bridge::Listener>> listener =
      gate_->transport.Listen(bridge::kGuestLogPort);
  if (!listener.ok()) return listener.status();
  listener_ = *std::move(listener);
  Spawn(gate_->executor, AcceptLoop(shared_from_this()));
  return absl::OkStatus();
}

void GuestLog::Close() {
  closed_.Set();
  if (listener_) listener_->Close();
  if (connection_) connection_->Close();
}

Task<void> GuestLog::AcceptLoop(std::shared_ptr<GuestLog> self) {
  const std::shared_ptr<bridge::Listener> listener = self->listener_;
  while (!self->closed_.is_set()) {
    absl::StatusOr<std::unique_ptr<bridge::Connection>> connection = co_await listener->Accept();
    if (!connection.ok()) co_return;
    if (self->connection_) self->connection_->Close();
    self->connection_ = *std::move(connection);
    if (self->closed_.is_set()) co_return self->connection_->Close();
    Spawn(self->gate_->executor, ReadLoop(self, self->connection_));
  }
}

Task<void> GuestLog::ReadLoop(std::shared_ptr<GuestLog> self,
                              std::shared_ptr<bridge::Connection> connection) {
  bridge::LogLines lines;
  std::array<char, 4096> buffer;
  while (!self->closed_.is_set()) {
    const absl::StatusOr<size_t> got = co_await connection->Read(buffer);
    if (!got.ok() || *got == 0) break;
    lines.Append(std::string_view(buffer.data(), *got));
    bool acknowledge = false;
    while (const std::optional<std::string> line = lines.Next()) {
      // Before the line is looked at, which costs more than to send it.
      if (!co_await self->Allowed()) co_return connection->Close();
      acknowledge = self->Pass(bridge::DecodeLogLine(*line)) || acknowledge;
    }
    if (!acknowledge) continue;
    const std::string ack = bridge::EncodeLogAck(self->last_);
    // A frozen guest is not told anything, not even that its log was read.
    co_await self->gate_->open.Wait();
    if (!(co_await connection->Write(ack)).ok()) break;
  }
  connection->Close();
}

Task<bool> GuestLog::Allowed() {
  const std::shared_ptr<GuestLog> self = shared_from_this();
  while (!closed_.is_set()) {
    co_await gate_->open.Wait();
    const auto now = std::chrono::steady_clock::now();
    milliseconds wait = allowance_.Wait(now);
    if (shared_) wait = std::max(wait, shared_->Wait(now));
    if (wait == milliseconds(0)) {
      allowance_.Take();
      if (shared_) shared_->Take();
      break;
    }
    Task<void> closed = closed_.Wait();
    const absl::Status ignored = co_await WithDeadline(wait, "the log", std::move(closed));
  }
  co_return !closed_.is_set();
}

bool GuestLog::Pass(const bridge::LogRecord& record) {
  const bool numbered = record.sequence != 0;
  // One whose acknowledgement was lost.
  if (numbered && record.sequence <= last_) return true;
  if (numbered) last_ = record.sequence;
  sink_(record.level, record.message);
  return numbered;
}

}  // namespace ferry::guest
