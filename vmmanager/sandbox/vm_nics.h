#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "bridge/network/address.h"
#include "bridge/protocol/network_messages.h"
#include "ferry/v1/vm.pb.h"
#include "vmmanager/schema/compute_system.h"

// The network cards of a VM's specification.
namespace ferry::vm {

// Fills in defaults, and refuses what cannot be, of each card and of all of them together:
// INVALID_ARGUMENT names the member, its value and what is allowed. MAC addresses stay empty where
// they are. What is complete is not changed.
absl::Status CompleteNics(v1::VmSpec* spec);

// Makes those that are empty: unicast, locally administered, and none of `taken`.
void MakeMacs(const std::set<net::MacAddress>& taken, v1::VmSpec* spec);

// Those of a machine; what is none is left out.
std::set<net::MacAddress> MacsOf(const schema::ComputeSystem& document);

// The cards as the machine document has them; by number.
std::map<std::string, schema::NetworkAdapter> AdaptersOf(const v1::VmSpec& spec);

// What the guest is told to do with them.
std::vector<bridge::NetworkAdapter> GuestAdaptersOf(const v1::VmSpec& spec);

// Whether a card of it asks a DHCP server for its address.
bool AsksForLeases(const v1::VmSpec& spec);

// What the guest says that such cards have; what cannot be is left out.
std::vector<v1::NicLease> LeasesOf(const v1::VmSpec& spec,
                                   const std::vector<bridge::NetworkLease>& told);

}  // namespace ferry::vm
