#include "guestmanager/guest_log.h"

#include <array>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"

namespace ferry::guest {

bool LogAllowance::Take(std::chrono::steady_clock::time_point now) {
  if (now - began_ >= kPeriod) {
    began_ = now;
    taken_ = 0;
    earlier_ += std::exchange(refused_, 0);
  }
  if (taken_ < kLines) {
    ++taken_;
    return true;
  }
  ++refused_;
  return false;
}

uint64_t LogAllowance::TakeRefused() { return std::exchange(earlier_, 0); }

GuestLog::GuestLog(std::shared_ptr<LinkGate> gate, GuestLogSink sink)
    : gate_(std::move(gate)), sink_(std::move(sink)) {}

absl::Status GuestLog::Listen() {
  absl::StatusOr<std::unique_ptr<bridge::Listener>> listener =
      gate_->transport.Listen(bridge::kGuestLogPort);
  if (!listener.ok()) return listener.status();
  listener_ = *std::move(listener);
  Spawn(gate_->executor, AcceptLoop(shared_from_this()));
  return absl::OkStatus();
}

void GuestLog::Close() {
  sink_ = nullptr;
  if (listener_) listener_->Close();
  if (connection_) connection_->Close();
}

Task<void> GuestLog::AcceptLoop(std::shared_ptr<GuestLog> self) {
  const std::shared_ptr<bridge::Listener> listener = self->listener_;
  while (self->sink_) {
    absl::StatusOr<std::unique_ptr<bridge::Connection>> connection = co_await listener->Accept();
    if (!connection.ok()) co_return;
    if (self->connection_) self->connection_->Close();
    self->connection_ = *std::move(connection);
    if (!self->sink_) co_return self->connection_->Close();
    Spawn(self->gate_->executor, ReadLoop(self, self->connection_));
  }
}

Task<void> GuestLog::ReadLoop(std::shared_ptr<GuestLog> self,
                              std::shared_ptr<bridge::Connection> connection) {
  bridge::LogLines lines;
  std::array<char, 4096> buffer;
  while (self->sink_) {
    const absl::StatusOr<size_t> got = co_await connection->Read(buffer);
    // A frozen guest is not told anything, not even that its log was read.
    co_await self->gate_->open.Wait();
    if (!got.ok() || *got == 0 || !self->sink_) break;
    lines.Append(std::string_view(buffer.data(), *got));
    bool acknowledge = false;
    while (const std::optional<std::string> line = lines.Next()) {
      acknowledge = self->Pass(bridge::DecodeLogLine(*line)) || acknowledge;
    }
    if (!acknowledge) continue;
    const std::string ack = bridge::EncodeLogAck(self->last_);
    if (!(co_await connection->Write(ack)).ok()) break;
  }
  connection->Close();
}

bool GuestLog::Pass(const bridge::LogRecord& record) {
  const bool numbered = record.sequence != 0;
  // One whose acknowledgement was lost.
  if (numbered && record.sequence <= last_) return true;
  if (numbered) last_ = record.sequence;
  const bool passes = allowance_.Take(std::chrono::steady_clock::now());
  if (const uint64_t refused = allowance_.TakeRefused(); refused > 0) {
    sink_(bridge::LogLevel::kWarning, absl::StrCat(refused, " lines were left out: too many"));
  }
  if (passes) sink_(record.level, record.message);
  return numbered;
}

}  // namespace ferry::guest
