#include "vmmanager/sandbox/vm_inventory.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/uuid/random_generator.hpp>
#include <boost/uuid/uuid_io.hpp>
#include <chrono>
#include <random>
#include <set>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/unix_time.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/rpc/printable.h"
#include "vmmanager/sandbox/firmware_store.h"
#include "vmmanager/sandbox/machine_document.h"
#include "vmmanager/sandbox/vm_nics.h"

namespace ferry::vm {
namespace {

constexpr size_t kShownName = 200;
constexpr size_t kDepartedKept = 1024;

// AF_VSOCK reserves 0 to 2 and the highest one.
constexpr uint32_t kFirstGuestCid = 1024;
constexpr uint32_t kLastGuestCid = 0x7fffffff;

// Another host says what its specification is, and its word is taken for no more than a user's. It
// may have left to defaults what the cards have in full, so what is compared, and kept, is the
// whole.
absl::Status CompleteIncoming(const schema::ComputeSystem& document, VmRow* row, v1::VmSpec* spec) {
  const std::string before = spec->SerializeAsString();
  RETURN_IF_ERROR(CompleteSize(spec));
  RETURN_IF_ERROR(CompleteNics(spec));
  if (spec->SerializeAsString() != before) RETURN_IF_ERROR(WriteSpec(*spec, &row->spec_json));
  // Whoever made it gave each an address.
  const auto has_mac = [](const v1::NicSpec& nic) { return !nic.mac().empty(); };
  const bool have_macs = std::all_of(spec->nics().begin(), spec->nics().end(), has_mac);
  if (have_macs && AdaptersOf(*spec) == document.virtual_machine.devices.network_adapters) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      "the VM's network cards are not those of its specification, so its config is not one that "
      "ferryd has made");
}

}  // namespace

Task<absl::Status> VmInventory::Load() {
  auto rows = co_await deps_.store.ListVms();
  if (!rows.ok()) co_return rows.status();
  std::set<std::string> ids;
  for (const VmRow& row : *rows) ids.insert(row.id);
  RemoveOtherStores(deps_.settings.firmware, ids);
  for (VmRow& row : *rows) {
    v1::VmSpec spec;
    const absl::Status read = ReadSpec(row.spec_json, &spec);
    auto document = schema::ComputeSystemFromJson(row.document_json);
    if (!read.ok() || !document.ok()) {
      spdlog::error("vm {} has an unreadable record and is left alone: {}", row.id,
                    (read.ok() ? document.status() : read).ToString());
      continue;
    }
    const std::string id = row.id;
    // An older ferryd left it to each start; from here on it stays what it is.
    std::string& cpu_model = document->virtual_machine.platform.cpu_model;
    if (cpu_model.empty()) {
      cpu_model = deps_.backend.info().cpu_model;
      row.document_json = schema::ToJson(*document);
    }
    vms_[id] = std::make_shared<UtilityVm>(deps_, std::move(row), spec, *std::move(document));
  }
  auto snapshots = co_await deps_.store.ListSnapshots();
  if (!snapshots.ok()) co_return snapshots.status();
  for (const SnapshotRow& snapshot : *snapshots) {
    if (auto vm = vms_.find(snapshot.vm_id); vm != vms_.end()) vm->second->AddSnapshot(snapshot);
  }
  auto checkpoints = co_await deps_.store.ListCheckpoints();
  if (!checkpoints.ok()) co_return checkpoints.status();
  for (const CheckpointRow& row : *checkpoints) {
    if (auto vm = vms_.find(row.vm_id); vm != vms_.end()) vm->second->AddCheckpoint(row);
  }
  co_return absl::OkStatus();
}

Task<void> VmInventory::AdoptAll(std::map<std::string, AdoptionClaim> claims) {
  for (const auto& vm : List()) {
    auto claim = claims.find(vm->id());
    const bool half_loaded = !vm->HalfLoadedSnapshot().empty();
    if (!vm->has_adoption_record() && claim == claims.end() && !half_loaded) continue;
    AdoptionClaim wanted = claim == claims.end() ? AdoptionClaim() : claim->second;
    absl::Status adopted = co_await vm->Adopt(std::move(wanted));
    if (!adopted.ok()) spdlog::warn("vm {}: {}", vm->name(), adopted.ToString());
  }
  std::vector<std::string> records;
  for (const auto& vm : List()) records.push_back(vm->adoption_record());
  co_await deps_.backend.EndAllBut(std::move(records));
  // Whatever there was of those that could not be taken over has ended by now.
  for (const auto& vm : List()) {
    if (vm->system() == nullptr) Spawn(deps_.executor, deps_.fence.Release(vm->id()));
  }
}

absl::Status VmInventory::CheckServing() const {
  if (!detached_) return absl::OkStatus();
  return absl::UnavailableError("this host's ferryd stops; try again when it is back");
}

std::string VmInventory::NewId() {
  return boost::uuids::to_string(boost::uuids::random_generator()());
}

