#include "bridge/network/dhcp_message.h"

#include <algorithm>
#include <map>

#include "absl/strings/ascii.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::net {
namespace {

// Where things are in the part that all messages have.
constexpr size_t kTransactionAt = 4;
constexpr size_t kSecondsAt = 8;
constexpr size_t kFlagsAt = 10;
constexpr size_t kClientAddressAt = 12;
constexpr size_t kYourAddressAt = 16;
constexpr size_t kHardwareAt = 28;
constexpr size_t kServerNameAt = 44;
constexpr size_t kFileNameAt = 108;
constexpr size_t kCookieAt = 236;
constexpr size_t kOptionsAt = 240;
constexpr std::string_view kCookie = "\x63\x82\x53\x63";

constexpr uint8_t kFromClient = 1;
constexpr uint8_t kFromServer = 2;
constexpr uint8_t kEthernet = 1;
constexpr char kAnswerToAll = '\x80';  // the first byte of the flags
// Relays and servers of old drop what is shorter.
constexpr size_t kShortest = 300;

enum Option : uint8_t {
  kPad = 0,
  kNetmask = 1,
  kRouter = 3,
  kNameServers = 6,
  kDomain = 15,
  kWants = 50,
  kLeaseTime = 51,
  kOverload = 52,
  kMessageType = 53,
  kServer = 54,
  kParameters = 55,
  kRenewTime = 58,
  kRebindTime = 59,
  kEnd = 255,
};

constexpr char kAskedFor[] = {kNetmask, kRouter, kNameServers, kDomain};
constexpr uint8_t kFileHasOptions = 1;
constexpr uint8_t kServerNameHasOptions = 2;
constexpr size_t kMaxDomain = 253;

// What it says of one thing in several pieces is put together (RFC 3396).
using Options = std::map<uint8_t, std::string>;

void PutNumber(std::string* bytes, size_t at, size_t size, uint32_t value) {
  for (size_t i = 0; i < size; ++i) {
    (*bytes)[at + i] = static_cast<char>(value >> (8 * (size - 1 - i)));
  }
}

uint32_t NumberAt(std::string_view bytes, size_t at) {
  uint32_t value = 0;
  for (const char byte : bytes.substr(at, 4)) value = value << 8 | static_cast<uint8_t>(byte);
  return value;
}

IpAddress AddressAt(std::string_view bytes, size_t at) {
  IpAddress address;
  const std::string_view part = bytes.substr(at, address.size());
  std::copy(part.begin(), part.end(), address.bytes.begin());
  return address;
}

std::string_view AddressBytes(const IpAddress& address) {
  return {reinterpret_cast<const char*>(address.bytes.data()), address.size()};
}

void AddOption(Option option, std::string_view value, std::string* bytes) {
  bytes->push_back(static_cast<char>(option));
  bytes->push_back(static_cast<char>(value.size()));
  bytes->append(value);
}

// What is cut short ends them.
void ReadOptions(std::string_view bytes, Options* options) {
  while (!bytes.empty()) {
    const auto option = static_cast<uint8_t>(bytes[0]);
    if (option == kEnd) return;
    if (option == kPad) {
      bytes.remove_prefix(1);
      continue;
    }
    if (bytes.size() < 2) return;
    const size_t size = static_cast<uint8_t>(bytes[1]);
    if (bytes.size() - 2 < size) return;
    (*options)[option].append(bytes.substr(2, size));
    bytes.remove_prefix(2 + size);
  }
}

Options AllOptions(std::string_view datagram) {
  Options options;
  ReadOptions(datagram.substr(kOptionsAt), &options);
  const std::string overload = options[kOverload];
  if (overload.size() != 1) return options;
  if ((overload[0] & kFileHasOptions) != 0) {
    ReadOptions(datagram.substr(kFileNameAt, kCookieAt - kFileNameAt), &options);
  }
  if ((overload[0] & kServerNameHasOptions) != 0) {
    ReadOptions(datagram.substr(kServerNameAt, kFileNameAt - kServerNameAt), &options);
  }
  return options;
}

std::optional<uint32_t> NumberIn(const Options& options, Option option) {
  const auto found = options.find(option);
  if (found == options.end() || found->second.size() != 4) return std::nullopt;
  return NumberAt(found->second, 0);
}

// Those of them that a host may have; no more than a guest takes of any, which are name servers, so
// that whoever sends more cannot keep us busy with them.
std::vector<IpAddress> AddressesIn(const Options& options, Option option) {
  std::vector<IpAddress> addresses;
  const auto found = options.find(option);
  if (found == options.end()) return addresses;
  for (size_t at = 0; found->second.size() - at >= 4; at += 4) {
    if (addresses.size() == kMaxNameServers) break;
    const IpAddress address = AddressAt(found->second, at);
    const bool known = std::find(addresses.begin(), addresses.end(), address) != addresses.end();
    if (IsHostAddress(address) && !known) addresses.push_back(address);
  }
  return addresses;
}

std::optional<IpAddress> FirstIn(const Options& options, Option option) {
  const std::vector<IpAddress> addresses = AddressesIn(options, option);
  return addresses.empty() ? std::nullopt : std::optional(addresses.front());
}

// 0 if there is no network that it could be of.
uint8_t PrefixLength(const Options& options, const IpAddress& address) {
  if (!IsHostAddress(address)) return 0;
  const std::optional<uint32_t> mask = NumberIn(options, kNetmask);
  // As it was before there were masks.
  if (!mask.has_value()) return address.bytes[0] < 128 ? 8 : address.bytes[0] < 192 ? 16 : 24;
  uint8_t length = 0;
  while (length < 32 && (*mask << length & 0x80000000u) != 0) ++length;
  const bool whole = length == 32 || *mask << length == 0;
  return whole ? length : 0;
}

// It becomes a word of a file that programs read.
std::string DomainIn(const Options& options) {
  const auto found = options.find(kDomain);
  if (found == options.end()) return "";
  std::string name = found->second.substr(0, found->second.find('\0'));
  if (name.ends_with('.')) name.pop_back();
  const bool valid = name.size() <= kMaxDomain && !name.starts_with('.') &&
                     std::all_of(name.begin(), name.end(), [](char c) {
                       const auto byte = static_cast<unsigned char>(c);
                       return absl::ascii_isalnum(byte) || c == '-' || c == '_' || c == '.';
                     });
  return valid ? name : "";
}

absl::Status NoMessage() { return absl::InvalidArgumentError("this is no DHCP server's message"); }

}  // namespace

