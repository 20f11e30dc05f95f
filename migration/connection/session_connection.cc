#include "migration/connection/session_connection.h"

#include <utility>

#include "bridge/runtime/status_macros.h"
#include "migration/connection/session_driver.h"

namespace ferry::migration {

Task<absl::StatusOr<std::shared_ptr<SessionConnection>>> SessionConnection::Handshake(
    std::unique_ptr<ByteStream> stream, HandshakeParams params, SessionLimits limits,
    std::chrono::milliseconds deadline) {
  const Executor executor = co_await asio::this_coro::executor;
  auto driver = std::make_shared<SessionDriver>(executor, std::move(stream), params.role, limits);
  // Made first: should this task be cancelled, its destructor closes the stream.
  auto connection = std::make_shared<SessionConnection>(driver);
  driver->Start();
  if (params.role == Role::kSource) {
    CO_RETURN_IF_ERROR(co_await driver->Greet(params, deadline));
    co_return connection;
  }
  absl::StatusOr<Hello> hello = co_await driver->ReceiveHello(deadline);
  if (!hello.ok()) co_return hello.status();
  if (const std::optional<Refusal> refusal = CheckHello(*hello, params, limits.versions)) {
    driver->Refuse(*refusal);
    co_return absl::PermissionDeniedError(refusal->text);
  }
  driver->Accept(*hello, params.journal_id);
  co_return connection;
}

Task<absl::StatusOr<std::shared_ptr<SessionConnection>>> SessionConnection::Handshake(
    UniqueFd socket, HandshakeParams params, SessionLimits limits,
    std::chrono::milliseconds deadline) {
  const Executor executor = co_await asio::this_coro::executor;
  CO_ASSIGN_OR_RETURN(std::unique_ptr<ByteStream> stream,
                      MakeSocketStream(executor, std::move(socket)));
  co_return co_await Handshake(std::move(stream), std::move(params), limits, deadline);
}

SessionConnection::SessionConnection(std::shared_ptr<SessionDriver> driver)
    : driver_(std::move(driver)) {}

SessionConnection::~SessionConnection() { Close(); }

absl::Status SessionConnection::SendMessage(MessageKind kind, std::string bytes) {
  return driver_->SendMessage(SessionMessage{kind, std::move(bytes)});
}

Task<std::optional<SessionMessage>> SessionConnection::NextMessage() {
  return driver_->NextMessage();
}

Task<absl::Status> SessionConnection::WaitReceived() {
  const std::shared_ptr<SessionDriver> driver = driver_;
  co_return co_await driver->WaitReceived();
}

Task<absl::Status> SessionConnection::WaitClosed() { return driver_->WaitClosed(); }

bool SessionConnection::closed() const { return driver_->finished(); }
bool SessionConnection::stream_ended_by_peer() const { return driver_->stream_ended_by_peer(); }

Task<absl::StatusOr<std::chrono::nanoseconds>> SessionConnection::Ping() { return driver_->Ping(); }

std::optional<std::chrono::nanoseconds> SessionConnection::rtt() const { return driver_->rtt(); }

const std::string& SessionConnection::peer_journal_id() const {
  return driver_->core().peer_journal_id();
}

std::string SessionConnection::peer() const { return driver_->peer(); }

std::string SessionConnection::peer_name() const { return driver_->peer_name(); }

SessionStatistics SessionConnection::statistics() const { return driver_->core().statistics(); }

void SessionConnection::set_rate_limit(uint64_t bytes_per_second) {
  driver_->SetRateLimit(bytes_per_second);
}

absl::Status SessionConnection::RelayFromListener(const std::string& unix_path) {
  return driver_->RelayFromListener(unix_path);
}

absl::Status SessionConnection::RelayToPath(const std::string& unix_path) {
  return driver_->RelayToPath(unix_path);
}

void SessionConnection::ResetChannels(std::string_view why) { driver_->ResetChannels(why); }

std::vector<uint16_t> SessionConnection::channels() const { return driver_->channels(); }

std::optional<StreamDigest> SessionConnection::SentDigest(uint16_t channel) const {
  return driver_->core().SentDigest(channel);
}

std::optional<StreamDigest> SessionConnection::ReceivedDigest(uint16_t channel) const {
  return driver_->core().ReceivedDigest(channel);
}

void SessionConnection::Close() { driver_->Finish(absl::OkStatus()); }

}  // namespace ferry::migration
