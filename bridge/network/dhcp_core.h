#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "bridge/network/dhcp_message.h"

namespace ferry::net {

// What an interface has of a server, for some time.
struct DhcpLease {
  IpPrefix address;
  IpAddress server;
  std::optional<IpAddress> router;
  std::vector<IpAddress> name_servers;
  std::string domain;
  bool operator==(const DhcpLease&) const = default;
};

// A DHCP client (RFC 2131) without I/O: bytes and times in, packets and a lease out. It asks for
// ever, less and less often. Its clock is one that stands still when the machine does, so it is
// told of that.
class DhcpCore {
 public:
  using Time = std::chrono::steady_clock::time_point;
  using Duration = std::chrono::steady_clock::duration;

  struct Packet {
    std::string bytes;
    std::optional<IpAddress> to;  // nullopt: everybody on the network
  };

  // `random` gives any number.
  DhcpCore(const MacAddress& mac, std::function<uint32_t()> random);

  void Start(Time now);
  // What was received.
  void Take(std::string_view datagram, Time now);
  // To be called at wake_at(), and harmless at any other time.
  void OnTime(Time now);
  Time wake_at() const;

  // The network may be another one: asks whether the lease holds there. It is kept while nobody
  // answers, for as long as it was given.
  void Confirm(Time now);
  // The clock has not seen that much time pass.
  void StoodStill(Duration duration, Time now);

  // What is to be sent.
  std::vector<Packet> TakePackets();
  // What the interface is to have now.
  const std::optional<DhcpLease>& lease() const { return lease_; }

 private:
  enum class State {
    kWaiting,     // until it may ask again
    kSelecting,   // for whoever offers something
    kRequesting,  // what was offered
    kConfirming,  // the lease that it has, on a network that may be another one
    kBound,
    kRenewing,   // with the lease's server
    kRebinding,  // with any server
  };

  void Discover(Time now);
  // Asks in that state for the first time.
  void Enter(State state, Time now);
  void Send(Time now);
  void Bind(const DhcpReply& reply, Time now);
  void SetTimes(const DhcpReply& reply);
  void Refused(Time now);
  void OnBoundTime(Time now);
  void OnNoConfirmation(Time now);
  bool Answers(const DhcpReply& reply) const;
  DhcpRequest RequestNow(Time now) const;
  Duration Backoff(int attempt) const;

  const MacAddress mac_;
  const std::function<uint32_t()> random_;
  State state_ = State::kWaiting;
  uint32_t transaction_ = 0;
  int sent_ = 0;         // in this state
  int refusals_ = 0;     // in a row
  Time began_;           // to ask
  Time confirms_since_;  // without an answer
  Time asked_;           // for the first time in this state: from then on a lease counts
  Time next_ = Time::max();
  DhcpReply offer_;
  std::optional<DhcpLease> lease_;
  Time renew_at_ = Time::max();
  Time rebind_at_ = Time::max();
  Time ends_at_ = Time::max();
  std::vector<Packet> packets_;
};

}  // namespace ferry::net
