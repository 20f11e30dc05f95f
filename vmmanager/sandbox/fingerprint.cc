#include "vmmanager/sandbox/fingerprint.h"

#include <sys/stat.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cerrno>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/state/envelope.h"

namespace ferry::vm {

namespace {

constexpr uint64_t kMaxImageBytes = 1ull << 30;

// A file system that hangs takes them away, and only them.
constexpr size_t kThreads = 2;

}  // namespace

ImageDigests::ImageDigests()
    : threads_(std::make_unique<asio::thread_pool>(kThreads)), files_(threads_->get_executor()) {}

ImageDigests::ImageDigests(Executor files) : files_(std::move(files)) {}

ImageDigests::~ImageDigests() = default;

Task<absl::StatusOr<ImageDigests::Known>> ImageDigests::Look(std::string path, Known known) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) {
    co_return absl::NotFoundError(
        absl::StrCat("cannot read guest image ", path, ": ", std::strerror(errno)));
  }
  if (!S_ISREG(info.st_mode)) {
    co_return absl::FailedPreconditionError(
        absl::StrCat("guest image ", path, " is not a regular file"));
  }
  Known now;
  now.size = static_cast<uint64_t>(info.st_size);
  now.inode = info.st_ino;
  now.changed_ns = info.st_ctim.tv_sec * 1'000'000'000 + info.st_ctim.tv_nsec;
  if (known.size == now.size && known.inode == now.inode && known.changed_ns == now.changed_ns) {
    co_return known;
  }
  CO_ASSIGN_OR_RETURN(now.sha256, FileSha256(path, kMaxImageBytes));
  co_return now;
}

Task<absl::StatusOr<std::string>> ImageDigests::Get(std::string path) {
  Known before;
  if (const auto it = known_.find(path); it != known_.end()) before = it->second;
  auto look = Look(path, std::move(before));
  auto looked = co_await asio::co_spawn(files_, std::move(look), asio::use_awaitable);
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
      fingerprint.add_devices(absl::StrCat("scsi ", controller, ":", lun, " ", disk.name, " ",
                                           disk.format, disk.read_only ? " ro" : " rw"));
    }
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
