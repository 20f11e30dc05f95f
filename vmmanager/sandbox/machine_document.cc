#include "vmmanager/sandbox/machine_document.h"

#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <numeric>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/backend/shares.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/sandbox/own_disks.h"
#include "vmmanager/sandbox/real_folder.h"
#include "vmmanager/sandbox/vm_nics.h"
#include "vmmanager/state/unknown_fields.h"

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

// Left in, they would be told back to whoever asked as if the VM had them.
absl::Status CheckIsKnown(const v1::VmSpec& spec) {
  const std::optional<UnknownField> unknown = FindUnknownCritical(spec);
  if (!unknown) return absl::OkStatus();
  return rpc::ErrorWithReason(
      absl::StatusCode::kFailedPrecondition,
      absl::StrCat("field ", unknown->number, " of ", unknown->message,
                   " is not known to this ferryd, which is older than who asks"),
      "unknown_field", "Use a ferryd as new as that, or ask for nothing that is newer than it.");
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

// How many letters must be changed, added or left out to make one of the other; case does not
// count.
size_t Distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t before = std::exchange(row[0], i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const bool same = absl::ascii_tolower(a[i - 1]) == absl::ascii_tolower(b[j - 1]);
      const size_t changed = before + (same ? 0 : 1);
      before = row[j];
      row[j] = std::min({changed, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row.back();
}

// The models that a VM can be pinned to here and whose names are most like that one.
std::vector<std::string> NearModels(const std::string& model, const BackendInfo& backend) {
  constexpr size_t kFar = 3;
  constexpr size_t kMost = 3;
  std::vector<std::pair<size_t, std::string>> near;
  for (const CpuModel& known : backend.cpu_models) {
    if (!known.missing_features.empty() || known.name.size() > kMaxNameSize) continue;
    const size_t distance = Distance(model, known.name);
    if (distance <= kFar || absl::StartsWithIgnoreCase(known.name, model)) {
      near.emplace_back(distance, known.name);
    }
  }
  std::sort(near.begin(), near.end());
  std::vector<std::string> names;
  for (size_t i = 0; i < near.size() && i < kMost; ++i) names.push_back(near[i].second);
  return names;
}

absl::Status CheckShares(const v1::VmSpec& spec) {
  if (spec.shares().empty()) return absl::OkStatus();
  if (!spec.stays()) {
    return Refuse("the VM is to share folders of this host, which could not move with it",
                  "say that it stays (ferryctl vm create --stays)");
  }
  if (spec.shares_size() > static_cast<int>(kMaxShares)) {
    return Refuse(absl::StrCat("there are ", spec.shares_size(), " shares"),
                  absl::StrCat("use at most ", kMaxShares));
  }
  for (const v1::ShareSpec& share : spec.shares()) {
    RETURN_IF_ERROR(CheckFolderPath("host_path of a share", share.host_path()));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckSharesNothing(const v1::VmSpec& spec, const std::string& next_step) {
  if (spec.shares().empty()) return absl::OkStatus();
  return rpc::ErrorWithReason(
      absl::StatusCode::kFailedPrecondition,
      absl::StrCat("VM ", spec.name(), " cannot be saved: it shares folders of this host (",
                   spec.shares(0).host_path(), spec.shares_size() > 1 ? " and more" : "",
                   "), and what it has open in them cannot be saved"),
      "vm_has_shares", next_step);
}

absl::Status CheckSaveOnStop(const v1::VmSpec& spec) {
  if (!v1::SaveOnStop_IsValid(spec.save_on_stop())) {
    return absl::InvalidArgumentError(
        absl::StrCat("save_on_stop is ", static_cast<int>(spec.save_on_stop()),
                     "; it may be 0 (as the host says), 1 (yes) or 2 (no)"));
  }
  if (spec.save_on_stop() != v1::SAVE_ON_STOP_YES) return absl::OkStatus();
  return CheckSharesNothing(spec,
                            "Do without --save-on-stop; it is shut down where it is stopped.");
}

absl::Status WriteSpec(const v1::VmSpec& spec, std::string* json) {
  json->clear();
  if (google::protobuf::util::MessageToJsonString(spec, json).ok()) return absl::OkStatus();
  return absl::InternalError("the VM's specification could not be written as JSON");
}

absl::Status ReadSpec(const std::string& json, v1::VmSpec* spec) {
  const auto read = google::protobuf::util::JsonStringToMessage(json, spec);
  if (read.ok()) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat("the VM's specification could not be read: ", std::string(read.message())));
}

Task<absl::Status> ResolveShares(FileReads* reads, v1::VmSpec* spec) {
  std::set<std::string> paths;
  for (v1::ShareSpec& share : *spec->mutable_shares()) {
    CO_ASSIGN_OR_RETURN(std::string path, co_await FindRealPath(reads, share.host_path()));
    if (!paths.insert(path).second) {
      co_return Refuse(absl::StrCat("two shares are the folder ", path), "leave one of them out");
    }
    share.set_host_path(std::move(path));
  }
  co_return absl::OkStatus();
}

absl::Status CompleteSize(v1::VmSpec* spec) {
  if (spec->memory_mb() == 0) spec->set_memory_mb(kDefaultMemoryMb);
  if (spec->memory_mb() < kMinMemoryMb || spec->memory_mb() > kMaxMemoryMb) {
    return Refuse(absl::StrCat("memory is ", spec->memory_mb(), " MiB"),
                  absl::StrCat("use ", kMinMemoryMb, " to ", kMaxMemoryMb));
  }
  if (spec->cpus() == 0) spec->set_cpus(1);
  if (spec->cpus() <= kMaxCpus) return absl::OkStatus();
  return Refuse(absl::StrCat("cpus is ", spec->cpus()), absl::StrCat("use 1 to ", kMaxCpus));
}

void CopySettings(const v1::VmSpec& from, v1::VmSpec* to) {
  to->set_save_on_stop(from.save_on_stop());
  to->set_autostart(from.autostart());
  to->set_memory_mb(from.memory_mb());
  to->set_cpus(from.cpus());
}

absl::StatusOr<v1::VmSpec> CompleteSpec(const v1::VmSpec& given) {
  RETURN_IF_ERROR(CheckIsKnown(given));
  v1::VmSpec spec = given;
  if (!IsName(spec.name())) {
    return Refuse(absl::StrCat("the VM's name is \"", spec.name(), "\""),
                  "use letters, digits, '-', '_' and '.', at most 64, first a letter or digit");
  }
  RETURN_IF_ERROR(CompleteSize(&spec));
  if (spec.disks_size() > kMaxDisks) {
    return Refuse(absl::StrCat("there are ", spec.disks_size(), " disks"),
                  absl::StrCat("use at most ", kMaxDisks));
  }
  std::set<std::string> names;
  for (v1::DiskSpec& disk : *spec.mutable_disks()) RETURN_IF_ERROR(CompleteDisk(disk, names));
  RETURN_IF_ERROR(CheckLuns(spec));
  RETURN_IF_ERROR(CheckPath("kernel", spec.kernel()));
  RETURN_IF_ERROR(CheckPath("initrd", spec.initrd()));
  if (spec.kernel_args().size() > kMaxKernelArgs) {
    return Refuse("kernel_args is too long", absl::StrCat("use at most ", kMaxKernelArgs));
  }
  RETURN_IF_ERROR(CheckShares(spec));
  RETURN_IF_ERROR(CompleteNics(&spec));
  if (!v1::Firmware_IsValid(spec.firmware())) {
    return Refuse(absl::StrCat("firmware is ", static_cast<int>(spec.firmware())),
                  "use 1 (bios) or 2 (ovmf)");
  }
  // Said nowhere, so that hosts that know no other one take it.
  if (spec.firmware() == v1::FIRMWARE_BIOS) spec.clear_firmware();
  if (spec.cpu_model().size() > kMaxNameSize) {
    return Refuse("cpu_model is too long", absl::StrCat("use at most ", kMaxNameSize));
  }
  return spec;
}

absl::Status CheckCpuModel(const std::string& model, const BackendInfo& backend) {
  if (model.empty()) return absl::OkStatus();
  const CpuModel* known = backend.FindCpuModel(model);
  if (known == nullptr) {
    const std::vector<std::string> near = NearModels(model, backend);
    return Refuse(absl::StrCat("cpu_model is \"", model, "\", which ", backend.name, " ",
                               backend.version, " does not know"),
                  near.empty() ? "ferryctl host --output json lists those it knows"
                               : absl::StrCat("did you mean ", absl::StrJoin(near, ", "), "?"));
  }
  if (known->missing_features.empty()) return absl::OkStatus();
  return Refuse(absl::StrCat("cpu_model is ", model, ", of which this host (", backend.accelerator,
                             ") lacks ", absl::StrJoin(known->missing_features, ", ")),
                "choose one that all hosts have; ferryctl host --output json lists this one's");
}

absl::Status CheckLayout(const v1::VmSpec& spec, const BackendInfo& backend) {
  if (spec.layout() <= backend.layout) return absl::OkStatus();
  return Refuse(absl::StrCat("layout is ", spec.layout()),
                absl::StrCat("this host with its ", backend.name, " ", backend.version,
                             " has 0 to ", backend.layout));
}

void SetSize(const v1::VmSpec& spec, schema::ComputeSystem* document) {
  schema::Topology& topology = document->virtual_machine.compute_topology;
  topology.memory.size_in_mb = spec.memory_mb();
  topology.processor.count = spec.cpus();
}

std::string SizeWords(uint64_t memory_mb, uint32_t cpus) {
  return absl::StrCat(memory_mb, " MiB of memory and ", cpus, cpus == 1 ? " CPU" : " CPUs");
}

schema::ComputeSystem BuildDocument(const v1::VmSpec& spec, const HostSettings& host,
                                    const BackendInfo& backend, uint32_t guest_cid) {
  schema::ComputeSystem document;
  schema::VirtualMachine& machine = document.virtual_machine;
  if (spec.firmware() == v1::FIRMWARE_OVMF) {
    machine.chipset.uefi.emplace().code_path = host.firmware.code;
  }
  schema::LinuxKernelDirect& boot = machine.chipset.linux_kernel_direct.emplace();
  boot.kernel_file_path = spec.kernel().empty() ? host.kernel : spec.kernel();
  boot.init_rd_path = spec.initrd().empty() ? host.initrd : spec.initrd();
  boot.kernel_cmd_line = host.kernel_args;
  if (!spec.kernel_args().empty()) {
    if (!boot.kernel_cmd_line.empty()) boot.kernel_cmd_line += ' ';
    boot.kernel_cmd_line += spec.kernel_args();
  }
  SetSize(spec, &document);
  for (int i = 0; i < spec.disks_size(); ++i) {
    machine.devices.scsi[kDiskController].attachments[absl::StrCat(LunOf(spec, i))] =
        AttachmentFor(spec.disks(i));
  }
  int number = 0;
  for (const v1::ShareSpec& share : spec.shares()) {
    machine.devices.shares[absl::StrCat(number++)] = {share.host_path(), share.read_only()};
  }
  machine.devices.network_adapters = AdaptersOf(spec);
  if (guest_cid != 0) machine.devices.hv_socket.emplace().guest_cid = guest_cid;
  machine.platform.machine_type = backend.machine_type;
  machine.platform.cpu_model = spec.cpu_model().empty() ? backend.cpu_model : spec.cpu_model();
  machine.platform.layout = spec.has_layout() ? spec.layout() : backend.layout;
  return document;
}

}  // namespace ferry::vm
