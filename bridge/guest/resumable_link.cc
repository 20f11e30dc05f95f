#include "bridge/guest/resumable_link.h"

#include <vector>

#include "bridge/runtime/status_macros.h"

namespace ferry::bridge {

Task<void> ResumableLink::Run(std::shared_ptr<void> keep) {
  while (!end_.over()) {
    absl::StatusOr<std::unique_ptr<Connection>> connection = co_await transport_.Dial(port_);
    if (connection.ok()) {
      std::shared_ptr<Connection> shared = *std::move(connection);
      co_await Serve(keep, std::move(shared));
      end_.OnDisconnect();
    }
    if (!end_.over()) co_await redial_.Wait();
  }
}

Task<void> ResumableLink::Serve(std::shared_ptr<void> keep,
                                std::shared_ptr<Connection> connection) {
  TaskScope scope(co_await asio::this_coro::executor);
  reading_ = true;
  scope.Spawn(WriteAll(keep, connection));
  const absl::Status status = co_await ReadAll(*connection);
  reading_ = false;
  if (status.ok()) end_.OnPeerClosed();
  // In order when all is said, so that the host can tell it from a loss.
  if (end_.over() && !end_.said_all()) {
    const absl::Status ignored = co_await connection->CloseWrite();
  } else {
    connection->Close();
  }
  // The writer ends by itself: unwinding it would be the slowest part of a relink, in a guest whose
  // code an emulator has yet to translate.
  wake_.Set();
  co_await scope.CancelAndJoin();
}

Task<absl::Status> ResumableLink::ReadAll(Connection& connection) {
  StreamDecoder decoder;
  std::vector<char> buffer(64 * 1024);
  while (true) {
    absl::StatusOr<size_t> got = co_await connection.Read(buffer);
    if (!got.ok()) co_return got.status();
    if (*got == 0) co_return absl::OkStatus();
    decoder.Append(std::string_view(buffer.data(), *got));
    while (true) {
      absl::StatusOr<std::optional<StreamFrame>> frame = decoder.Next();
      if (!frame.ok()) co_return frame.status();
      if (!frame->has_value()) break;
      CO_RETURN_IF_ERROR(end_.OnFrame(**frame));
      redial_.Succeeded();
    }
    wake_.Set();
    if (end_.over()) co_return absl::OkStatus();
  }
}

Task<void> ResumableLink::WriteAll([[maybe_unused]] std::shared_ptr<void> keep,
                                   std::shared_ptr<Connection> connection) {
  absl::Status status = co_await connection->Write(EncodeHello(end_.MakeHello()));
  while (status.ok()) {
    if (!reading_) co_return;  // the reader has ended the connection as it must be ended
    std::optional<std::string> bytes = end_.NextBytes();
    if (bytes.has_value()) {
      status = co_await connection->Write(*bytes);
    } else if (end_.said_all()) {
      status = co_await connection->CloseWrite();
      co_return;
    } else {
      wake_.Reset();
      co_await wake_.Wait();
    }
  }
  // Ends the reading side too.
  connection->Close();
}

}  // namespace ferry::bridge
