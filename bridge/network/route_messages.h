#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/network/address.h"

// The kernel's language for network interfaces (rtnetlink), as pure bytes.
namespace ferry::net {

// An interface as the kernel tells of it.
struct Link {
  int index = 0;
  std::string name;
  std::string kind;  // "bridge", "tun", ...; empty for a real device
  MacAddress mac;
  uint32_t mtu = 0;
  bool is_up = false;
  int master = 0;  // the bridge that it is in; 0: none
};

// What is to be changed of an interface; the rest stays.
struct LinkChange {
  int index = 0;
  std::optional<bool> up;
  std::optional<std::string> name;
  std::optional<MacAddress> mac;
  std::optional<uint32_t> mtu;
  std::optional<int> master;
};

// Requests, each to be answered by an acknowledgement, or by links.
std::string AskForLink(const std::string& name);
std::string AskForLinks();
std::string ChangeLink(const LinkChange& change);
// The host has no IPv6 address of its own on it.
std::string LeaveIpv6ToOthers(int index);
// Is usable at once: nobody else is asked whether he has it.
std::string AddAddress(int index, const IpPrefix& address);
std::string RemoveAddress(int index, const IpPrefix& address);
// Everything that has no other way, or what is behind `to` if that is given. Of several such ways
// the one with the lowest metric is taken.
std::string AddRoute(int index, const IpAddress& gateway, std::optional<IpPrefix> to,
                     uint32_t metric = 0);
std::string RemoveRoute(int index, const IpAddress& gateway, std::optional<IpPrefix> to,
                        uint32_t metric);

// Takes apart what the kernel answers.
class RouteAnswer {
 public:
  // False while more must be received. INTERNAL if it is no answer, or not to that request.
  absl::StatusOr<bool> Take(std::string_view bytes, uint32_t sequence);

  // The kernel's errno; 0: it has done it.
  int error() const { return error_; }
  const std::vector<Link>& links() const { return links_; }

 private:
  int error_ = 0;
  std::vector<Link> links_;
};

// A request carries this number, and so do its answers.
void SetSequence(std::string* request, uint32_t sequence);

}  // namespace ferry::net
