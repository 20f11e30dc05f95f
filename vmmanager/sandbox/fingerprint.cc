#include "vmmanager/sandbox/fingerprint.h"

#include <sys/stat.h>

#include <cerrno>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/state/envelope.h"

namespace ferry::vm {

namespace {

constexpr uint64_t kMaxImageBytes = 1ull << 30;

}  // namespace

std::string DiskLine(const std::string& controller, const std::string& lun,
                     const schema::Attachment& disk) {
  return absl::StrCat("scsi ", controller, ":", lun, " ", disk.name, " ", disk.format,
                      disk.read_only ? " ro" : " rw");
}

std::string AdapterPlace(const schema::NetworkAdapter& adapter) {
  if (adapter.user) return "user";
  return adapter.tap.empty() ? absl::StrCat("bridge ", adapter.bridge)
                             : absl::StrCat("tap ", adapter.tap);
}

std::string AdapterLine(const std::string& number, const schema::NetworkAdapter& adapter) {
  return absl::StrCat("nic ", number, " ", adapter.name, " ", adapter.mac_address, " ",
                      AdapterPlace(adapter));
}

absl::StatusOr<ImageDigests::Known> ImageDigests::Look(const std::string& path,
                                                       const Known& known) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) {
    return absl::NotFoundError(
        absl::StrCat("cannot read guest image ", path, ": ", std::strerror(errno)));
  }
  if (!S_ISREG(info.st_mode)) {
    return absl::FailedPreconditionError(
        absl::StrCat("guest image ", path, " is not a regular file"));
  }
  Known now;
  now.size = static_cast<uint64_t>(info.st_size);
  now.inode = info.st_ino;
  now.changed_ns = info.st_ctim.tv_sec * 1'000'000'000 + info.st_ctim.tv_nsec;
  if (known.size == now.size && known.inode == now.inode && known.changed_ns == now.changed_ns) {
    return known;
  }
  ASSIGN_OR_RETURN(now.sha256, FileSha256(path, kMaxImageBytes));
  return now;
}

Task<absl::StatusOr<std::string>> ImageDigests::Get(std::string path) {
  Known before;
  if (const auto it = known_.find(path); it != known_.end()) before = it->second;
  std::function<absl::StatusOr<Known>()> look = [path, before] { return Look(path, before); };
  absl::StatusOr<Known> looked = co_await reads_.Run<Known>(path, std::move(look));
  if (!looked.ok()) co_return looked.status();
  if (known_.size() >= kMaxKnown && !known_.contains(path)) known_.erase(known_.begin());
  known_[path] = *looked;
  co_return looked->sha256;
}

state::v1::Fingerprint DescribeMachine(const schema::ComputeSystem& document,
                                       const BackendInfo& backend) {
  const schema::VirtualMachine& machine = document.virtual_machine;
  state::v1::Fingerprint fingerprint;
  fingerprint.set_backend(backend.name);
  fingerprint.set_backend_version(backend.version);
  fingerprint.set_accelerator(backend.accelerator);
  fingerprint.set_machine_type(machine.platform.machine_type);
  fingerprint.set_cpu_model(machine.platform.cpu_model);
  if (const CpuModel* model = backend.FindCpuModel(machine.platform.cpu_model)) {
    for (const std::string& feature : model->host_features) fingerprint.add_cpu_features(feature);
  }
  fingerprint.set_cpus(machine.compute_topology.processor.count);
  fingerprint.set_memory_mb(machine.compute_topology.memory.size_in_mb);
  if (machine.chipset.linux_kernel_direct.has_value()) {
    fingerprint.set_kernel_cmd_line(machine.chipset.linux_kernel_direct->kernel_cmd_line);
  }
  for (const auto& [controller, scsi] : machine.devices.scsi) {
    for (const auto& [lun, disk] : scsi.attachments) {
      fingerprint.add_devices(DiskLine(controller, lun, disk));
    }
  }
  for (const auto& [number, adapter] : machine.devices.network_adapters) {
    fingerprint.add_devices(AdapterLine(number, adapter));
  }
  if (machine.platform.layout != 0) {
    fingerprint.add_devices(absl::StrCat("layout ", machine.platform.layout));
  }
  const bool vsock =
      machine.devices.hv_socket.has_value() && machine.devices.hv_socket->guest_cid != 0;
  fingerprint.set_guest_link(vsock ? "vsock" : "virtio-serial");
  return fingerprint;
}

Task<absl::StatusOr<state::v1::Fingerprint>> MakeFingerprint(const schema::ComputeSystem& document,
                                                             const BackendInfo& backend,
                                                             ImageDigests& digests) {
  state::v1::Fingerprint fingerprint = DescribeMachine(document, backend);
  if (const auto& uefi = document.virtual_machine.chipset.uefi) {
    CO_ASSIGN_OR_RETURN(*fingerprint.mutable_firmware_sha256(),
                        co_await digests.Get(uefi->code_path));
  }
  if (document.virtual_machine.chipset.linux_kernel_direct.has_value()) {
    const schema::LinuxKernelDirect& boot = *document.virtual_machine.chipset.linux_kernel_direct;
    CO_ASSIGN_OR_RETURN(*fingerprint.mutable_kernel_sha256(),
                        co_await digests.Get(boot.kernel_file_path));
    CO_ASSIGN_OR_RETURN(*fingerprint.mutable_initrd_sha256(),
                        co_await digests.Get(boot.init_rd_path));
  }
  co_return fingerprint;
}

}  // namespace ferry::vm
