#include "vmmanager/sandbox/own_disks.h"

#include <set>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "vmmanager/schema/attachments.h"

namespace ferry::vm {
namespace {

// What goes without saying is left out, for hosts that do not know of it.
void ShortenLuns(v1::VmSpec* spec) {
  for (int i = 0; i < spec->disks_size(); ++i) {
    v1::DiskSpec* disk = spec->mutable_disks(i);
    if (disk->has_lun() && disk->lun() == static_cast<uint32_t>(i)) disk->clear_lun();
  }
}

}  // namespace

std::string DiskResource(const std::string& lun) {
  return absl::StrCat("VirtualMachine/Devices/Scsi/", kDiskController, "/Attachments/", lun);
}

uint32_t LunOf(const v1::VmSpec& spec, int index) {
  const v1::DiskSpec& disk = spec.disks(index);
  return disk.has_lun() ? disk.lun() : static_cast<uint32_t>(index);
}

std::optional<int> OwnDiskAt(const v1::VmSpec& spec, const std::string& lun) {
  uint32_t wanted = 0;
  if (!absl::SimpleAtoi(lun, &wanted)) return std::nullopt;
  for (int i = 0; i < spec.disks_size(); ++i) {
    if (LunOf(spec, i) == wanted) return i;
  }
  return std::nullopt;
}

std::optional<int> OwnDiskNamed(const v1::VmSpec& spec, const std::string& name) {
  for (int i = 0; i < spec.disks_size(); ++i) {
    if (spec.disks(i).name() == name) return i;
  }
  return std::nullopt;
}

absl::Status CheckLuns(const v1::VmSpec& spec) {
  std::set<uint32_t> taken;
  for (int i = 0; i < spec.disks_size(); ++i) {
    const uint32_t lun = LunOf(spec, i);
    const std::string what = absl::StrCat("lun of disk ", spec.disks(i).name(), " is ", lun);
    if (lun >= schema::Scsi::kMaxLuns) {
      return absl::InvalidArgumentError(
          absl::StrCat(what, "; use 0 to ", schema::Scsi::kMaxLuns - 1));
    }
    if (!taken.insert(lun).second) {
      return absl::InvalidArgumentError(
          absl::StrCat(what, ", as is that of another; give each its own, or none to any"));
    }
  }
  return absl::OkStatus();
}

void AddOwnDisk(v1::VmSpec* spec, v1::DiskSpec disk) {
  *spec->add_disks() = std::move(disk);
  ShortenLuns(spec);
}

void RemoveOwnDisk(v1::VmSpec* spec, int index) {
  for (int i = 0; i < spec->disks_size(); ++i) spec->mutable_disks(i)->set_lun(LunOf(*spec, i));
  spec->mutable_disks()->DeleteSubrange(index, 1);
  ShortenLuns(spec);
}

bool HasOwnDisks(const schema::ComputeSystem& document, const v1::VmSpec& spec) {
  for (int i = 0; i < spec.disks_size(); ++i) {
    const schema::Attachment* found =
        schema::FindAttachment(document, kDiskController, absl::StrCat(LunOf(spec, i)));
    const bool is_it = found != nullptr && found->name == spec.disks(i).name() &&
                       found->read_only == spec.disks(i).read_only();
    if (!is_it) return false;
  }
  return true;
}

schema::Attachment AttachmentFor(const v1::DiskSpec& disk) {
  schema::Attachment attachment;
  attachment.path = disk.file();
  attachment.read_only = disk.read_only();
  attachment.name = disk.name();
  attachment.format = disk.format();
  return attachment;
}

}  // namespace ferry::vm
