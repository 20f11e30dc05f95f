#include "vmmanager/saving/clone_plan.h"

#include <algorithm>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/sandbox/machine_document.h"
#include "vmmanager/sandbox/own_disks.h"
#include "vmmanager/saving/memory_disks.h"
#include "vmmanager/state/saved_state.h"

namespace ferry::vm {
namespace {

using state::v1::CheckpointDisk;
using state::v1::CheckpointRecord;

absl::Status NoClone(const std::string& why, const std::string& reason,
                     const std::string& next_step) {
  return rpc::ErrorWithReason(absl::StatusCode::kFailedPrecondition,
                              absl::StrCat("no VM can be made of it: ", why), reason, next_step);
}

absl::Status ContainersStay() {
  return NoClone(
      "there were containers in the VM, and what is in its memory of them has their ids, of which "
      "a "
      "host has each only once",
      "containers_not_cloned", "Have it without memory, and without them: --disk-only");
}

const v1::CheckpointDiskWish* CopyWishOf(const v1::RestoreCheckpointAsRequest& request,
                                         const std::string& disk) {
  for (const v1::CheckpointDiskWish& wish : request.disks()) {
    if (wish.name() == disk) return &wish;
  }
  return nullptr;
}

// Which of a VM's own disks it is.
std::optional<int> OwnDisk(const CheckpointDisk& disk, const v1::VmSpec& spec) {
  return disk.container_id().empty() ? OwnDiskAt(spec, disk.lun()) : std::nullopt;
}

// Those are for whoever may share folders of this host to give, and only one VM has them.
absl::Status CheckHasNoShares(const v1::VmSpec& spec) {
  if (spec.shares().empty()) return absl::OkStatus();
  return NoClone(
      absl::StrCat("VM ", spec.name(), " shares folders of this host (", spec.shares(0).host_path(),
                   spec.shares_size() > 1 ? " and more" : "", "), which are its alone"),
      "vm_has_shares", "Create a VM of copies of its disks: ferryctl vm create");
}

// What two VMs cannot both have of a card; empty if there is nothing.
std::string SharedPartOf(const v1::NicSpec& nic) {
  if (nic.has_tap()) return absl::StrCat("the tap device ", nic.tap());
  // On its VMM's own network each VM is alone.
  if (nic.user() || nic.addresses().empty()) return "";
  return absl::StrCat("the address ", nic.addresses(0));
}

// New MAC addresses are made with the VM. In a memory there are the other one's.
absl::Status GiveOwnCards(bool memory, v1::VmSpec* spec) {
  if (memory && spec->nics_size() > 0) {
    return NoClone("it has network cards, and what is in its memory of them has their addresses",
                   "vm_has_networks", "Have it without memory: --disk-only");
  }
  for (v1::NicSpec& nic : *spec->mutable_nics()) {
    if (const std::string shared = SharedPartOf(nic); !shared.empty()) {
      return NoClone(
          absl::StrCat("two VMs would have ", shared, " of its network card ", nic.name()),
          "vm_has_networks",
          "Copy its disks (qemu-img convert), and make a VM with cards of its own of them.");
    }
    nic.clear_mac();
  }
  return absl::OkStatus();
}

absl::Status CheckCopyWishes(const v1::RestoreCheckpointAsRequest& request,
                             const CheckpointRecord& disks) {
  RETURN_IF_ERROR(CheckDiskWishes(request.disks()));
  std::set<std::string> files;
  for (const v1::CheckpointDiskWish& wish : request.disks()) {
    const bool known =
        std::any_of(disks.disks().begin(), disks.disks().end(),
                    [&wish](const CheckpointDisk& disk) { return disk.name() == wish.name(); });
    if (!known) {
      return rpc::ErrorWithReason(absl::StatusCode::kInvalidArgument,
                                  absl::StrCat("no disk '", absl::CHexEscape(wish.name()),
                                               "' is copied from checkpoint ", request.name()),
                                  "unknown_disk",
                                  absl::StrCat("See those it has: ferryctl checkpoint inspect ",
                                               request.vm(), " ", request.name()));
    }
    if (wish.left_out()) {
      return absl::InvalidArgumentError(
          absl::StrCat("disk ", wish.name(), " cannot be left out: the new VM has all of them"));
    }
    if (!wish.file().empty() && !files.insert(wish.file()).second) {
      return absl::InvalidArgumentError(absl::StrCat("two disks are to be ", wish.file()));
    }
  }
  return absl::OkStatus();
}

// What it writes to must be of that instant, and its own.
absl::Status CheckAllThere(const CheckpointScene& scene, const v1::VmSpec& spec,
                           const std::string& checkpoint, const CheckpointRecord& disks) {
  for (const v1::DiskSpec& disk : spec.disks()) {
    const bool copied =
        std::any_of(disks.disks().begin(), disks.disks().end(),
                    [&disk](const CheckpointDisk& one) { return one.name() == disk.name(); });
    if (disk.read_only() || copied) continue;
    return NoClone(absl::StrCat("the disk ", disk.name(), " of VM ", scene.vm,
                                ", which it writes to, is not in checkpoint ", checkpoint),
                   "disk_left_out",
                   "Take a checkpoint without leaving that disk out, and use that one.");
  }
  return absl::OkStatus();
}

absl::StatusOr<const CheckpointRecord*> FindWhole(const CheckpointScene& scene,
                                                  const std::string& name) {
  const auto found = scene.records.find(name);
  if (found == scene.records.end()) return NoSuchCheckpoint(scene.vm, name);
  if (found->second.stage() == state::v1::CHECKPOINT_STAGE_WHOLE) return &found->second;
  return NoClone(absl::StrCat("checkpoint ", name, " of VM ", scene.vm, " is not whole"),
                 "checkpoint_not_whole", "Wait until it is, or use another one.");
}

struct MemoryHead {
  state::v1::SavedHead head;
  PlanState plan;
  CutState cut;
};

absl::StatusOr<MemoryHead> ReadHead(std::string_view bytes) {
  MemoryHead read;
  if (!read.head.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())) ||
      read.head.schema_version() != kStateSchemaVersion) {
    return absl::DataLossError("what it says of the VM cannot be read");
  }
  ASSIGN_OR_RETURN(read.plan, DecodePlan(read.head.plan()));
  ASSIGN_OR_RETURN(read.cut, DecodeCut(read.head.cut(), read.head.plan()));
  return read;
}

