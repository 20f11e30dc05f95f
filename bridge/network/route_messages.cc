#include "bridge/network/route_messages.h"

#include <linux/if.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstddef>
#include <cstring>

namespace ferry::net {
namespace {

constexpr size_t kMaxLinks = 65536;

constexpr size_t Aligned(size_t size) { return (size + 3) & ~size_t{3}; }

template <typename T>
std::string_view BytesOf(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof(value)};
}

std::string_view BytesOf(const IpAddress& address) {
  return {reinterpret_cast<const char*>(address.bytes.data()), address.size()};
}

template <typename T>
bool ReadFrom(std::string_view bytes, T* out) {
  if (bytes.size() < sizeof(T)) return false;
  std::memcpy(out, bytes.data(), sizeof(T));
  return true;
}

class Request {
 public:
  template <typename Body>
  Request(uint16_t type, uint16_t flags, const Body& body) {
    struct nlmsghdr header {};
    header.nlmsg_type = type;
    header.nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | flags);
    Append(BytesOf(header));
    Append(BytesOf(body));
  }

  Request& Add(uint16_t type, std::string_view value) {
    struct rtattr attribute {};
    attribute.rta_type = type;
    attribute.rta_len = static_cast<uint16_t>(sizeof(attribute) + value.size());
    Append(BytesOf(attribute));
    Append(value);
    return *this;
  }
  Request& Add(uint16_t type, const std::string& value) {
    return Add(type, std::string_view(value));
  }

  size_t Begin(uint16_t type) {
    const size_t at = bytes_.size();
    Add(type, std::string_view());
    return at;
  }
  void End(size_t at) {
    const auto size = static_cast<uint16_t>(bytes_.size() - at);
    std::memcpy(bytes_.data() + at, &size, sizeof(size));  // rta_len comes first
  }

  std::string Finish() {
    const auto size = static_cast<uint32_t>(bytes_.size());
    std::memcpy(bytes_.data(), &size, sizeof(size));  // nlmsg_len comes first
    return bytes_;
  }

 private:
  void Append(std::string_view value) {
    bytes_.append(value);
    bytes_.resize(Aligned(bytes_.size()));
  }
  std::string bytes_;
};

struct ifinfomsg LinkHeader(int index) {
  struct ifinfomsg header {};
  header.ifi_family = AF_UNSPEC;
  header.ifi_index = index;
  return header;
}

// Calls take(type, value) for each attribute; what is cut short is left out.
template <typename Take>
void EachAttribute(std::string_view bytes, Take take) {
  struct rtattr attribute {};
  while (ReadFrom(bytes, &attribute)) {
    if (attribute.rta_len < sizeof(attribute) || attribute.rta_len > bytes.size()) return;
    take(attribute.rta_type & NLA_TYPE_MASK,
         bytes.substr(sizeof(attribute), attribute.rta_len - sizeof(attribute)));
    bytes.remove_prefix(std::min(bytes.size(), Aligned(attribute.rta_len)));
  }
}

std::string TextOf(std::string_view value) {
  return std::string(value.substr(0, value.find('\0')));
}

std::optional<Link> ReadLink(std::string_view body) {
  struct ifinfomsg header {};
  if (!ReadFrom(body, &header) || body.size() < Aligned(sizeof(header))) return std::nullopt;
  Link link;
  link.index = header.ifi_index;
  link.is_up = (header.ifi_flags & IFF_UP) != 0;
  EachAttribute(body.substr(Aligned(sizeof(header))), [&link](int type, std::string_view value) {
    if (type == IFLA_IFNAME) link.name = TextOf(value);
    if (type == IFLA_MTU) ReadFrom(value, &link.mtu);
    if (type == IFLA_MASTER) ReadFrom(value, &link.master);
    if (type == IFLA_ADDRESS && value.size() == link.mac.bytes.size()) {
      ReadFrom(value, &link.mac.bytes);
    }
    if (type != IFLA_LINKINFO) return;
    EachAttribute(value, [&link](int inner, std::string_view text) {
      if (inner == IFLA_INFO_KIND) link.kind = TextOf(text);
    });
  });
  return link;
}

std::string AddressRequest(uint16_t type, uint16_t flags, int index, const IpPrefix& address,
                           uint8_t address_flags) {
  struct ifaddrmsg header {};
  header.ifa_family = address.address.is_v6 ? AF_INET6 : AF_INET;
  header.ifa_prefixlen = address.length;
  header.ifa_index = static_cast<uint32_t>(index);
  header.ifa_flags = address_flags;
  Request request(type, static_cast<uint16_t>(NLM_F_ACK | flags), header);
  request.Add(IFA_LOCAL, BytesOf(address.address));
  request.Add(IFA_ADDRESS, BytesOf(address.address));
  return request.Finish();
}

