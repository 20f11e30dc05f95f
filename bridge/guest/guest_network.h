#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/guest/dhcp_client.h"
#include "bridge/network/route_messages.h"
#include "bridge/protocol/network_messages.h"
#include "bridge/runtime/async.h"

namespace ferry::bridge {

// The guest's network cards.
class GuestNetwork {
 public:
  virtual ~GuestNetwork() = default;

  // Makes the card an interface with that name, its addresses and routes; an address by DHCP comes
  // when it comes. NOT_FOUND if there is no such card, INVALID_ARGUMENT if it cannot be what is
  // asked for. Repeating it does no harm.
  virtual absl::Status Add(const NetworkAdapter& adapter) = 0;

  // What a resolv.conf says of the name servers that there are now.
  virtual std::string resolver() const = 0;
  // Is called when that has changed.
  virtual void set_on_resolver(std::function<void()> callback) = 0;

  // The cards may have come to other networks: asks there for what they have by DHCP.
  virtual void Confirm() = 0;
  // The guest has stood still for so long, which clocks that only go forward do not show.
  virtual void StoodStill(std::chrono::nanoseconds duration) = 0;
  // What the cards have by DHCP.
  virtual std::vector<NetworkLease> leases() const = 0;
};

// What the kernel is asked for, one after the other, and what that is for.
struct NetworkStep {
  std::string request;
  std::string what;
  bool may_exist = false;  // it does no harm if that is there already
  bool may_fail = false;   // nor if it is not done
};

// The kernel's. Loads the cards' driver when the first one is asked for.
class LinuxGuestNetwork : public GuestNetwork {
 public:
  struct Options {
    std::string resolver_file = "/etc/resolv.conf";
    std::function<void(const std::string&)> log;
  };

  LinuxGuestNetwork(Executor executor, Options options);

  absl::Status Add(const NetworkAdapter& adapter) override;
  std::string resolver() const override { return resolver_; }
  void set_on_resolver(std::function<void()> callback) override {
    on_resolver_ = std::move(callback);
  }
  void Confirm() override;
  void StoodStill(std::chrono::nanoseconds duration) override;
  std::vector<NetworkLease> leases() const override;

 private:
  struct Card {
    std::string name;
    std::vector<net::IpAddress> name_servers;  // that were given
    std::shared_ptr<DhcpClient> dhcp;          // nullptr: its addresses were given
  };

  absl::Status Apply(std::vector<NetworkStep> steps);
  absl::Status Ask(const net::Link& link, Card* card);
  void OnLease(int index, const std::string& name, const DhcpClient::Lease& before,
               const DhcpClient::Lease& now);
  void SetResolver();

  const Executor executor_;
  const Options options_;
  bool driver_loaded_ = false;
  std::vector<Card> cards_;  // in the order in which they came
  std::string resolver_;
  std::function<void()> on_resolver_;
};

// Without I/O: the interface that the card is among these, and how it becomes what is asked for.
absl::StatusOr<net::Link> FindCard(const NetworkAdapter& adapter,
                                   const std::vector<net::Link>& links);
absl::StatusOr<std::vector<NetworkStep>> PlanNetwork(const NetworkAdapter& adapter,
                                                     const std::vector<net::Link>& links);

// The same for what an interface had of a DHCP server, and is to have.
std::vector<NetworkStep> PlanLease(int index, const std::string& name,
                                   const DhcpClient::Lease& before, const DhcpClient::Lease& now);

}  // namespace ferry::bridge
