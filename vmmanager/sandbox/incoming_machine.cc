#include "vmmanager/sandbox/incoming_machine.h"

#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/backend/adapters.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/sandbox/disk_marks.h"
#include "vmmanager/sandbox/disk_size.h"
#include "vmmanager/sandbox/firmware_store.h"
#include "vmmanager/sandbox/own_disks.h"
#include "vmmanager/sandbox/real_folder.h"
#include "vmmanager/state/fingerprint_check.h"

namespace ferry::vm {
namespace {

constexpr size_t kMostWords = 512;  // of another host's
constexpr char kRequired[] = "required";
constexpr char kUnknown[] = "unknown";

void Add(std::vector<v1::Difference>& list, const std::string& field, const std::string& source,
         const std::string& destination) {
  v1::Difference& difference = list.emplace_back();
  difference.set_field(field);
  difference.set_source(source);
  difference.set_destination(destination);
}

std::string NameOf(const std::string& controller, const std::string& lun,
                   const schema::Attachment& disk) {
  return disk.name.empty() ? absl::StrCat(controller, ":", lun) : disk.name;
}

// They are bound one by one later, wherever this host has them.
bool IsContainers(const state::v1::VmPayload& vm, const std::string& controller,
                  const std::string& lun) {
  const auto is = [&](const state::v1::ContainerDisk& disk) {
    return absl::StrCat(disk.controller()) == controller && absl::StrCat(disk.lun()) == lun;
  };
  for (const state::v1::ContainerRecord& container : vm.containers()) {
    if (container.has_scratch_disk() && is(container.scratch_disk())) return true;
    for (const state::v1::ContainerLayer& layer : container.layers()) {
      if (layer.has_disk() && is(layer.disk())) return true;
    }
  }
  return false;
}

struct Image {
  std::string path;
  absl::StatusOr<std::string> digest;
};

// The file at the source's path if it has the wanted content, else this host's default. A path that
// a peer names must not tell it what is in the file.
Task<Image> FindImage(std::string path, std::string fallback, std::string wanted,
                      ImageDigests* digests) {
  absl::StatusOr<std::string> digest = co_await digests->Get(path);
  if (digest.ok() && *digest != wanted) {
    digest = absl::FailedPreconditionError(absl::StrCat(path, " has other content"));
  }
  if (fallback.empty() || digest.ok()) co_return Image{std::move(path), std::move(digest)};
  digest = co_await digests->Get(fallback);
  co_return Image{std::move(fallback), std::move(digest)};
}

// Why there is no image says more than that there is none.
void Explain(std::vector<v1::Difference>& differences, const std::string& field,
             const absl::Status& status) {
  if (status.ok()) return;
  const std::string trouble(status.message());
  for (v1::Difference& difference : differences) {
    if (difference.field() != field) continue;
    difference.set_destination(trouble);
    return;
  }
  // The source does not say what it has, so there is nothing to compare with.
  Add(differences, field, kUnknown, trouble);
}

// What the VMM of this host cannot give, which a document alone does not show.
void CompareWithBackend(const state::v1::Fingerprint& source, uint32_t layout,
                        const BackendInfo& backend, std::vector<v1::Difference>& differences) {
  const std::string vmm = absl::StrCat(backend.name, " ", backend.version);
  if (!source.machine_type().empty() && !backend.HasMachineType(source.machine_type())) {
    Add(differences, "machine_type", source.machine_type(), absl::StrCat("unknown to ", vmm));
  }
  if (layout > backend.layout) {
    Add(differences, "machine_type", absl::StrCat(source.machine_type(), " in layout ", layout),
        absl::StrCat(vmm, " has no layout above ", backend.layout));
  }
  if (source.cpu_model().empty()) return;
  const CpuModel* model = backend.FindCpuModel(source.cpu_model());
  if (model == nullptr) {
    Add(differences, "cpu_model", source.cpu_model(), absl::StrCat("unknown to ", vmm));
  } else if (!model->missing_features.empty()) {
    Add(differences, "cpu_model", source.cpu_model(),
        absl::StrCat("this host's CPUs lack ", absl::StrJoin(model->missing_features, ", ")));
  }
}

// Why what is at that path here is not the disk that its source describes, if it does; empty if it
// is.
Task<std::string> WhyNotSeen(const state::v1::DiskPayload* source, schema::Attachment disk,
                             ImageDigests* digests) {
  const absl::StatusOr<uint64_t> bytes =
      co_await DiskBytes(&digests->reads(), disk.path, disk.format);
  if (!bytes.ok()) co_return std::string(bytes.status().message());
  if (source == nullptr) co_return "";
  if (*bytes != source->bytes()) co_return absl::StrCat(*bytes, " bytes at ", disk.path);
  const absl::StatusOr<std::string> why = co_await WhyOtherDisk(*source, disk.path, digests);
  co_return why.ok() ? *why : std::string(why.status().message());
}

ArrivingDisk ArrivalOf(const state::v1::DiskPayload& source, const std::string& lun,
                       const schema::Attachment& disk) {
  return {.name = disk.name,
          .lun = lun,
          .format = disk.format,
          .bytes = source.bytes(),
          .used_bytes = source.copy().used_bytes(),
          .below = source.copy().below().file(),
          .below_format = source.copy().below().format()};
}

// Why the file that a disk is to lie over here is not the one that it lies over at its source. A
// path that a peer names must not tell it what is in the file; nor may a guest's disk be opened as
// what its guest has made it look like, with other files of this host below it.
Task<std::string> WhyNotBelow(state::v1::DiskBelow below, const SandboxDeps* host,
                              ImageDigests* digests) {
  const std::string missing =
      absl::StrCat("what it lies over, ", below.file(), ", is not here with the same content");
  const bool proper =
      absl::StartsWith(below.file(), "/") && (below.format() == "raw" || below.format() == "qcow2");
  if (!proper || host->overlays == nullptr) co_return missing;
  std::string file = below.file();
  std::string own = host->settings.state_folder;
  const auto ours = co_await LiesWithin(&digests->reads(), file, std::move(own));
  if (!ours.ok() || *ours) co_return missing;
  const absl::StatusOr<std::string> content = co_await digests->Get(std::move(file));
  if (!content.ok() || *content != below.sha256()) co_return missing;
  file = below.file();
  std::string format = below.format();
  const auto image = co_await host->overlays->Examine(std::move(file), std::move(format));
  if (image.ok() && image->below.empty()) co_return "";
  co_return absl::StrCat("what it lies over, ", below.file(), ", does not hold all of its data");
}

// What is not seen here, or not to be shared, comes along if its source sends it.
void Judge(const state::v1::DiskPayload* source, const std::string& controller,
           const std::string& lun, const schema::Attachment& disk, std::string why,
           IncomingMachine* machine) {
  const bool sent = source != nullptr && source->has_copy();
  if (why.empty() && !(sent && source->copy().always())) return;
  const bool is_own = !disk.name.empty() && !disk.read_only && controller == kDiskController &&
                      (disk.format == "raw" || disk.format == "qcow2");
  if (sent && is_own && source->copy().refusal().empty()) {
    machine->copies.push_back(ArrivalOf(*source, lun, disk));
    return;
  }
  if (sent) {
    std::string told = source->copy().refusal();
    if (told.empty()) told = "only the VM's own raw and qcow2 disks can be";
    if (told.size() > kMostWords) told = "its source says why at too great a length";
    absl::StrAppend(&why, why.empty() ? "" : "; and ", "it cannot be copied: ", told);
  }
  Add(machine->differences, absl::StrCat("disk ", NameOf(controller, lun, disk)),
      source == nullptr ? std::string(kRequired) : absl::StrCat(source->bytes(), " bytes"), why);
}

Task<void> CompareDisks(state::v1::VmPayload vm, const SandboxDeps* host, ImageDigests* digests,
                        IncomingMachine* machine) {
  std::map<std::string, state::v1::DiskPayload> source;
  for (const state::v1::DiskPayload& disk : vm.disks()) source[disk.name()] = disk;
  for (const auto& [controller, scsi] : machine->document.virtual_machine.devices.scsi) {
    for (const auto& [lun, disk] : scsi.attachments) {
      if (IsContainers(vm, controller, lun)) continue;
      const auto there = source.find(NameOf(controller, lun, disk));
      const state::v1::DiskPayload* const payload =
          there == source.end() ? nullptr : &there->second;
      std::string why = co_await WhyNotSeen(payload, disk, digests);
      if (!why.empty() && payload != nullptr && payload->copy().has_below()) {
        state::v1::DiskBelow below = payload->copy().below();
        const std::string missing = co_await WhyNotBelow(std::move(below), host, digests);
        if (!missing.empty()) {
          const std::string bytes = absl::StrCat(payload->bytes(), " bytes");
          Add(machine->differences, absl::StrCat("disk ", there->first), bytes,
              absl::StrCat(why, "; and ", missing));
          continue;
        }
      }
      Judge(payload, controller, lun, disk, std::move(why), machine);
    }
  }
}

// The tap devices that the VM itself holds here, because it runs: they are free once it ends, which
// it does before it goes back in time.
std::set<std::string> OwnTaps(const VmInventory& inventory, const std::string& vm_id) {
  std::set<std::string> taps;
  for (const std::shared_ptr<UtilityVm>& vm : inventory.List()) {
    if (vm->id() != vm_id || vm->system() == nullptr) continue;
    for (const auto& [number, adapter] : vm->document().virtual_machine.devices.network_adapters) {
      if (!adapter.tap.empty()) taps.insert(adapter.tap);
    }
  }
  return taps;
}

// Whether each card could be plugged in here. `own_taps` are not tried: they are in use.
Task<std::vector<v1::Difference>> CheckAdapters(schema::ComputeSystem document, Backend* backend,
                                                std::set<std::string> own_taps) {
  std::vector<v1::Difference> differences;
  const auto& adapters = document.virtual_machine.devices.network_adapters;
  if (adapters.size() > kMaxAdapters) {
    Add(differences, "nic", absl::StrCat(adapters.size(), " cards"),
        absl::StrCat("at most ", kMaxAdapters));
    co_return differences;
  }
  for (const auto& [number, adapter] : adapters) {
    if (!adapter.tap.empty() && own_taps.contains(adapter.tap)) continue;
    schema::NetworkAdapter wanted = adapter;
    const absl::Status plugs = co_await backend->CheckAdapter(std::move(wanted));
    if (plugs.ok()) continue;
    Add(differences, absl::StrCat("nic ", adapter.name), AdapterPlace(adapter),
        std::string(plugs.message()));
  }
  co_return differences;
}

}  // namespace

Task<absl::StatusOr<IncomingMachine>> FitMachine(state::v1::VmPayload vm,
                                                 const VmInventory& inventory,
                                                 ImageDigests& digests) {
  ImageDigests* const known = &digests;
  const SandboxDeps& deps = inventory.deps();
  const BackendInfo& backend = deps.backend.info();
  const state::v1::Fingerprint& source = vm.fingerprint();
  IncomingMachine machine;
  CO_ASSIGN_OR_RETURN(machine.document, schema::ComputeSystemFromJson(vm.hcs_document_json()));
  // Nobody elsewhere has a say in what is seen of this host's folders.
  if (!machine.document.virtual_machine.devices.shares.empty()) {
    co_return rpc::ErrorWithReason(
        absl::StatusCode::kFailedPrecondition,
        absl::StrCat("VM ", vm.vm_name(), " shares folders of its host, so it cannot come here"),
        "vm_stays", "Move a VM that was made without --stays.");
  }
  auto& socket = machine.document.virtual_machine.devices.hv_socket;
  if (socket.has_value() && socket->guest_cid != 0) socket->guest_cid = inventory.FreeGuestCid();
  machine.fingerprint = DescribeMachine(machine.document, backend);
  absl::Status firmware_found;
  if (auto& uefi = machine.document.virtual_machine.chipset.uefi) {
    const Image code = co_await FindImage(uefi->code_path, deps.settings.firmware.code,
                                          source.firmware_sha256(), known);
    uefi->code_path = code.path;
    // Whoever sent it has no say in where this host keeps its own.
    uefi->store_path = StorePathOf(deps.settings.firmware, vm.vm_id());
    if (code.digest.ok()) machine.fingerprint.set_firmware_sha256(*code.digest);
    firmware_found = code.digest.status();
  }
  absl::Status kernel_found;
  absl::Status initrd_found;
  if (auto& boot = machine.document.virtual_machine.chipset.linux_kernel_direct) {
    const Image kernel = co_await FindImage(boot->kernel_file_path, deps.settings.kernel,
                                            source.kernel_sha256(), known);
    const Image initrd =
        co_await FindImage(boot->init_rd_path, deps.settings.initrd, source.initrd_sha256(), known);
    boot->kernel_file_path = kernel.path;
    boot->init_rd_path = initrd.path;
    if (kernel.digest.ok()) machine.fingerprint.set_kernel_sha256(*kernel.digest);
    if (initrd.digest.ok()) machine.fingerprint.set_initrd_sha256(*initrd.digest);
    kernel_found = kernel.digest.status();
    initrd_found = initrd.digest.status();
  }
  machine.differences = CompareFingerprints(source, machine.fingerprint);
  Explain(machine.differences, "firmware", firmware_found);
  Explain(machine.differences, "kernel", kernel_found);
  Explain(machine.differences, "initrd", initrd_found);
  CompareWithBackend(source, machine.document.virtual_machine.platform.layout, backend,
                     machine.differences);
  const absl::Status macs_free = inventory.CheckMacs(machine.document, vm.vm_id());
  if (!macs_free.ok()) Add(machine.differences, "nic", kRequired, std::string(macs_free.message()));
  std::set<std::string> own_taps = OwnTaps(inventory, vm.vm_id());
  std::vector<v1::Difference> nics =
      co_await CheckAdapters(machine.document, &deps.backend, std::move(own_taps));
  for (v1::Difference& difference : nics) machine.differences.push_back(std::move(difference));
  co_await CompareDisks(vm, &deps, known, &machine);
  co_return machine;
}

bool DisksAreProved(const state::v1::VmPayload& vm, const IncomingMachine& machine) {
  std::set<std::string> proved;
  for (const ArrivingDisk& copy : machine.copies) proved.insert(copy.name);
  for (const state::v1::DiskPayload& disk : vm.disks()) {
    const bool told = !disk.mark().empty() || !disk.sha256().empty();
    if (told && !disk.below()) proved.insert(disk.name());
  }
  for (const auto& [controller, scsi] : machine.document.virtual_machine.devices.scsi) {
    for (const auto& [lun, disk] : scsi.attachments) {
      const bool own = !IsContainers(vm, controller, lun);
      if (own && !proved.contains(NameOf(controller, lun, disk))) return false;
    }
  }
  return true;
}

Task<absl::StatusOr<std::vector<state::v1::DiskPayload>>> DescribeDisks(
    schema::ComputeSystem document, FileReads& reads) {
  FileReads* const files = &reads;
  std::vector<state::v1::DiskPayload> disks;
  for (const auto& [controller, scsi] : document.virtual_machine.devices.scsi) {
    for (const auto& [lun, disk] : scsi.attachments) {
      const absl::StatusOr<uint64_t> bytes = co_await DiskBytes(files, disk.path, disk.format);
      // That it cannot be read in time says nothing of the disk.
      if (absl::IsDeadlineExceeded(bytes.status()) || absl::IsResourceExhausted(bytes.status())) {
        co_return bytes.status();
      }
      if (!bytes.ok()) continue;
      state::v1::DiskPayload& payload = disks.emplace_back();
      payload.set_name(NameOf(controller, lun, disk));
      payload.set_bytes(*bytes);
    }
  }
  co_return disks;
}

}  // namespace ferry::vm