std::string RouteRequest(uint16_t type, uint16_t flags, int index, const IpAddress& gateway,
                         const std::optional<IpPrefix>& to, uint32_t metric) {
  struct rtmsg header {};
  header.rtm_family = gateway.is_v6 ? AF_INET6 : AF_INET;
  header.rtm_dst_len = to ? to->length : 0;
  header.rtm_table = RT_TABLE_MAIN;
  header.rtm_protocol = RTPROT_STATIC;
  header.rtm_scope = RT_SCOPE_UNIVERSE;
  header.rtm_type = RTN_UNICAST;
  Request request(type, static_cast<uint16_t>(NLM_F_ACK | flags), header);
  if (to) request.Add(RTA_DST, BytesOf(to->address));
  request.Add(RTA_GATEWAY, BytesOf(gateway));
  request.Add(RTA_OIF, BytesOf(static_cast<uint32_t>(index)));
  if (metric != 0) request.Add(RTA_PRIORITY, BytesOf(metric));
  return request.Finish();
}

}  // namespace

std::string AskForLink(const std::string& name) {
  Request request(RTM_GETLINK, NLM_F_ACK, LinkHeader(0));
  return request.Add(IFLA_IFNAME, name + '\0').Finish();
}

std::string AskForLinks() { return Request(RTM_GETLINK, NLM_F_DUMP, LinkHeader(0)).Finish(); }

std::string ChangeLink(const LinkChange& change) {
  struct ifinfomsg header = LinkHeader(change.index);
  if (change.up) {
    header.ifi_flags = *change.up ? IFF_UP : 0;
    header.ifi_change = IFF_UP;
  }
  Request request(RTM_NEWLINK, NLM_F_ACK, header);
  if (change.name) request.Add(IFLA_IFNAME, *change.name + '\0');
  if (change.mac) request.Add(IFLA_ADDRESS, BytesOf(change.mac->bytes));
  if (change.mtu) request.Add(IFLA_MTU, BytesOf(*change.mtu));
  if (change.master) request.Add(IFLA_MASTER, BytesOf(static_cast<uint32_t>(*change.master)));
  return request.Finish();
}

std::string LeaveIpv6ToOthers(int index) {
  Request request(RTM_NEWLINK, NLM_F_ACK, LinkHeader(index));
  const size_t families = request.Begin(IFLA_AF_SPEC);
  const size_t inet6 = request.Begin(AF_INET6);
  const uint8_t none = IN6_ADDR_GEN_MODE_NONE;
  request.Add(IFLA_INET6_ADDR_GEN_MODE, BytesOf(none));
  request.End(inet6);
  request.End(families);
  return request.Finish();
}

std::string AddAddress(int index, const IpPrefix& address) {
  const uint8_t flags = address.address.is_v6 ? IFA_F_NODAD : 0;
  return AddressRequest(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, index, address, flags);
}

std::string RemoveAddress(int index, const IpPrefix& address) {
  return AddressRequest(RTM_DELADDR, 0, index, address, 0);
}

std::string AddRoute(int index, const IpAddress& gateway, std::optional<IpPrefix> to,
                     uint32_t metric) {
  return RouteRequest(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, index, gateway, to, metric);
}

std::string RemoveRoute(int index, const IpAddress& gateway, std::optional<IpPrefix> to,
                        uint32_t metric) {
  return RouteRequest(RTM_DELROUTE, 0, index, gateway, to, metric);
}

absl::StatusOr<bool> RouteAnswer::Take(std::string_view bytes, uint32_t sequence) {
  const absl::Status cut_short =
      absl::InternalError("the kernel's answer about networks is cut short");
  while (!bytes.empty()) {
    struct nlmsghdr header {};
    if (!ReadFrom(bytes, &header) || header.nlmsg_len < sizeof(header) ||
        header.nlmsg_len > bytes.size()) {
      return cut_short;
    }
    const std::string_view body = bytes.substr(sizeof(header), header.nlmsg_len - sizeof(header));
    bytes.remove_prefix(std::min(bytes.size(), Aligned(header.nlmsg_len)));
    if (header.nlmsg_seq != sequence) continue;  // of a request that nobody waits for any more
    if (header.nlmsg_type == NLMSG_DONE) return true;
    if (header.nlmsg_type == NLMSG_ERROR) {
      int32_t error = 0;
      if (!ReadFrom(body, &error) || error > 0 || error == INT32_MIN) return cut_short;
      error_ = -error;
      return true;
    }
    if (header.nlmsg_type != RTM_NEWLINK) continue;
    std::optional<Link> link = ReadLink(body);
    if (!link || links_.size() >= kMaxLinks) return cut_short;
    links_.push_back(*std::move(link));
  }
  return false;
}

void SetSequence(std::string* request, uint32_t sequence) {
  std::memcpy(request->data() + offsetof(struct nlmsghdr, nlmsg_seq), &sequence, sizeof(sequence));
}

}  // namespace ferry::net
