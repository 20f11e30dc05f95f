#include "vmmanager/network/linux_host_network.h"

#include <spdlog/spdlog.h>

#include "bridge/network/address.h"
#include "bridge/network/route_socket.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/network/tap_device.h"

namespace ferry::vm {
namespace {

constexpr char kWhat[] = "the kernel's answer about this host's networks";

absl::StatusOr<Tap> OpenNow(const LinuxHostNetwork::Options& options,
                            const schema::NetworkAdapter& card) {
  // It may come from another host.
  if (!net::IsInterfaceName(card.tap.empty() ? card.bridge : card.tap)) {
    return absl::InvalidArgumentError("it is to be in what cannot be the name of an interface");
  }
  ASSIGN_OR_RETURN(net::RouteSocket kernel, net::RouteSocket::Open());
  if (!card.tap.empty()) return OpenOwnTap(kernel, card.tap);
  ASSIGN_OR_RETURN(const net::MacAddress mac, net::ParseMac(card.mac_address));
  const auto found = options.bridges.find(card.bridge);
  const std::string& bridge = found == options.bridges.end() ? card.bridge : found->second;
  return OpenTapInBridge(kernel, bridge, card.bridge, mac);
}

absl::Status CarryNow(const std::vector<int>& taps, bool carries) {
  ASSIGN_OR_RETURN(net::RouteSocket kernel, net::RouteSocket::Open());
  absl::Status all;
  for (const int tap : taps) {
    const absl::Status set = SetCarries(kernel, tap, carries);
    // Who owns a tap may have no right to; then a guest that does not run is all the silence there
    // is.
    if (carries || !absl::IsPermissionDenied(set)) all.Update(set);
  }
  return all;
}

}  // namespace

LinuxHostNetwork::LinuxHostNetwork(Executor executor, Options options)
    : options_(std::make_shared<const Options>(std::move(options))), worker_(executor) {}

Task<absl::Status> LinuxHostNetwork::Check(schema::NetworkAdapter card) {
  if (card.user) co_return absl::OkStatus();
  std::function<absl::Status()> work = [options = options_, card = std::move(card)] {
    return OpenNow(*options, card).status();
  };
  co_return co_await worker_.Run(options_->limit, kWhat, std::move(work));
}

Task<absl::StatusOr<Tap>> LinuxHostNetwork::Open(schema::NetworkAdapter card) {
  auto opened = std::make_shared<Tap>();
  std::function<absl::Status()> work = [options = options_, card = std::move(card), opened] {
    ASSIGN_OR_RETURN(*opened, OpenNow(*options, card));
    if (!card.tap.empty()) (void)CarryNow({opened->index}, false);
    return absl::OkStatus();
  };
  CO_RETURN_IF_ERROR(co_await worker_.Run(options_->limit, kWhat, std::move(work)));
  co_return std::move(*opened);
}

Task<absl::Status> LinuxHostNetwork::Carry(std::vector<int> taps) {
  std::function<absl::Status()> work = [taps = std::move(taps)] { return CarryNow(taps, true); };
  co_return co_await worker_.Run(options_->limit, kWhat, std::move(work));
}

void LinuxHostNetwork::Silence(std::vector<int> taps) {
  worker_.Post([taps = std::move(taps)] {
    const absl::Status silent = CarryNow(taps, false);
    if (!silent.ok()) spdlog::warn("a VM's tap devices: {}", std::string(silent.message()));
  });
}

}  // namespace ferry::vm