Task<absl::StatusOr<std::shared_ptr<UtilityVm>>> VmInventory::Create(
    const v1::CreateVmRequest& request, NewVm made_of) {
  CO_RETURN_IF_ERROR(CheckServing());
  CO_ASSIGN_OR_RETURN(v1::VmSpec spec, CompleteSpec(request.spec()));
  CO_RETURN_IF_ERROR(CheckSaveOnStop(spec));
  CO_RETURN_IF_ERROR(co_await ResolveShares(&deps_.reads, &spec));
  if (spec.firmware() == v1::FIRMWARE_OVMF) {
    FirmwareSettings firmware = deps_.settings.firmware;
    CO_RETURN_IF_ERROR(co_await CheckHasFirmware(&deps_.host_reads, std::move(firmware)));
  }
  if (auto existing = FindByName(spec.name())) {
    if (!request.request_id().empty() && existing->request_id() == request.request_id()) {
      co_return existing;
    }
    co_return absl::AlreadyExistsError(absl::StrCat(
        "a VM named ", spec.name(), " exists; choose another name, or delete that one first"));
  }
  CO_RETURN_IF_ERROR(CheckCpuModel(spec.cpu_model(), deps_.backend.info()));
  CO_RETURN_IF_ERROR(CheckLayout(spec, deps_.backend.info()));
  MakeMacs(TakenMacs(), &spec);
  schema::ComputeSystem document = BuildDocument(spec, deps_.settings, deps_.backend.info(),
                                                 deps_.settings.use_vsock ? FreeGuestCid() : 0);
  if (made_of.size) document.virtual_machine.compute_topology = *made_of.size;
  VmRow row;
  row.id = made_of.id.empty() ? NewId() : std::move(made_of.id);
  CO_RETURN_IF_ERROR(CheckMacs(document, row.id));
  if (auto& uefi = document.virtual_machine.chipset.uefi) {
    uefi->store_path = StorePathOf(deps_.settings.firmware, row.id);
  }
  row.name = spec.name();
  CO_RETURN_IF_ERROR(WriteSpec(spec, &row.spec_json));
  row.document_json = schema::ToJson(document);
  row.desired_state = "stopped";
  row.epoch = 1;
  row.created_unix_ms = NowUnixMs();
  row.request_id = request.request_id();
  row.saved = std::move(made_of.saved);
  auto vm = std::make_shared<UtilityVm>(deps_, row, spec, document);
  vms_[row.id] = vm;
  absl::Status stored = co_await vm->MakeFirmwareStore(std::move(made_of.firmware_store));
  if (stored.ok()) stored = co_await vm->Persist();
  if (!stored.ok()) {
    vms_.erase(row.id);
    ForgetStore(row.id);
    co_return stored;
  }
  deps_.events.Publish("vm.created", row.id, {{"name", row.name}});
  co_return vm;
}

std::set<net::MacAddress> VmInventory::TakenMacs() const {
  std::set<net::MacAddress> taken;
  for (const auto& [id, vm] : vms_) taken.merge(MacsOf(vm->document()));
  return taken;
}

absl::Status VmInventory::CheckMacs(const schema::ComputeSystem& document,
                                    const std::string& vm_id) const {
  const std::set<net::MacAddress> own = MacsOf(document);
  for (const auto& [id, vm] : vms_) {
    if (id == vm_id) continue;
    for (const net::MacAddress& mac : MacsOf(vm->document())) {
      if (!own.contains(mac)) continue;
      return rpc::ErrorWithReason(
          absl::StatusCode::kAlreadyExists,
          absl::StrCat("the MAC address ", mac.ToString(), " is that of a network card of VM ",
                       vm->name(), " on this host, and no two cards may have the same"),
          "mac_taken", "Leave mac= out, so that one is made; or delete one of the VMs.");
    }
  }
  return absl::OkStatus();
}

std::shared_ptr<UtilityVm> VmInventory::FindByName(const std::string& name) const {
  for (const auto& [id, vm] : vms_) {
    if (vm->name() == name) return vm;
  }
  return nullptr;
}

absl::StatusOr<std::shared_ptr<UtilityVm>> VmInventory::Find(const std::string& vm) const {
  if (auto it = vms_.find(vm); it != vms_.end()) return it->second;
  if (auto found = FindByName(vm)) return found;
  if (auto it = departed_.find(vm); it != departed_.end()) {
    return rpc::ErrorOfMove(
        absl::StatusCode::kNotFound,
        absl::StrCat("VM ", vm, " moved to ", it->second, "; ask there (--host ", it->second, ")"),
        it->second);
  }
  return rpc::ErrorWithReason(
      absl::StatusCode::kNotFound,
      absl::StrCat("there is no VM \"", rpc::Printable(vm, kShownName), "\" on this host"),
      "no_such_vm", "ferryctl list shows those there are.");
}

