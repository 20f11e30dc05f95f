#include "vmmanager/sandbox/machine_document.h"

#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::vm {
namespace {

constexpr uint64_t kDefaultMemoryMb = 256;
constexpr uint64_t kMinMemoryMb = 64;
constexpr uint64_t kMaxMemoryMb = 1024 * 1024;
constexpr uint32_t kMaxCpus = 255;
constexpr int kMaxDisks = 64;
constexpr size_t kMaxNameSize = 64;
constexpr size_t kMaxPathSize = 4096;
constexpr size_t kMaxKernelArgs = 2048;

absl::Status Refuse(const std::string& what, const std::string& rule) {
  return absl::InvalidArgumentError(absl::StrCat(what, "; ", rule));
}

bool IsName(const std::string& name) {
  if (name.empty() || name.size() > kMaxNameSize || !absl::ascii_isalnum(name[0])) return false;
  for (char c : name) {
    if (!absl::ascii_isalnum(c) && c != '-' && c != '_' && c != '.') return false;
  }
  return true;
}

absl::Status CheckPath(const std::string& member, const std::string& path) {
  if (path.empty()) return absl::OkStatus();
  if (path[0] != '/' || path.size() > kMaxPathSize || path.find('\0') != std::string::npos) {
    return Refuse(absl::StrCat(member, " is \"", path, "\""), "give an absolute path");
  }
  return absl::OkStatus();
}

absl::Status CompleteDisk(v1::DiskSpec& disk, std::set<std::string>& names) {
  if (disk.format().empty()) disk.set_format("qcow2");
  if (disk.format() != "qcow2" && disk.format() != "raw") {
    return Refuse(absl::StrCat("disk format is \"", disk.format(), "\""), "use qcow2 or raw");
  }
  if (!IsName(disk.name())) {
    return Refuse(absl::StrCat("disk name is \"", disk.name(), "\""),
                  "use letters, digits, '-', '_' and '.', at most 64, first a letter or digit");
  }
  if (!names.insert(disk.name()).second) {
    return Refuse(absl::StrCat("two disks are named \"", disk.name(), "\""),
                  "give each its own name");
  }
  if (disk.file().empty()) {
    return Refuse(absl::StrCat("disk ", disk.name(), " has no file"), "give file=PATH");
  }
  return CheckPath(absl::StrCat("file of disk ", disk.name()), disk.file());
}

}  // namespace

absl::StatusOr<v1::VmSpec> CompleteSpec(const v1::VmSpec& given) {
  v1::VmSpec spec = given;
  if (!IsName(spec.name())) {
    return Refuse(absl::StrCat("the VM's name is \"", spec.name(), "\""),
                  "use letters, digits, '-', '_' and '.', at most 64, first a letter or digit");
  }
  if (spec.memory_mb() == 0) spec.set_memory_mb(kDefaultMemoryMb);
  if (spec.memory_mb() < kMinMemoryMb || spec.memory_mb() > kMaxMemoryMb) {
    return Refuse(absl::StrCat("memory is ", spec.memory_mb(), " MiB"),
                  absl::StrCat("use ", kMinMemoryMb, " to ", kMaxMemoryMb));
  }
  if (spec.cpus() == 0) spec.set_cpus(1);
  if (spec.cpus() > kMaxCpus) {
    return Refuse(absl::StrCat("cpus is ", spec.cpus()), absl::StrCat("use 1 to ", kMaxCpus));
  }
  if (spec.disks_size() > kMaxDisks) {
    return Refuse(absl::StrCat("there are ", spec.disks_size(), " disks"),
                  absl::StrCat("use at most ", kMaxDisks));
  }
  std::set<std::string> names;
  for (v1::DiskSpec& disk : *spec.mutable_disks()) RETURN_IF_ERROR(CompleteDisk(disk, names));
  RETURN_IF_ERROR(CheckPath("kernel", spec.kernel()));
  RETURN_IF_ERROR(CheckPath("initrd", spec.initrd()));
  if (spec.kernel_args().size() > kMaxKernelArgs) {
    return Refuse("kernel_args is too long", absl::StrCat("use at most ", kMaxKernelArgs));
  }
  return spec;
}

schema::ComputeSystem BuildDocument(const v1::VmSpec& spec, const HostSettings& host,
                                    const BackendInfo& backend, uint32_t guest_cid) {
  schema::ComputeSystem document;
  schema::VirtualMachine& machine = document.virtual_machine;
  schema::LinuxKernelDirect& boot = machine.chipset.linux_kernel_direct.emplace();
  boot.kernel_file_path = spec.kernel().empty() ? host.kernel : spec.kernel();
  boot.init_rd_path = spec.initrd().empty() ? host.initrd : spec.initrd();
  boot.kernel_cmd_line = host.kernel_args;
  if (!spec.kernel_args().empty()) {
    if (!boot.kernel_cmd_line.empty()) boot.kernel_cmd_line += ' ';
    boot.kernel_cmd_line += spec.kernel_args();
  }
  machine.compute_topology.memory.size_in_mb = spec.memory_mb();
  machine.compute_topology.processor.count = spec.cpus();
  int lun = 0;
  for (const v1::DiskSpec& disk : spec.disks()) {
    schema::Attachment& attachment = machine.devices.scsi["0"].attachments[absl::StrCat(lun++)];
    attachment.path = disk.file();
    attachment.read_only = disk.read_only();
    attachment.name = disk.name();
    attachment.format = disk.format();
  }
  if (guest_cid != 0) machine.devices.hv_socket.emplace().guest_cid = guest_cid;
  machine.platform.machine_type = backend.machine_type;
  return document;
}

}  // namespace ferry::vm
