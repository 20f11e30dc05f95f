#include "vmmanager/sandbox/own_disks.h"

#include <set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace ferry::vm {

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
    if (lun >= kMaxLuns) {
      return absl::InvalidArgumentError(absl::StrCat(what, "; use 0 to ", kMaxLuns - 1));
    }
    if (!taken.insert(lun).second) {
      return absl::InvalidArgumentError(
          absl::StrCat(what, ", as is that of another; give each its own, or none to any"));
    }
  }
  return absl::OkStatus();
}

void FixLuns(v1::VmSpec* spec) {
  for (int i = 0; i < spec->disks_size(); ++i) spec->mutable_disks(i)->set_lun(LunOf(*spec, i));
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
