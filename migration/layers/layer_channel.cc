#include "migration/layers/layer_channel.h"

#include <algorithm>
#include <boost/asio/write.hpp>

#include "absl/strings/str_cat.h"

namespace ferry::migration {
namespace {

absl::Status Broken(const boost::system::error_code& ec) {
  return absl::UnavailableError(absl::StrCat("the session connection broke: ", ec.message()));
}

}  // namespace

Task<absl::Status> LayerChannel::Connect(std::string path) {
  boost::system::error_code ec;
  const asio::local::stream_protocol::endpoint endpoint(path);
  co_await socket_.async_connect(endpoint, asio::redirect_error(asio::use_awaitable, ec));
  co_return ec ? Broken(ec) : absl::OkStatus();
}

Task<absl::Status> LayerChannel::Write(std::string bytes) {
  boost::system::error_code ec;
  const auto buffer = asio::buffer(bytes);
  co_await asio::async_write(socket_, buffer, asio::redirect_error(asio::use_awaitable, ec));
  co_return ec ? Broken(ec) : absl::OkStatus();
}

void LayerChannel::EndWriting() {
  boost::system::error_code ignored;
  socket_.shutdown(Socket::shutdown_send, ignored);
}

Task<absl::StatusOr<std::string>> LayerChannel::ReadSome(size_t max) {
  std::string bytes(max, '\0');
  boost::system::error_code ec;
  const auto target = asio::buffer(bytes);
  const size_t size =
      co_await socket_.async_read_some(target, asio::redirect_error(asio::use_awaitable, ec));
  if (ec && ec != asio::error::eof) co_return Broken(ec);
  bytes.resize(size);
  co_return bytes;
}

Task<absl::StatusOr<std::string>> LayerChannel::ReadExactly(size_t size) {
  std::string bytes;
  while (bytes.size() < size) {
    auto more = co_await ReadSome(size - bytes.size());
    if (!more.ok()) co_return more.status();
    if (more->empty()) co_return absl::DataLossError("what came was cut off");
    bytes.append(*more);
  }
  co_return bytes;
}

Task<absl::StatusOr<std::string>> LayerChannel::ReadToEnd(size_t max) {
  std::string bytes;
  while (true) {
    auto more = co_await ReadSome(max + 1 - bytes.size());
    if (!more.ok()) co_return more.status();
    if (more->empty()) co_return bytes;
    bytes.append(*more);
    if (bytes.size() > max) co_return absl::InvalidArgumentError("more came than was agreed on");
  }
}

}  // namespace ferry::migration
