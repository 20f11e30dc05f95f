#include "tools/ferryctl/checkpoint_view.h"

#include <map>
#include <set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tools/ferryctl/output.h"
#include "tools/ferryctl/units.h"

namespace ferry::ctl {
namespace {

constexpr char kHere[] = "   <- the VM goes on from here";

bool HasMemory(const v1::Checkpoint& checkpoint) { return !checkpoint.memory_file().empty(); }

std::string TextOrDash(const std::string& text) { return text.empty() ? "-" : Printable(text); }

std::string CheckpointName(const v1::Checkpoint& checkpoint) {
  return Printable(checkpoint.name()) + (checkpoint.whole() ? "" : " (incomplete)");
}

std::string StoodStill(const v1::Checkpoint& checkpoint) {
  return FormatMs(static_cast<double>(checkpoint.stood_still_us()) / 1000);
}

std::string DiskNames(const v1::Checkpoint& checkpoint) {
  std::vector<std::string> names;
  for (const v1::CheckpointDisk& disk : checkpoint.disks()) names.push_back(Printable(disk.name()));
  return names.empty() ? "-" : absl::StrJoin(names, ",");
}

// "memory and 2 disks".
std::string PartsOf(const v1::Checkpoint& checkpoint) {
  std::vector<std::string> parts;
  if (HasMemory(checkpoint)) parts.push_back("memory");
  const int disks = checkpoint.disks_size();
  if (disks > 0) parts.push_back(absl::StrCat(disks, disks == 1 ? " disk" : " disks"));
  return parts.empty() ? "nothing" : absl::StrJoin(parts, " and ");
}

// Draws what it is given once, so that a list that makes no tree is drawn all the same.
class CheckpointTreeDrawing {
 public:
  explicit CheckpointTreeDrawing(const v1::ListCheckpointsResponse& response) {
    std::set<std::string> names;
    for (const v1::Checkpoint& checkpoint : response.checkpoints()) names.insert(checkpoint.name());
    for (const v1::Checkpoint& checkpoint : response.checkpoints()) {
      const bool follows = names.contains(checkpoint.parent());
      followers_[follows ? checkpoint.parent() : ""].push_back(&checkpoint);
    }
    for (const v1::Checkpoint* first : followers_[""]) DrawWithFollowers(*first, "", "");
    for (const v1::Checkpoint& checkpoint : response.checkpoints()) {
      DrawWithFollowers(checkpoint, "", "");
    }
  }

  const std::string& text() const { return text_; }

 private:
  // `lead` stands before its name, `indent` before the lines of its followers.
  void DrawWithFollowers(const v1::Checkpoint& checkpoint, const std::string& lead,
                         const std::string& indent) {
    if (!drawn_.insert(checkpoint.name()).second) return;
    absl::StrAppend(&text_, lead, CheckpointName(checkpoint), checkpoint.current() ? kHere : "",
                    "\n");
    const std::vector<const v1::Checkpoint*>& followers = followers_[checkpoint.name()];
    for (size_t i = 0; i < followers.size(); ++i) {
      const bool last = i + 1 == followers.size();
      DrawWithFollowers(*followers[i], indent + (last ? "`-- " : "|-- "),
                        indent + (last ? "    " : "|   "));
    }
  }

  std::map<std::string, std::vector<const v1::Checkpoint*>> followers_;  // by parent; "": none
  std::set<std::string> drawn_;
  std::string text_;
};

}  // namespace

std::string CheckpointTable(const v1::ListCheckpointsResponse& response) {
  Table table({"NAME", "TAKEN", "PARENT", "CURRENT", "STATE", "DISKS", "MEMORY", "STOOD STILL",
               "DESCRIPTION"});
  for (const v1::Checkpoint& checkpoint : response.checkpoints()) {
    table.Add({CheckpointName(checkpoint), FormatTime(checkpoint.taken_unix_ms()),
               TextOrDash(checkpoint.parent()), checkpoint.current() ? "yes" : "-",
               VmStateName(checkpoint.state()), DiskNames(checkpoint),
               HasMemory(checkpoint) ? FormatSize(checkpoint.file_bytes()) : "-",
               checkpoint.stood_still_us() == 0 ? "-" : StoodStill(checkpoint),
               TextOrDash(checkpoint.description())});
  }
  return table.ToString();
}

std::string CheckpointTree(const std::string& vm, const v1::ListCheckpointsResponse& response) {
  if (response.checkpoints().empty()) {
    return absl::StrCat("VM ", Printable(vm), " has no checkpoints\n");
  }
  return CheckpointTreeDrawing(response).text();
}

std::string TakenCheckpointLine(const v1::CreateCheckpointRequest& request,
                                const v1::Checkpoint& checkpoint) {
  std::string line = absl::StrCat("checkpoint ", Printable(checkpoint.name()), " of VM ",
                                  Printable(request.vm()), ": ", PartsOf(checkpoint));
  if (checkpoint.quiesced()) absl::StrAppend(&line, ", quiesced");
  if (checkpoint.stood_still_us() != 0) {
    absl::StrAppend(&line, ", stood still for ", StoodStill(checkpoint));
  }
  if (request.no_metadata()) absl::StrAppend(&line, "; nothing is remembered of it");
  if (request.halt()) absl::StrAppend(&line, "; it is stopped");
  if (request.paused()) absl::StrAppend(&line, "; it is paused");
  return line + "\n";
}

std::string DefinedCheckpointLine(const std::string& vm, const v1::Checkpoint& checkpoint) {
  return absl::StrCat("checkpoint ", Printable(checkpoint.name()), " of VM ", Printable(vm),
                      " defined: ", PartsOf(checkpoint), "\n");
}

std::string ClonedVmLine(const v1::RestoreCheckpointAsRequest& request, const v1::Vm& vm) {
  const bool saved = vm.state() == v1::VM_STATE_SAVED;
  return absl::StrCat("VM ", Printable(vm.name()), " was made of checkpoint ",
                      Printable(request.name()), " of VM ", Printable(request.vm()), "; its start ",
                      saved ? "goes on from there" : "boots from its disks", "\n");
}

std::string RevertedCheckpointLine(const v1::RevertToCheckpointRequest& request,
                                   const v1::Checkpoint& checkpoint) {
  std::string line =
      absl::StrCat(Printable(request.vm()), " went back to checkpoint ",
                   Printable(checkpoint.name()), " of ", FormatTime(checkpoint.taken_unix_ms()));
  const bool as_it_was = request.then() == v1::RevertToCheckpointRequest::THEN_UNSPECIFIED;
  if (request.then() == v1::RevertToCheckpointRequest::THEN_STOPPED ||
      (as_it_was && checkpoint.state() == v1::VM_STATE_STOPPED)) {
    absl::StrAppend(&line, "; it is stopped");
  } else if (as_it_was && HasMemory(checkpoint) && checkpoint.state() == v1::VM_STATE_PAUSED) {
    absl::StrAppend(&line, "; it is paused");
  }
  return line + "\n";
}

}  // namespace ferry::ctl
