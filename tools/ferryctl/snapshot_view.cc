#include "tools/ferryctl/snapshot_view.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tools/ferryctl/output.h"
#include "tools/ferryctl/units.h"

namespace ferry::ctl {
namespace {

std::string NameOf(const v1::Snapshot& snapshot) {
  std::string name = Printable(snapshot.tag());
  if (snapshot.missing_size() > 0) name += " (partial)";
  return name;
}

std::string NoteOf(const v1::Snapshot& snapshot) {
  std::string note = Printable(snapshot.reason());
  if (snapshot.missing_size() > 0) {
    absl::StrAppend(&note, ": ", Printable(absl::StrJoin(snapshot.missing(), ", ")));
  }
  if (note.empty() && snapshot.paused()) note = "the VM was paused";
  return note.empty() ? "-" : note;
}

}  // namespace

std::string SnapshotTable(const v1::ListSnapshotsResponse& response) {
  Table table({"TAG", "TAKEN", "DEVICES", "MEMORY", "SIZE", "NOTE"});
  for (const v1::Snapshot& snapshot : response.snapshots()) {
    const bool has_memory = !snapshot.vmstate().empty();
    table.Add({NameOf(snapshot), FormatTime(snapshot.taken_unix_ms()),
               Printable(absl::StrJoin(snapshot.devices(), ",")),
               has_memory ? Printable(snapshot.vmstate()) : "-",
               has_memory ? FormatSize(snapshot.vm_state_bytes()) : "-", NoteOf(snapshot)});
  }
  return table.ToString();
}

}  // namespace ferry::ctl