std::string EncodeDhcp(const DhcpRequest& request) {
  std::string bytes(kOptionsAt, '\0');
  bytes[0] = kFromClient;
  bytes[1] = kEthernet;
  bytes[2] = static_cast<char>(request.mac.bytes.size());
  PutNumber(&bytes, kTransactionAt, 4, request.transaction);
  PutNumber(&bytes, kSecondsAt, 2, request.seconds);
  // Without an address it hears only what is for everybody.
  if (!request.has.has_value()) bytes[kFlagsAt] = kAnswerToAll;
  if (request.has.has_value()) bytes.replace(kClientAddressAt, 4, AddressBytes(*request.has));
  std::copy(request.mac.bytes.begin(), request.mac.bytes.end(), bytes.begin() + kHardwareAt);
  bytes.replace(kCookieAt, kCookie.size(), kCookie);
  AddOption(kMessageType, std::string(1, static_cast<char>(request.type)), &bytes);
  if (request.wants.has_value()) AddOption(kWants, AddressBytes(*request.wants), &bytes);
  if (request.server.has_value()) AddOption(kServer, AddressBytes(*request.server), &bytes);
  AddOption(kParameters, std::string_view(kAskedFor, sizeof(kAskedFor)), &bytes);
  bytes.push_back(static_cast<char>(kEnd));
  bytes.resize(std::max(bytes.size(), kShortest));
  return bytes;
}

absl::StatusOr<DhcpReply> DecodeDhcp(std::string_view datagram) {
  DhcpReply reply;
  if (datagram.size() < kOptionsAt || datagram[0] != kFromServer || datagram[1] != kEthernet ||
      static_cast<size_t>(datagram[2]) != reply.mac.bytes.size() ||
      datagram.substr(kCookieAt, kCookie.size()) != kCookie) {
    return NoMessage();
  }
  const Options options = AllOptions(datagram);
  const auto type = options.find(kMessageType);
  if (type == options.end() || type->second.size() != 1) return NoMessage();
  reply.type = static_cast<DhcpType>(type->second[0]);
  if (reply.type != DhcpType::kOffer && reply.type != DhcpType::kAck &&
      reply.type != DhcpType::kNak) {
    return NoMessage();
  }
  reply.transaction = NumberAt(datagram, kTransactionAt);
  const std::string_view mac = datagram.substr(kHardwareAt, reply.mac.bytes.size());
  std::copy(mac.begin(), mac.end(), reply.mac.bytes.begin());
  reply.address.address = AddressAt(datagram, kYourAddressAt);
  reply.address.length = PrefixLength(options, reply.address.address);
  reply.server = FirstIn(options, kServer);
  const std::optional<IpAddress> router = FirstIn(options, kRouter);
  const bool reached = router.has_value() && reply.address.length > 0 &&
                       reply.address.Contains(*router) && *router != reply.address.address;
  if (reached) reply.router = router;
  reply.name_servers = AddressesIn(options, kNameServers);
  reply.domain = DomainIn(options);
  reply.lease_seconds = NumberIn(options, kLeaseTime);
  reply.renew_seconds = NumberIn(options, kRenewTime);
  reply.rebind_seconds = NumberIn(options, kRebindTime);
  return reply;
}

}  // namespace ferry::net
