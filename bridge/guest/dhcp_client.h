#pragma once

#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "bridge/network/dhcp_core.h"
#include "bridge/runtime/async.h"
#include "bridge/runtime/unique_fd.h"

namespace ferry::bridge {

// Asks for one interface's address, and keeps it, for as long as the client is held.
class DhcpClient : public std::enable_shared_from_this<DhcpClient> {
 public:
  using Lease = std::optional<net::DhcpLease>;
  // What the interface had until now, and what it is to have.
  using OnChange = std::function<void(const Lease& before, const Lease& now)>;

  static absl::StatusOr<std::shared_ptr<DhcpClient>> Open(Executor executor,
                                                          const std::string& interface,
                                                          const net::MacAddress& mac,
                                                          OnChange on_change);

  void Start();
  // The network may be another one.
  void Confirm();
  // So much time has passed that the kernel's steady clock does not show.
  void StoodStill(std::chrono::nanoseconds duration);

  const Lease& lease() const { return lease_; }

 private:
  DhcpClient(Executor executor, UniqueFd socket, const net::MacAddress& mac, OnChange on_change);

  void AwaitDatagrams();
  void TakeDatagrams();
  // Does what has come of what has happened.
  void Settle();
  void Send(const net::DhcpCore::Packet& packet);

  net::DhcpCore core_;
  asio::posix::stream_descriptor socket_;
  asio::steady_timer timer_;
  const OnChange on_change_;
  Lease lease_;
};

}  // namespace ferry::bridge
