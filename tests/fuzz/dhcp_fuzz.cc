// A DHCP server, or whoever else is on the guest's network, at the agent's end.

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "bridge/network/dhcp_core.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/unit/bridge/network/dhcp_messages.h"

namespace ferry::fuzz {
namespace {

using net::DhcpCore;

constexpr uint8_t kFirstMacByte = 2;

class Client {
 public:
  Client() {
    core_.Start(now_);
    Look();
  }

  void Hear(std::string_view bytes) {
    core_.Take(bytes, now_);
    Look();
  }

  // As a server would that has heard what the client asked for.
  void Answer(uint8_t type, std::string_view options) {
    std::string bytes = net::ServerMessage(static_cast<net::DhcpType>(type), number_, mac_,
                                           "192.0.2.50", {{54, "\xc0\x01\x02\x03"}});
    bytes.pop_back();
    Hear(bytes.append(options));
  }

  void LetTimePass() {
    if (core_.wake_at() == DhcpCore::Time::max()) return;
    // There is always something to wait for.
    Check(core_.wake_at() >= now_);
    now_ = core_.wake_at();
    core_.OnTime(now_);
    Look();
  }

  void Confirm() {
    core_.Confirm(now_);
    Look();
  }

  void StandStill(uint8_t hours) {
    core_.StoodStill(std::chrono::hours(hours), now_);
    Look();
  }

 private:
  // One packet at most for whatever happens, and nothing that cannot be is the lease.
  void Look() {
    Check(core_.TakePackets().size() <= 2);
    if (!core_.lease().has_value()) return;
    const net::DhcpLease& lease = *core_.lease();
    Check(net::IsHostAddress(lease.address.address) && lease.address.length > 0);
    Check(!lease.router.has_value() || lease.address.Contains(*lease.router));
    Check(lease.name_servers.size() <= net::kMaxNameServers);
    for (const char c : lease.domain) Check(c > ' ' && c < 127);
  }

  static net::MacAddress Mac() {
    net::MacAddress mac;
    mac.bytes[0] = kFirstMacByte;
    return mac;
  }

  const net::MacAddress mac_ = Mac();
  // Always the same, so that answers fit.
  const uint32_t number_ = 7;
  DhcpCore core_{mac_, [this] { return number_; }};
  DhcpCore::Time now_{std::chrono::hours(1)};
};

}  // namespace

std::vector<std::string> Seeds() {
  const std::string options = net::EncodeOptions({{1, net::BytesOfIp("255.255.255.0")},
                                                  {3, net::BytesOfIp("192.0.2.1")},
                                                  {6, net::BytesOfIp("192.0.2.2")},
                                                  {15, "example.org"},
                                                  {51, net::Bytes(60)}});
  const std::string bound = Part(2, options) + Part(5, options);
  return {bound, bound + Part(7, "") + Part(7, "") + Part(6, options) + Part(8, ""),
          bound + Part(8, "") + Part(5, options) + Part(9, "\x30") + Part(7, "")};
}

}  // namespace ferry::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace ferry::fuzz;  // NOLINT: the entry point must be global
  Input input(data, size);
  Client client;
  while (!input.empty()) {
    const uint8_t what = input.Byte() % 10;
    const std::string_view text = input.Take(input.Byte());
    if (what == 7) {
      client.LetTimePass();
    } else if (what == 8) {
      client.Confirm();
    } else if (what == 9) {
      client.StandStill(text.empty() ? 0 : static_cast<uint8_t>(text[0]));
    } else if (what == 0) {
      client.Hear(text);
    } else {
      client.Answer(what, text);
    }
  }
  return 0;
}
