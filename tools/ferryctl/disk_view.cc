#include "tools/ferryctl/disk_view.h"

#include "absl/strings/str_cat.h"
#include "tools/ferryctl/output.h"
#include "tools/ferryctl/units.h"

namespace ferry::ctl {
namespace {

std::string NoteOf(const v1::Disk& disk) {
  if (!disk.trouble().empty()) return Printable(disk.trouble());
  if (!disk.container_id().empty()) return "a container's";
  return disk.read_only() ? "read-only" : "-";
}

}  // namespace

std::string DiskTable(const v1::ListDisksResponse& response) {
  Table table({"VM", "NAME", "LUN", "FORMAT", "SIZE", "USED", "FILE", "NOTE"});
  for (const v1::Disk& disk : response.disks()) {
    const bool known = disk.trouble().empty();
    table.Add({Printable(disk.vm()), Printable(disk.name()), absl::StrCat(disk.lun()),
               Printable(disk.format()), known ? FormatSize(disk.bytes()) : "-",
               known ? FormatSize(disk.used_bytes()) : "-", Printable(disk.file()), NoteOf(disk)});
  }
  return table.ToString();
}

}  // namespace ferry::ctl
