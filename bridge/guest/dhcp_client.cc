#include "bridge/guest/dhcp_client.h"

#include <arpa/inet.h>
#include <errno.h>
#include <sys/socket.h>

#include <cstring>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::bridge {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kMaxDatagram = 4096;
// Read in one go; whoever floods us waits for everybody else's turn.
constexpr int kMaxDatagrams = 16;

struct sockaddr_in SocketAddress(uint16_t port) {
  struct sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  return address;
}

// An ordinary socket: the kernel looks at lengths and checksums. It hears what is for everybody on
// an interface without an address, too.
absl::StatusOr<UniqueFd> OpenSocket(const std::string& interface) {
  UniqueFd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  const int on = 1;
  const struct sockaddr_in own = SocketAddress(net::kDhcpClientPort);
  if (fd.valid() && ::setsockopt(fd.get(), SOL_SOCKET, SO_BROADCAST, &on, sizeof(on)) == 0 &&
      ::setsockopt(fd.get(), SOL_SOCKET, SO_BINDTODEVICE, interface.c_str(),
                   static_cast<socklen_t>(interface.size() + 1)) == 0 &&
      ::bind(fd.get(), reinterpret_cast<const struct sockaddr*>(&own), sizeof(own)) == 0) {
    return fd;
  }
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot ask for an address on ", interface));
}

}  // namespace

absl::StatusOr<std::shared_ptr<DhcpClient>> DhcpClient::Open(Executor executor,
                                                             const std::string& interface,
                                                             const net::MacAddress& mac,
                                                             OnChange on_change) {
  ASSIGN_OR_RETURN(UniqueFd socket, OpenSocket(interface));
  return std::shared_ptr<DhcpClient>(
      new DhcpClient(std::move(executor), std::move(socket), mac, std::move(on_change)));
}

DhcpClient::DhcpClient(Executor executor, UniqueFd socket, const net::MacAddress& mac,
                       OnChange on_change)
    : core_(mac, [] { return std::random_device()(); }),
      socket_(executor, socket.Release()),
      timer_(executor),
      on_change_(std::move(on_change)) {}

void DhcpClient::Start() {
  AwaitDatagrams();
  core_.Start(Clock::now());
  Settle();
}

void DhcpClient::Confirm() {
  core_.Confirm(Clock::now());
  Settle();
}

void DhcpClient::StoodStill(std::chrono::nanoseconds duration) {
  core_.StoodStill(duration, Clock::now());
  Settle();
}

void DhcpClient::AwaitDatagrams() {
  socket_.async_wait(asio::posix::stream_descriptor::wait_read,
                     [weak = weak_from_this()](const boost::system::error_code& error) {
                       const std::shared_ptr<DhcpClient> self = weak.lock();
                       if (error || self == nullptr) return;
                       self->TakeDatagrams();
                       self->AwaitDatagrams();
                     });
}

void DhcpClient::TakeDatagrams() {
  char buffer[kMaxDatagram];
  for (int i = 0; i < kMaxDatagrams; ++i) {
    const ssize_t size = ::recv(socket_.native_handle(), buffer, sizeof(buffer), 0);
    if (size < 0) break;
    core_.Take(std::string_view(buffer, static_cast<size_t>(size)), Clock::now());
  }
  Settle();
}

void DhcpClient::Settle() {
  if (core_.lease() != lease_) {
    const Lease before = std::exchange(lease_, core_.lease());
    on_change_(before, lease_);
  }
  for (const net::DhcpCore::Packet& packet : core_.TakePackets()) Send(packet);
  timer_.expires_at(core_.wake_at());
  timer_.async_wait([weak = weak_from_this()](const boost::system::error_code& error) {
    const std::shared_ptr<DhcpClient> self = weak.lock();
    if (error || self == nullptr) return;
    self->core_.OnTime(Clock::now());
    self->Settle();
  });
}

// What is lost is sent again, for whatever reason it was.
void DhcpClient::Send(const net::DhcpCore::Packet& packet) {
  struct sockaddr_in to = SocketAddress(net::kDhcpServerPort);
  to.sin_addr.s_addr = htonl(INADDR_BROADCAST);
  if (packet.to.has_value()) {
    std::memcpy(&to.sin_addr, packet.to->bytes.data(), sizeof(to.sin_addr));
  }
  const ssize_t ignored =
      ::sendto(socket_.native_handle(), packet.bytes.data(), packet.bytes.size(), 0,
               reinterpret_cast<const struct sockaddr*>(&to), sizeof(to));
  static_cast<void>(ignored);
}

}  // namespace ferry::bridge