DeviceNames PutCopies(const std::map<std::string, std::string>& copies,
                      schema::ComputeSystem* document) {
  return ForEachDisk(document, [&copies](schema::Attachment& disk) {
    const auto copy = copies.find(disk.path);
    if (copy == copies.end() || disk.read_only) return;
    disk.path = copy->second;
    disk.format = "qcow2";
  });
}

}  // namespace

absl::StatusOr<ClonePlan> PlanClone(const CheckpointScene& scene, const v1::VmSpec& spec,
                                    const v1::RestoreCheckpointAsRequest& request) {
  ASSIGN_OR_RETURN(const CheckpointRecord* const record, FindWhole(scene, request.name()));
  RETURN_IF_ERROR(CheckHasNoShares(spec));
  ClonePlan plan;
  plan.memory = !record->memory_file().empty() && !request.disk_only();
  plan.spec = spec;
  RETURN_IF_ERROR(GiveOwnCards(plan.memory, &plan.spec));
  if (plan.memory && record->containers() > 0) return ContainersStay();
  plan.spec.set_name(request.new_name());
  // That is for whoever made the other one to say.
  plan.spec.set_autostart(false);
  for (const CheckpointDisk& disk : record->disks()) {
    if (!OwnDisk(disk, spec).has_value()) continue;
    const v1::CheckpointDiskWish* wish = CopyWishOf(request, disk.name());
    const bool chosen = wish != nullptr && !wish->file().empty();
    if (!chosen && absl::StartsWith(disk.file(), "/dev/")) {
      return NoClone(absl::StrCat("its disk ", disk.name(), " is ", disk.file(),
                                  ", beside which there can be no file"),
                     "no_place_for_copy",
                     absl::StrCat("Say where it is to be: --diskspec ", disk.name(), ",file=PATH"));
    }
    CheckpointDisk* copy = plan.disks.add_disks();
    copy->set_name(disk.name());
    copy->set_controller(disk.controller());
    copy->set_lun(disk.lun());
    copy->set_file(disk.file());
    copy->set_format(disk.format());
    copy->set_taken_as(disk.taken_as().empty() ? disk.file() : disk.taken_as());
    copy->set_overlay(chosen ? wish->file()
                             : OverlayName(scene.records, disk.file(), request.new_name()));
  }
  RETURN_IF_ERROR(CheckAllThere(scene, spec, request.name(), plan.disks));
  RETURN_IF_ERROR(CheckCopyWishes(request, plan.disks));
  return plan;
}

