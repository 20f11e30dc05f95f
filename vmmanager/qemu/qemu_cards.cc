#include "vmmanager/qemu/qemu_cards.h"

#include <spdlog/spdlog.h>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/backend/adapters.h"
#include "vmmanager/qemu/qemu_command_line.h"

namespace ferry::vm {
namespace {

absl::Status NoNetwork() {
  return absl::FailedPreconditionError(
      "this host plugs nothing into bridges and tap devices; give the VM a card with user");
}

absl::Status NameCard(const absl::Status& status, const schema::NetworkAdapter& adapter) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat("the network card ", adapter.name,
                                                  " cannot be plugged in: ", status.message()));
}

}  // namespace

Task<absl::Status> CheckCard(std::shared_ptr<HostNetwork> network, schema::NetworkAdapter adapter) {
  if (adapter.user) co_return absl::OkStatus();
  if (network == nullptr) co_return NoNetwork();
  co_return co_await network->Check(std::move(adapter));
}

Task<absl::Status> QemuCards::Open(std::map<std::string, schema::NetworkAdapter> adapters) {
  const std::shared_ptr<HostNetwork> network = network_;
  std::map<int, UniqueFd> open;
  std::vector<int> taps;
  for (const auto& [number_text, adapter] : adapters) {
    if (adapter.user) continue;
    if (network == nullptr) co_return NameCard(NoNetwork(), adapter);
    CO_ASSIGN_OR_RETURN(const uint32_t number,
                        ParseSlot(number_text, kMaxAdapters, "Devices.NetworkAdapters"));
    schema::NetworkAdapter wanted = adapter;
    absl::StatusOr<Tap> tap = co_await network->Open(std::move(wanted));
    if (!tap.ok()) co_return NameCard(tap.status(), adapter);
    taps.push_back(tap->index);
    open[kFirstAdapterFd + static_cast<int>(number)] = std::move(tap->fd);
  }
  open_ = std::move(open);
  taps_ = std::move(taps);
  co_return absl::OkStatus();
}

void QemuCards::AddDescriptors(std::map<int, int>* descriptors) const {
  for (const auto& [number, fd] : open_) (*descriptors)[number] = fd.get();
}

Task<void> QemuCards::Carry(std::string vm) {
  if (!silent_) co_return;
  const uint64_t silences = silences_;
  absl::Status carries;
  if (const std::shared_ptr<HostNetwork> network = network_; !taps_.empty() && network != nullptr) {
    std::vector<int> taps = taps_;
    carries = co_await network->Carry(std::move(taps));
  }
  if (!carries.ok()) {
    spdlog::error("vm {}: its network does not carry: {}", vm, std::string(carries.message()));
    co_return;
  }
  // Silencing does not wait, so it may have been asked for meanwhile, and comes after this.
  if (silences_ == silences) silent_ = false;
}

void QemuCards::Silence() {
  silent_ = true;
  ++silences_;
  if (!taps_.empty() && network_ != nullptr) network_->Silence(taps_);
}

boost::json::array QemuCards::Record() const {
  return boost::json::array(taps_.begin(), taps_.end());
}

void QemuCards::Adopt(const boost::json::value* record) {
  const boost::json::array* taps = record == nullptr ? nullptr : record->if_array();
  if (taps == nullptr) return;
  for (const boost::json::value& tap : *taps) {
    boost::system::error_code error;
    const int index = tap.to_number<int>(error);
    if (!error && index > 0) taps_.push_back(index);
  }
}

}  // namespace ferry::vm
