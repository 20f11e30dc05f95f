#include "bridge/guest/log_stream.h"

#include <errno.h>

#include <algorithm>
#include <array>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/guest/kernel_record.h"
#include "bridge/guest/redial.h"
#include "bridge/protocol/log_record.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::bridge {
namespace {

// The kernel's records are shorter than this (PRINTK_MESSAGE_MAX).
constexpr size_t kMaxRecord = 8192;

constexpr milliseconds kMostPatience{60'000};

// One connection to a host.
struct Link {
  std::shared_ptr<Connection> connection;
  uint64_t* acknowledged = nullptr;
};

Task<void> ReadAcks(Link link) {
  LogLines lines;
  std::array<char, 256> buffer;
  while (true) {
    const absl::StatusOr<size_t> got = co_await link.connection->Read(buffer);
    if (!got.ok() || *got == 0) break;
    lines.Append(std::string_view(buffer.data(), *got));
    while (const std::optional<std::string> line = lines.Next()) {
      const std::optional<uint64_t> ack = DecodeLogAck(*line);
      if (ack.has_value()) *link.acknowledged = std::max(*link.acknowledged, *ack);
    }
  }
}

// The next record; an empty text where the kernel has overwritten some.
Task<absl::StatusOr<std::string>> NextRecord(asio::posix::stream_descriptor* log) {
  std::string record(kMaxRecord, '\0');
  boost::system::error_code error;
  const size_t got = co_await log->async_read_some(
      asio::buffer(record), asio::redirect_error(asio::use_awaitable, error));
  if (error == boost::system::errc::broken_pipe) co_return std::string();
  if (error) co_return absl::UnavailableError(error.message());
  record.resize(got);
  co_return record;
}

Task<absl::Status> SendRecords(Link link, UniqueFd log) {
  asio::posix::stream_descriptor records(co_await asio::this_coro::executor, log.Release());
  uint64_t last = *link.acknowledged;
  while (true) {
    CO_ASSIGN_OR_RETURN(const std::string text, co_await NextRecord(&records));
    const std::optional<KernelRecord> parsed = ParseKernelRecord(text);
    if (!parsed.has_value() || parsed->record.sequence <= *link.acknowledged) continue;
    const uint64_t lost = parsed->record.sequence - last - 1;
    last = parsed->record.sequence;
    std::string lines;
    if (lost > 0) {
      // Not numbered: it is no record of the kernel's.
      lines = Encode(LogRecord{.level = LogLevel::kWarning,
                               .message = absl::StrCat(lost, " earlier records are lost")});
    }
    if (WorthTelling(*parsed)) lines += Encode(parsed->record);
    if (lines.empty()) continue;
    CO_RETURN_IF_ERROR(co_await link.connection->Write(lines));
  }
}

// Ends the connection when it cannot go on.
Task<void> Send(Link link, UniqueFd log) {
  const absl::Status ignored = co_await SendRecords(link, std::move(log));
  link.connection->Close();
}

}  // namespace

Task<void> StreamLog(GuestTransport& transport, LogStreamOptions options) {
  const Executor executor = co_await asio::this_coro::executor;
  Redial redial(transport);
  uint64_t acknowledged = 0;
  milliseconds patience = options.patience;
  while (true) {
    co_await redial.Wait();
    co_await Delay(patience);
    absl::StatusOr<std::unique_ptr<Connection>> connection = co_await transport.Dial(kGuestLogPort);
    if (!connection.ok()) {
      // A host that does not take logs would wake an idle guest for ever.
      patience = std::min(patience * 2, kMostPatience);
      continue;
    }
    patience = options.patience;
    absl::StatusOr<UniqueFd> log = options.open();
    if (!log.ok()) co_return;  // a kernel without a log
    redial.Succeeded();
    const Link link{*std::move(connection), &acknowledged};
    TaskScope scope(executor);
    scope.Spawn(Send(link, *std::move(log)));
    co_await ReadAcks(link);
    link.connection->Close();
    co_await scope.CancelAndJoin();
  }
}

}  // namespace ferry::bridge