bool NamesFileOf(const v1::RestoreCheckpointAsRequest& request, const std::string& disk) {
  const v1::CheckpointDiskWish* wish = CopyWishOf(request, disk);
  return wish != nullptr && !wish->file().empty();
}

void UseCopies(const CheckpointRecord& disks, v1::VmSpec* spec) {
  for (const CheckpointDisk& disk : disks.disks()) {
    const std::optional<int> own = OwnDisk(disk, *spec);
    if (!own.has_value()) continue;
    spec->mutable_disks(*own)->set_file(disk.overlay());
    spec->mutable_disks(*own)->set_format("qcow2");
  }
}

absl::StatusOr<ClonedHead> CloneHead(std::string_view bytes, const CloneIdentity& identity) {
  ASSIGN_OR_RETURN(MemoryHead its, ReadHead(bytes));
  if (!its.cut.containers.empty() || !its.plan.vm.containers().empty()) return ContainersStay();
  ClonedHead cloned;
  state::v1::VmPayload& vm = its.plan.vm;
  ASSIGN_OR_RETURN(cloned.document, schema::ComputeSystemFromJson(vm.hcs_document_json()));
  RenameDevices(PutCopies(identity.copies, &cloned.document), vm.mutable_fingerprint());
  vm.set_vm_id(identity.vm_id);
  vm.set_vm_name(identity.spec.name());
  vm.set_hcs_document_json(schema::ToJson(cloned.document));
  RETURN_IF_ERROR(WriteSpec(identity.spec, vm.mutable_spec_json()));
  vm.set_epoch(1);
  its.plan.session_id = identity.session;
  its.plan.source_journal_id = identity.journal_id;
  ASSIGN_OR_RETURN(*its.head.mutable_plan(), EncodePlan(its.plan));
  its.cut.session_id = identity.session;
  its.cut.vm_id = identity.vm_id;
  its.cut.plan_sha256 = PlanDigest(its.head.plan());
  ASSIGN_OR_RETURN(*its.head.mutable_cut(), EncodeCut(its.cut));
  cloned.head = its.head.SerializeAsString();
  return cloned;
}

absl::StatusOr<MemoryFacts> ReadMemoryFacts(std::string_view head) {
  ASSIGN_OR_RETURN(const MemoryHead its, ReadHead(head));
  MemoryFacts facts;
  facts.vm_id = its.plan.vm.vm_id();
  facts.vm_name = its.plan.vm.vm_name();
  facts.saved_unix_ms = its.head.saved_unix_ms();
  facts.paused = its.cut.paused_by_user;
  facts.processes = static_cast<uint32_t>(its.cut.guest.processes.size());
  facts.containers = static_cast<uint32_t>(its.cut.containers.size());
  return facts;
}

absl::StatusOr<DisksThen> DisksOfMemory(std::string_view head, std::string_view tail_bytes,
                                        const CheckpointRecord& record) {
  ASSIGN_OR_RETURN(const MemoryHead its, ReadHead(head));
  state::v1::SavedTail tail;
  if (!tail.ParseFromArray(tail_bytes.data(), static_cast<int>(tail_bytes.size())) ||
      tail.schema_version() != kStateSchemaVersion) {
    return absl::DataLossError("what it says of the VM's disks cannot be read");
  }
  DisksThen then;
  then.generations.assign(tail.disks().begin(), tail.disks().end());
  ASSIGN_OR_RETURN(then.document, schema::ComputeSystemFromJson(its.plan.vm.hcs_document_json()));
  // Those that were merged into other files since are there.
  for (const CheckpointDisk& disk : record.disks()) {
    if (!disk.has_generation()) continue;
    const MergedDisk merged{disk.taken_as(), disk.generation(), disk.format()};
    NameAsNow(merged, &then.document, &then.generations);
  }
  return then;
}

}  // namespace ferry::vm
