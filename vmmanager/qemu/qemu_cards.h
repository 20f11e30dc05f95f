#pragma once

#include <boost/json/array.hpp>
#include <boost/json/value.hpp>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "bridge/runtime/async.h"
#include "vmmanager/network/host_network.h"
#include "vmmanager/schema/compute_system.h"

namespace ferry::vm {

// The host's ends of one QEMU's network cards. QEMU has them open, so they live as long as it does.
class QemuCards {
 public:
  // `network`: nullptr on a host that plugs nothing in.
  explicit QemuCards(std::shared_ptr<HostNetwork> network) : network_(std::move(network)) {}

  // Plugs them in; they carry nothing yet. FAILED_PRECONDITION names the card, and what to do.
  Task<absl::Status> Open(std::map<std::string, schema::NetworkAdapter> adapters);
  // What QEMU inherits: numbers of its own to descriptors of ours.
  void AddDescriptors(std::map<int, int>* descriptors) const;
  // QEMU has them now.
  void CloseDescriptors() { open_.clear(); }

  // Lets them carry, if they are silent. That some do not keeps nobody from running: it is logged,
  // and they stay silent, so that the next time is another attempt. It must outlive the call.
  Task<void> Carry(std::string vm);
  // Lets them carry nothing from here on.
  void Silence();
  // Whether some carry nothing, for all that is known.
  bool silent() const { return silent_; }

  // For an adoption record, and the opposite.
  boost::json::array Record() const;
  void Adopt(const boost::json::value* record);

 private:
  std::shared_ptr<HostNetwork> network_;
  std::vector<int> taps_;
  std::map<int, UniqueFd> open_;  // by QEMU's number
  bool silent_ = true;            // also of cards without taps
  uint64_t silences_ = 0;
};

// FAILED_PRECONDITION if this host could not plug it in; see Backend::CheckAdapter.
Task<absl::Status> CheckCard(std::shared_ptr<HostNetwork> network, schema::NetworkAdapter adapter);

}  // namespace ferry::vm
