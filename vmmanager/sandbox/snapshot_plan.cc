#include "vmmanager/sandbox/snapshot_plan.h"

#include <algorithm>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/sandbox/machine_document.h"
#include "vmmanager/state/saved_state.h"

namespace ferry::vm {
namespace {

constexpr size_t kMaxTag = 64;
constexpr size_t kShortestId = 12;
constexpr char kScratch[] = "scratch-";

bool IsTagLetter(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '-';
}

absl::Status Refusal(absl::StatusCode code, absl::string_view text, absl::string_view reason,
                     absl::string_view next_step) {
  return rpc::ErrorWithReason(code, text, reason, next_step);
}

std::string NamesOf(const NamedDisks& disks, bool (NamedDisk::*which)() const) {
  std::vector<std::string> names;
  for (const auto& [name, disk] : disks) {
    if ((disk.*which)()) names.push_back(name);
  }
  return absl::StrJoin(names, ",");
}

// A container may be named by more or fewer digits of its id than its disk is.
NamedDisks::const_iterator FindDisk(const NamedDisks& disks, const std::string& name) {
  if (const auto exact = disks.find(name); exact != disks.end()) return exact;
  if (name.size() < kShortestId) return disks.end();
  return std::find_if(disks.begin(), disks.end(), [&name](const auto& entry) {
    if (!absl::StartsWith(entry.second.disk.name, kScratch)) return false;
    return absl::StartsWith(name, entry.first) || absl::StartsWith(entry.first, name);
  });
}

absl::Status CheckHolds(const std::string& vm, const std::string& name, const NamedDisk& disk) {
  if (disk.can_hold_snapshots()) return absl::OkStatus();
  const std::string why = disk.writable() ? absl::StrCat("it is ", disk.disk.format, ", not qcow2")
                                          : std::string("the VM only reads it");
  const std::string next =
      disk.writable()
          ? "Convert it while the VM is stopped (qemu-img convert -O qcow2), and make the VM with "
            "that."
          : "Leave it out: what is only read does not change.";
  return Refusal(absl::StatusCode::kFailedPrecondition,
                 absl::StrCat("disk ", name, " of VM ", vm, " cannot hold a snapshot: ", why),
                 "disk_holds_no_snapshots", next);
}

// One that is left out would go on from another instant than the rest.
absl::Status CheckNoneIsLeftOut(const std::string& vm, const NamedDisks& disks,
                                const std::set<std::string>& named) {
  for (const auto& [name, disk] : disks) {
    if (!disk.writable() || named.contains(name)) continue;
    RETURN_IF_ERROR(CheckHolds(vm, name, disk));
    return Refusal(
        absl::StatusCode::kFailedPrecondition,
        absl::StrCat("VM ", vm, " writes to the disk ", name,
                     " too; without it memory and disks would not be of one instant"),
        "disk_not_listed",
        absl::StrCat("Name all of them: --devices ", NamesOf(disks, &NamedDisk::writable)));
  }
  return absl::OkStatus();
}

// A firmware's variable store is a block device of the VMM, and QEMU left to itself would choose
// it.
absl::Status CheckIsNoStore(const std::string& vm, const std::string& name) {
  if (name != schema::Uefi::kStoreName) return absl::OkStatus();
  return Refusal(absl::StatusCode::kInvalidArgument,
                 absl::StrCat("'", name, "' is where VM ", vm,
                              " keeps what its UEFI firmware remembers, and no disk: what is in it "
                              "is part of the memory, and comes back with that"),
                 "store_is_no_disk", "Leave it out.");
}

absl::Status CheckWish(const std::string& vm, const NamedDisks& disks, const SnapshotWish& wish) {
  if (wish.live) {
    return Refusal(absl::StatusCode::kUnimplemented,
                   "a snapshot inside disks cannot be taken live: QEMU writes the memory while the "
                   "guest stands still, for as long as that takes",
                   "live_not_possible",
                   "Leave out --live; or save the memory beside the disks: ferryctl save --live.");
  }
  RETURN_IF_ERROR(CheckTag(wish.tag));
  if (wish.devices.empty()) {
    return Refusal(
        absl::StatusCode::kInvalidArgument, "no disks were named for the snapshot", "no_devices",
        absl::StrCat("Name them: --devices ", NamesOf(disks, &NamedDisk::can_hold_snapshots)));
  }
  if (wish.vmstate.empty()) {
    return Refusal(absl::StatusCode::kInvalidArgument,
                   absl::StrCat("it was not said which disk takes the memory of VM ", vm),
                   "no_vmstate",
                   absl::StrCat("Name one of them: --vmstate ", wish.devices.front()));
  }
  return absl::OkStatus();
}

// What the disks have under one tag, by their names.
using TagInDisks = std::map<std::string, std::vector<DiskSnapshot>>;

v1::Snapshot Describe(const std::string& tag, const state::v1::SnapshotRecord* record,
                      const TagInDisks& in, const NamedDisks& disks, bool is_up) {
  v1::Snapshot snapshot;
  snapshot.set_tag(tag);
  bool is_double = false;
  for (const auto& [name, states] : in) {
    const DiskSnapshot& found = states.back();
    is_double = is_double || states.size() > 1;
    snapshot.add_devices(name);
    if (snapshot.taken_unix_ms() == 0) snapshot.set_taken_unix_ms(found.taken_unix_ms);
    if (found.vm_state_bytes == 0) continue;
    snapshot.set_vmstate(name);
    snapshot.set_vm_state_bytes(found.vm_state_bytes);
  }
  std::vector<std::string> wanted;
  if (record != nullptr) {
    for (const auto& disk : record->disks()) wanted.push_back(disk.name());
    snapshot.set_taken_unix_ms(record->taken_unix_ms());
    snapshot.set_paused(record->paused());
    snapshot.set_containers(static_cast<uint32_t>(record->containers_size()));
    const auto guest = DecodeGuest(record->guest());
    if (guest.ok()) snapshot.set_processes(static_cast<uint32_t>(guest->processes.size()));
  } else {
    for (const auto& [name, disk] : disks) {
      if (disk.can_hold_snapshots()) wanted.push_back(name);
    }
  }
  for (const std::string& name : wanted) {
    if (!is_up) snapshot.add_devices(name);
    if (is_up && !in.contains(name)) snapshot.add_missing(name);
  }
  if (record != nullptr && !is_up) {
    snapshot.set_vmstate(record->vmstate());
    snapshot.set_vm_state_bytes(record->vm_state_bytes());
  }
  std::string why;
  if (!is_up) why = "the VM does not run, and its disks were not asked";
  if (snapshot.vmstate().empty() && is_up) why = "there is no memory in it";
  if (is_double) why = "one of its disks has several of that tag";
  if (snapshot.missing_size() > 0) why = "not all of its disks have it";
  if (record == nullptr) why = "it was not taken by Ferry, which does not know its processes";
  if (record != nullptr && record->stage() == state::v1::SNAPSHOT_STAGE_MAKING) {
    why = "it was not finished";
  }
  if (record != nullptr && record->stage() == state::v1::SNAPSHOT_STAGE_LOADING) {
    why = "the VM is just going back to it";
  }
  if (record != nullptr && record->stage() == state::v1::SNAPSHOT_STAGE_UNSPECIFIED) {
    why = kOfANewer;
  }
  snapshot.set_reason(why);
  snapshot.set_loadable(why.empty());
  return snapshot;
}

}  // namespace

NamedDisks DisksByName(const schema::ComputeSystem& document) {
  NamedDisks disks;
  for (const auto& [controller, scsi] : document.virtual_machine.devices.scsi) {
    for (const auto& [lun, disk] : scsi.attachments) {
      std::string name = disk.name;
      if (absl::StartsWith(name, kScratch)) name = name.substr(sizeof(kScratch) - 1);
      const DiskPlace place{controller, lun};
      // A name that somebody uses already tells nothing.
      if (name.empty() || disks.contains(name)) name = ToText(place);
      disks[name] = {place, disk};
    }
  }
  return disks;
}

absl::Status CheckTag(const std::string& tag) {
  const bool letters = std::all_of(tag.begin(), tag.end(), IsTagLetter);
  const bool digits = std::all_of(tag.begin(), tag.end(), [](char c) {
    return absl::ascii_isdigit(static_cast<unsigned char>(c));
  });
  const bool begins = !tag.empty() && absl::ascii_isalnum(static_cast<unsigned char>(tag[0]));
  if (begins && letters && !digits && tag.size() <= kMaxTag) return absl::OkStatus();
  return Refusal(absl::StatusCode::kInvalidArgument,
                 absl::StrCat("'", absl::CHexEscape(tag.substr(0, kMaxTag)),
                              "' cannot be the tag of a snapshot"),
                 "bad_tag",
                 "Use letters, digits, '.', '_' and '-', at most 64, first a letter or digit, and "
                 "not digits alone: qemu-img takes those for an id.");
}

absl::StatusOr<SnapshotOptions> PlanSnapshot(const std::string& vm_name, const NamedDisks& disks,
                                             const SnapshotWish& wish) {
  RETURN_IF_ERROR(CheckWish(vm_name, disks, wish));
  SnapshotOptions options;
  options.tag = wish.tag;
  std::set<std::string> named;
  for (const std::string& device : wish.devices) {
    const auto found = FindDisk(disks, device);
    if (found == disks.end()) {
      RETURN_IF_ERROR(CheckIsNoStore(vm_name, device));
      return Refusal(absl::StatusCode::kInvalidArgument,
                     absl::StrCat("VM ", vm_name, " has no disk '", device, "'"), "unknown_disk",
                     absl::StrCat("Its disks that can hold a snapshot: ",
                                  NamesOf(disks, &NamedDisk::can_hold_snapshots)));
    }
    RETURN_IF_ERROR(CheckHolds(vm_name, found->first, found->second));
    if (!named.insert(found->first).second) {
      return Refusal(absl::StatusCode::kInvalidArgument,
                     absl::StrCat("the disk ", device, " was named twice"), "named_twice",
                     "Name each disk once.");
    }
    options.disks.push_back(found->second.place);
  }
  const auto memory = FindDisk(disks, wish.vmstate);
  if (memory == disks.end()) RETURN_IF_ERROR(CheckIsNoStore(vm_name, wish.vmstate));
  if (memory == disks.end() || !named.contains(memory->first)) {
    return Refusal(absl::StatusCode::kInvalidArgument,
                   absl::StrCat("the memory of VM ", vm_name, " is to go into '", wish.vmstate,
                                "', which is not one of the disks of the snapshot"),
                   "vmstate_not_listed",
                   absl::StrCat("Name one of them: --vmstate ", wish.devices.front()));
  }
  options.vm_state = memory->second.place;
  RETURN_IF_ERROR(CheckNoneIsLeftOut(vm_name, disks, named));
  return options;
}

SnapshotOptions OptionsOf(const std::string& tag, const state::v1::SnapshotRecord& record) {
  SnapshotOptions options;
  options.tag = tag;
  for (const auto& disk : record.disks()) {
    const DiskPlace place{disk.controller(), disk.lun()};
    options.disks.push_back(place);
    if (disk.name() == record.vmstate()) options.vm_state = place;
  }
  return options;
}

absl::Status CheckSameMachine(const std::string& vm_name, const std::string& tag,
                              const state::v1::SnapshotRecord& record,
                              const schema::ComputeSystem& now) {
  const auto then = schema::ComputeSystemFromJson(record.document_json());
  if (then.ok() && *then == now) return absl::OkStatus();
  std::string what = "its devices are not those of then";
  if (then.ok()) {
    const schema::Topology& size = then->virtual_machine.compute_topology;
    if (size != now.virtual_machine.compute_topology) {
      what =
          absl::StrCat("it had ", SizeWords(size.memory.size_in_mb, size.processor.count), " then");
    }
    const NamedDisks before = DisksByName(*then);
    const NamedDisks after = DisksByName(now);
    for (const auto& [name, disk] : after) {
      if (!before.contains(name)) what = absl::StrCat("the disk ", name, " came since");
    }
    for (const auto& [name, disk] : before) {
      if (!after.contains(name)) what = absl::StrCat("the disk ", name, " is not there any more");
    }
  }
  return Refusal(
      absl::StatusCode::kFailedPrecondition,
      absl::StrCat("VM ", vm_name, " cannot go back to snapshot ", tag, ": ", what),
      "machine_changed",
      "Make the machine what it was (memory and CPUs with vm set, and a restart; a container "
      "that came since is to be removed); one whose container is gone cannot go back.");
}

std::vector<v1::Snapshot> DescribeSnapshots(const SnapshotRecords& records,
                                            const std::vector<DiskSnapshots>& present,
                                            const NamedDisks& disks, bool is_up) {
  std::map<DiskPlace, std::string> names;
  for (const auto& [name, disk] : disks) names[disk.place] = name;
  std::map<std::string, TagInDisks> tags;
  for (const auto& [tag, record] : records) tags[tag];
  for (const DiskSnapshots& disk : present) {
    for (const DiskSnapshot& snapshot : disk.snapshots) {
      tags[snapshot.tag][names[disk.disk]].push_back(snapshot);
    }
  }
  std::vector<v1::Snapshot> all;
  for (const auto& [tag, in] : tags) {
    const auto record = records.find(tag);
    all.push_back(
        Describe(tag, record == records.end() ? nullptr : &record->second, in, disks, is_up));
  }
  std::stable_sort(all.begin(), all.end(), [](const v1::Snapshot& a, const v1::Snapshot& b) {
    return a.taken_unix_ms() < b.taken_unix_ms();
  });
  return all;
}

}  // namespace ferry::vm