std::vector<std::shared_ptr<UtilityVm>> VmInventory::List() const {
  std::vector<std::shared_ptr<UtilityVm>> list;
  list.reserve(vms_.size());
  for (const auto& [id, vm] : vms_) list.push_back(vm);
  return list;
}

Task<absl::Status> VmInventory::Delete(std::shared_ptr<UtilityVm> vm) {
  CO_RETURN_IF_ERROR(co_await vm->Remove());
  vms_.erase(vm->id());
  ForgetStore(vm->id());
  co_await deps_.fence.Forget(vm->id(), FenceFate::kDeleted);
  deps_.events.Publish("vm.deleted", vm->id(), {{"name", vm->name()}});
  if (on_deleted_) co_await on_deleted_(vm->id());
  co_return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<UtilityVm>> VmInventory::AddIncoming(
    const std::string& session_id, VmRow row, v1::VmSpec spec, schema::ComputeSystem document) {
  RETURN_IF_ERROR(CheckServing());
  if (vms_.contains(row.id)) {
    return absl::AlreadyExistsError(
        absl::StrCat("VM ", row.id, " (", row.name, ") is already on this host"));
  }
  if (FindByName(row.name) != nullptr) {
    return absl::AlreadyExistsError(absl::StrCat("this host has another VM named ", row.name,
                                                 "; rename or delete it before migrating here"));
  }
  RETURN_IF_ERROR(CheckMacs(document, row.id));
  RETURN_IF_ERROR(CompleteIncoming(document, &row, &spec));
  if (document.virtual_machine.chipset.uefi.has_value() != (spec.firmware() == v1::FIRMWARE_OVMF)) {
    return absl::InvalidArgumentError("the VM's firmware is not that of its specification");
  }
  departed_.erase(row.id);
  departed_.erase(row.name);
  const std::string id = row.id;
  auto vm =
      std::make_shared<UtilityVm>(deps_, std::move(row), std::move(spec), std::move(document));
  vm->ExpectMigration(session_id);
  vms_[id] = vm;
  return vm;
}

uint32_t VmInventory::FreeGuestCid() const {
  std::set<uint32_t> taken;
  for (const auto& [id, vm] : vms_) taken.insert(vm->guest_cid());
  std::random_device random;
  std::uniform_int_distribution<uint32_t> any(kFirstGuestCid, kLastGuestCid);
  uint32_t cid = any(random);
  while (taken.contains(cid)) cid = any(random);
  return cid;
}

Task<absl::Status> VmInventory::Forget(std::string id, std::string moved_to) {
  // It is known until nothing of it is written here any more, so that it does not come back before.
  if (on_forgotten_) CO_RETURN_IF_ERROR(co_await on_forgotten_(id));
  CO_RETURN_IF_ERROR(co_await DeleteContainers(id));
  CO_RETURN_IF_ERROR(co_await deps_.store.DeleteVm(id));
  ForgetStore(id);
  const auto it = vms_.find(id);
  if (it == vms_.end()) co_return absl::OkStatus();
  const std::string name = it->second->name();
  vms_.erase(it);
  if (!moved_to.empty()) NoteDeparted(id, name, moved_to);
  co_await deps_.fence.Forget(id, FenceFate::kElsewhere);
  co_return absl::OkStatus();
}

// What an earlier attempt left. Without its VM, a container would be taken for one that is to be
// removed, with disks that another host uses.
Task<absl::Status> VmInventory::DeleteContainers(std::string id) {
  CO_ASSIGN_OR_RETURN(const std::vector<ContainerRow> rows, co_await deps_.store.ListContainers());
  for (const ContainerRow& row : rows) {
    if (row.vm_id == id) CO_RETURN_IF_ERROR(co_await deps_.store.DeleteContainer(row.id));
  }
  co_return absl::OkStatus();
}

void VmInventory::ForgetStore(const std::string& id) const {
  RemoveStore(StorePathOf(deps_.settings.firmware, id));
}

void VmInventory::DropIncoming(const std::string& id) { vms_.erase(id); }

void VmInventory::NoteDeparted(const std::string& id, const std::string& name,
                               const std::string& moved_to) {
  if (departed_.size() >= kDepartedKept) departed_.clear();
  departed_[id] = moved_to;
  departed_[name] = moved_to;
}

Task<void> VmInventory::Detach() {
  detached_ = true;
  using Clock = std::chrono::steady_clock;
  const Clock::time_point until = Clock::now() + deps_.settings.switch_wait;
  // None of the others may begin with that while those are waited for.
  std::vector<std::shared_ptr<UtilityVm>> switching;
  for (const auto& vm : List()) {
    if (vm->switches()) {
      switching.push_back(vm);
    } else {
      co_await vm->Detach(milliseconds(0));
    }
  }
  for (const auto& vm : switching) {
    const auto left = std::chrono::duration_cast<milliseconds>(until - Clock::now());
    co_await vm->Detach(std::max(left, milliseconds(0)));
  }
}

}  // namespace ferry::vm
