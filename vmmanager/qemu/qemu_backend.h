#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "bridge/runtime/unique_fd.h"
#include "vmmanager/backend/compute_system.h"
#include "vmmanager/network/host_network.h"
#include "vmmanager/qemu/guest_link.h"
#include "vmmanager/qemu/process_user.h"

namespace ferry::vm {

// A descriptor that a VM's QEMU has open as long as it lives, unused: what hangs on it, such as a
// lock, outlives this process with the VM.
struct KeptDescriptor {
  // Of ours, to be inherited by that VM's QEMU; -1: none.
  std::function<int(const std::string& vm_id)> of;
  // The same, from a QEMU that a former daemon process left running; or why it cannot be had.
  std::function<void(const std::string& vm_id, absl::StatusOr<UniqueFd> kept)> take_back;
};

struct QemuBackendConfig {
  std::string binary = "/usr/bin/qemu-system-x86_64";
  std::string state_dir;            // 0700; holds a folder for each running VM
  bool allow_kvm = true;            // false: software emulation without measuring
  std::optional<ProcessUser> user;  // QEMU runs as this user instead of the daemon's
  std::string cgroup_parent;  // cgroup v2 folder; each QEMU gets a child of it. Empty: the daemon's
  std::optional<int> niceness;               // of each QEMU; absent: the daemon's
  std::vector<std::string> extra_arguments;  // appended to each command line; for firmware tests
  GuestLinkFactory make_link;
  std::optional<KeptDescriptor> kept;
  std::string virtiofsd = "/usr/lib/qemu/virtiofsd";  // serves the folders that VMs share
  std::shared_ptr<HostNetwork> network;  // nullptr: no card is plugged into bridges or taps
};

struct QemuHost;

// Runs utility VMs with QEMU.
class QemuBackend : public Backend {
 public:
  // Probes the binary and the accelerator.
  static Task<absl::StatusOr<std::unique_ptr<QemuBackend>>> Open(Executor executor,
                                                                 QemuBackendConfig config);

  const BackendInfo& info() const override;
  absl::StatusOr<HostMemory> memory() const override;
  Task<absl::Status> CheckAdapter(schema::NetworkAdapter adapter) override;
  Task<absl::StatusOr<std::unique_ptr<ComputeSystem>>> Create(
      const std::string& id, const schema::ComputeSystem& document) override;
  Task<absl::StatusOr<std::unique_ptr<ComputeSystem>>> Adopt(
      const std::string& id, const schema::ComputeSystem& document,
      const std::string& adoption_record) override;
  Task<void> EndAllBut(std::vector<std::string> adoption_records) override;

 private:
  explicit QemuBackend(std::shared_ptr<const QemuHost> host) : host_(std::move(host)) {}
  std::shared_ptr<const QemuHost> host_;
};

}  // namespace ferry::vm
