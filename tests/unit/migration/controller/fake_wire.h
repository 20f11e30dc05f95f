#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/write.hpp>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/async.h"

namespace ferry::migration {

// A wire between two hosts on loopback, which a test can cut, or change what passes through it.
class FakeWire : public std::enable_shared_from_this<FakeWire> {
 public:
  using Tcp = asio::ip::tcp;

  explicit FakeWire(Executor executor)
      : executor_(executor),
        acceptor_(executor, Tcp::endpoint(asio::ip::address_v4::loopback(), 0)) {}

  // Leads to `target` ("host:port") from the returned address; for one connection at a time.
  std::string LeadTo(const std::string& target) {
    Spawn(executor_, Serve(shared_from_this(), target));
    return absl::StrCat("127.0.0.1:", acceptor_.local_endpoint().port());
  }

  void Cut() {
    boost::system::error_code ignored;
    acceptor_.close(ignored);
    for (const auto& socket : sockets_) socket->close(ignored);
  }

  // May change bytes on their way to the destination.
  std::function<void(std::string& bytes)> tamper;
  // What each piece, of at most so many bytes, takes on its way.
  static constexpr size_t kPiece = 4096;
  milliseconds pause{0};

 private:
  using Self = std::shared_ptr<FakeWire>;
  using Socket = std::shared_ptr<Tcp::socket>;

  static Task<void> Serve(Self self, std::string target) {
    auto source = std::make_shared<Tcp::socket>(self->executor_);
    auto destination = std::make_shared<Tcp::socket>(self->executor_);
    self->sockets_ = {source, destination};
    boost::system::error_code error;
    co_await self->acceptor_.async_accept(*source,
                                          asio::redirect_error(asio::use_awaitable, error));
    if (error) co_return;
    const size_t colon = target.rfind(':');
    const Tcp::endpoint endpoint(asio::ip::make_address(target.substr(0, colon)),
                                 static_cast<uint16_t>(std::stoi(target.substr(colon + 1))));
    co_await destination->async_connect(endpoint, asio::redirect_error(asio::use_awaitable, error));
    Spawn(self->executor_, Pump(self, source, destination, true));
    Spawn(self->executor_, Pump(self, destination, source, false));
  }

  static Task<void> Pump(Self self, Socket from, Socket to, bool to_destination) {
    boost::system::error_code error;
    std::string buffer(kPiece, '\0');
    while (!error) {
      const size_t size = co_await from->async_read_some(
          asio::buffer(buffer), asio::redirect_error(asio::use_awaitable, error));
      if (error) break;
      std::string bytes = buffer.substr(0, size);
      if (to_destination && self->tamper) self->tamper(bytes);
      if (to_destination && self->pause.count() > 0) co_await Delay(self->pause);
      co_await asio::async_write(*to, asio::buffer(bytes),
                                 asio::redirect_error(asio::use_awaitable, error));
    }
    boost::system::error_code ignored;
    from->close(ignored);
    to->close(ignored);
  }

  Executor executor_;
  Tcp::acceptor acceptor_;
  std::vector<Socket> sockets_;
};

}  // namespace ferry::migration
