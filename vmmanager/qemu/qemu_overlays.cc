#include "vmmanager/qemu/qemu_overlays.h"

#include <spdlog/spdlog.h>

#include <boost/json/array.hpp>
#include <iterator>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/qemu/block_job.h"
#include "vmmanager/qemu/disk_nodes.h"
#include "vmmanager/qemu/job_report.h"
#include "vmmanager/qemu/open_images.h"
#include "vmmanager/qemu/qemu_command_line.h"
#include "vmmanager/qemu/qemu_machine.h"

namespace ferry::vm {
namespace {

namespace json = boost::json;
using schema::SystemState;

bool IsAlive(QemuMachine& machine) {
  return machine.state() == SystemState::kRunning || machine.state() == SystemState::kPaused;
}

schema::Attachment& AttachmentAt(QemuMachine& machine, const DiskPlace& place) {
  return machine.document()
      .virtual_machine.devices.scsi.at(place.controller)
      .attachments.at(place.lun);
}

std::string StemAt(QemuMachine& machine, const DiskPlace& place) {
  return DiskStem(place.controller, place.lun, AttachmentAt(machine, place));
}

// A file that goes on top of what a disk is.
struct NewTop {
  DiskOverlay overlay;
  std::string node;   // its own
  std::string below;  // what the disk is now
};

absl::StatusOr<std::vector<NewTop>> PlanTops(QemuMachine& machine,
                                             const std::map<DiskPlace, DiskNode>& nodes,
                                             std::vector<std::string> taken,
                                             std::vector<DiskOverlay> overlays) {
  std::vector<NewTop> tops;
  std::set<DiskPlace> named;
  for (DiskOverlay& overlay : overlays) {
    ASSIGN_OR_RETURN(const DiskNode now, NodeAt(nodes, overlay.disk));
    if (!named.insert(overlay.disk).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("the disk at ", ToText(overlay.disk), " is named twice"));
    }
    if (AttachmentAt(machine, overlay.disk).read_only) {
      return absl::FailedPreconditionError(
          absl::StrCat("the disk at ", ToText(overlay.disk), " is only read"));
    }
    NewTop top;
    top.node = FreeNodeName(taken, StemAt(machine, overlay.disk));
    top.below = now.name;
    top.overlay = std::move(overlay);
    taken.push_back(top.node);
    tops.push_back(std::move(top));
  }
  return tops;
}

Task<absl::Status> OpenFile(QemuMachine* machine, const NewTop* top) {
  json::object file = {{"driver", "file"}, {"filename", top->overlay.file}};
  // What is below it is open already, and comes under it in the transaction.
  json::object node = {{"driver", "qcow2"},
                       {"node-name", top->node},
                       {"file", std::move(file)},
                       {"backing", nullptr}};
  co_return (co_await machine->Command("blockdev-add", std::move(node))).status();
}

Task<absl::Status> GoOnIn(QemuMachine* machine, const std::vector<NewTop>* tops) {
  json::array actions;
  for (const NewTop& top : *tops) {
    json::object data = {{"node", top.below}, {"overlay", top.node}};
    actions.push_back(json::object{{"type", "blockdev-snapshot"}, {"data", std::move(data)}});
  }
  json::object arguments = {{"actions", std::move(actions)}};
  co_return (co_await machine->Command("transaction", std::move(arguments))).status();
}

Task<absl::Status> OpenAndGoOn(QemuMachine* machine, const std::vector<NewTop>* tops) {
  for (const NewTop& top : *tops) CO_RETURN_IF_ERROR(co_await OpenFile(machine, &top));
  co_return co_await GoOnIn(machine, tops);
}

// Where a former call had no answer its files may be on no disk, and must not be kept open.
Task<absl::Status> DropUnusedOf(QemuMachine* machine, std::string stem) {
  co_return (co_await DropUnusedNodes(machine, std::move(stem))).status();
}

std::string MergeJobOf(const std::string& stem) { return absl::StrCat(stem, "-merge"); }
std::string LowerMergeJobOf(const std::string& stem) { return absl::StrCat(stem, "-lower-merge"); }

std::string MoveJobOf(const std::string& stem) { return absl::StrCat(stem, "-move"); }

// Of a merge or move whose end nobody has seen, the job and the file that the disk was in are still
// there. Returns the state of one that has not ended; empty: there is none.
Task<absl::StatusOr<std::string>> TidyUpJob(QemuMachine* machine, std::string stem,
                                            std::string id) {
  CO_ASSIGN_OR_RETURN(const JobReport left, co_await AskForJob(machine, id));
  if (left.state != "concluded") co_return left.state;
  CO_RETURN_IF_ERROR(co_await DropUnusedOf(machine, stem));
  CO_RETURN_IF_ERROR(co_await DismissJob(machine, id));
  co_return "";
}

// Whatever becomes of it nothing is left of it.
Task<absl::Status> EndLeftMove(std::shared_ptr<QemuMachine> machine, std::string stem) {
  const std::string id = MoveJobOf(stem);
  CO_RETURN_IF_ERROR(co_await EndLeftJob(machine, id));
  CO_RETURN_IF_ERROR((co_await TidyUpJob(machine.get(), stem, id)).status());
  // It may have been cut off before there was a job.
  co_return co_await DropUnusedOf(machine.get(), std::move(stem));
}

// A disk's device is on another file, and the job that did it is not needed any more; what cannot
// be tidied up is so the next time.
Task<void> NoteSwitched(std::shared_ptr<QemuMachine> machine, DiskPlace place, std::string format,
                        std::string id) {
  schema::Attachment& disk = AttachmentAt(*machine, place);
  const std::string stem = StemAt(*machine, place);
  const auto now = co_await DiskNodesOf(machine);
  if (now.ok() && now->contains(place)) {
    disk.path = now->at(place).file;
    disk.format = std::move(format);
  }
  const absl::Status dropped = co_await DropUnusedOf(machine.get(), stem);
  const absl::Status dismissed = co_await DismissJob(machine.get(), id);
  if (!dropped.ok() || !dismissed.ok()) {
    spdlog::warn("{}: {} {}", id, dropped.ToString(), dismissed.ToString());
  }
}

// What is empty in a disk takes no room in the file that it is moved to: QEMU leaves zeros out only
// where it may unmap.
Task<absl::Status> OpenTarget(QemuMachine* machine, const DiskTarget* target, std::string node) {
  json::object file = {{"driver", "file"}, {"filename", target->file}, {"discard", "unmap"}};
  json::object format = {{"driver", target->format},
                         {"node-name", std::move(node)},
                         {"file", std::move(file)},
                         {"discard", "unmap"}};
  co_return (co_await machine->Command("blockdev-add", std::move(format))).status();
}

absl::Status HoldsNoSnapshots(const std::string& file, const std::vector<DiskSnapshot>& snapshots,
                              const DiskPlace& place) {
  if (snapshots.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("the file ", file, " of the disk at ", ToText(place),
                   " holds snapshots, which would be lost; delete them first"));
}

absl::Status CheckCanMerge(const DiskNode& top, const DiskPlace& place) {
  if (top.below.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the disk at ", ToText(place), " has no file below ", top.file));
  }
  return HoldsNoSnapshots(top.file, top.snapshots, place);
}

// Of a disk's chain, as QEMU calls them.
struct LowerFiles {
  std::string above;   // the path of what lies, or is to lie, over the file below
  std::string merged;  // what is to be merged; empty: it is merged already
  std::string below;
};

absl::StatusOr<LowerFiles> FindLower(const DiskNode& top, const LowerOverlay& lower) {
  std::string above = top.file;
  for (auto file = top.below.begin(); file != top.below.end(); ++file) {
    const std::string path = PathInFileName(file->name);
    if (path == lower.below && above != lower.file) return LowerFiles{above, "", file->name};
    const auto under = std::next(file);
    const bool is_it = path == lower.file && under != top.below.end() &&
                       PathInFileName(under->name) == lower.below;
    if (is_it) {
      RETURN_IF_ERROR(HoldsNoSnapshots(lower.file, file->snapshots, lower.disk));
      return LowerFiles{above, file->name, under->name};
    }
    above = path;
  }
  return absl::FailedPreconditionError(absl::StrCat("the disk at ", ToText(lower.disk),
                                                    " has not got ", lower.file, " over ",
                                                    lower.below, " below what it is written to"));
}

}  // namespace

Task<absl::Status> AddQemuOverlays(std::shared_ptr<QemuMachine> machine,
                                   std::vector<DiskOverlay> overlays) {
  if (!IsAlive(*machine)) co_return machine->WrongState("put files on top of its disks");
  if (overlays.empty()) co_return absl::OkStatus();
  for (const DiskOverlay& overlay : overlays) {
    const auto& scsi = machine->document().virtual_machine.devices.scsi;
    const auto controller = scsi.find(overlay.disk.controller);
    const bool known =
        controller != scsi.end() && controller->second.attachments.contains(overlay.disk.lun);
    if (!known) continue;
    const std::string stem = StemAt(*machine, overlay.disk);
    const std::string job = MergeJobOf(stem);
    CO_RETURN_IF_ERROR((co_await TidyUpJob(machine.get(), stem, job)).status());
  }
  CO_ASSIGN_OR_RETURN(const auto nodes, co_await DiskNodesOf(machine));
  CO_ASSIGN_OR_RETURN(auto taken, co_await NodeNamesOf(machine.get()));
  auto planned = PlanTops(*machine, nodes, std::move(taken), std::move(overlays));
  if (!planned.ok()) co_return planned.status();
  const std::vector<NewTop> tops = *std::move(planned);
  std::vector<std::string> below;
  for (const NewTop& top : tops) below.push_back(top.below);
  CO_RETURN_IF_ERROR(co_await OpenImages(machine.get(), std::move(below)));
  const absl::Status done = co_await OpenAndGoOn(machine.get(), &tops);
  if (GotNoAnswer(done)) co_return done;
  for (const NewTop& top : tops) {
    if (done.ok()) {
      schema::Attachment& disk = AttachmentAt(*machine, top.overlay.disk);
      disk.path = top.overlay.file;
      disk.format = "qcow2";
      continue;
    }
    // Those that had been opened already; QEMU's refusal of the others says nothing.
    json::object node = {{"node-name", top.node}};
    (void)co_await machine->Command("blockdev-del", std::move(node));
  }
  co_return done;
}

Task<absl::Status> MergeQemuOverlay(std::shared_ptr<QemuMachine> machine, DiskPlace place,
                                    std::string format, PlaceDiskFile place_file,
                                    MergeProgress progress) {
  if (!IsAlive(*machine)) co_return machine->WrongState("merge the files of its disks");
  CO_ASSIGN_OR_RETURN(auto nodes, co_await DiskNodesOf(machine));
  CO_ASSIGN_OR_RETURN(const DiskNode top, NodeAt(nodes, place));
  const std::string stem = StemAt(*machine, place);
  SwitchJob job;
  job.id = MergeJobOf(stem);
  job.command = "block-commit";
  job.arguments = {{"device", top.name}};
  if (!top.below.empty()) job.arguments["base"] = top.below.front().name;
  job.what = "merge the disk's files";
  job.place = std::move(place_file);
  job.progress = std::move(progress);
  const std::string id = job.id;
  CO_ASSIGN_OR_RETURN(const std::string left, co_await TidyUpJob(machine.get(), stem, id));
  if (left.empty()) CO_RETURN_IF_ERROR(CheckCanMerge(top, place));
  std::vector<std::string> images = {top.name};
  CO_RETURN_IF_ERROR(co_await OpenImages(machine.get(), std::move(images)));
  CO_RETURN_IF_ERROR(co_await RunSwitchJob(machine, std::move(job)));
  co_await NoteSwitched(machine, place, std::move(format), id);
  co_return absl::OkStatus();
}

Task<absl::Status> MoveQemuDisk(std::shared_ptr<QemuMachine> machine, DiskPlace place,
                                DiskTarget target, PlaceDiskFile place_file,
                                MergeProgress progress) {
  if (!IsAlive(*machine)) co_return machine->WrongState("move its disks");
  CO_ASSIGN_OR_RETURN(const auto nodes, co_await DiskNodesOf(machine));
  CO_ASSIGN_OR_RETURN(const DiskNode top, NodeAt(nodes, place));
  if (AttachmentAt(*machine, place).read_only) {
    co_return absl::FailedPreconditionError(
        absl::StrCat("the disk at ", ToText(place), " is only read"));
  }
  CO_RETURN_IF_ERROR(HoldsNoSnapshots(top.file, top.snapshots, place));
  const std::string stem = StemAt(*machine, place);
  CO_RETURN_IF_ERROR(co_await EndLeftMove(machine, stem));
  std::vector<std::string> images = {top.name};
  CO_RETURN_IF_ERROR(co_await OpenImages(machine.get(), std::move(images)));
  CO_ASSIGN_OR_RETURN(const auto taken, co_await NodeNamesOf(machine.get()));
  const std::string node = FreeNodeName(taken, stem);
  CO_RETURN_IF_ERROR(co_await OpenTarget(machine.get(), &target, node));
  SwitchJob job;
  job.id = MoveJobOf(stem);
  job.command = "blockdev-mirror";
  // What lies below the disk lies below the new file, too. What the guest writes goes to both, so
  // that it cannot write faster than it is copied.
  job.arguments = {
      {"device", top.name}, {"target", node}, {"sync", "top"}, {"copy-mode", "write-blocking"}};
  job.what = "move the disk";
  job.ready = std::move(target.ready);
  job.place = std::move(place_file);
  job.progress = std::move(progress);
  const std::string id = job.id;
  const absl::Status moved = co_await RunSwitchJob(machine, std::move(job));
  if (GotNoAnswer(moved)) co_return moved;
  if (!moved.ok()) {
    const absl::Status closed = co_await DropUnusedOf(machine.get(), stem);
    if (!closed.ok()) spdlog::warn("{}: {}", id, closed.ToString());
    co_return moved;
  }
  co_await NoteSwitched(machine, place, target.format, id);
  co_return absl::OkStatus();
}

Task<absl::Status> MergeLowerQemuOverlay(std::shared_ptr<QemuMachine> machine, LowerOverlay lower,
                                         MergeProgress progress) {
  if (!IsAlive(*machine)) co_return machine->WrongState("merge the files of its disks");
  CO_ASSIGN_OR_RETURN(auto nodes, co_await DiskNodesOf(machine));
  CO_RETURN_IF_ERROR(NodeAt(nodes, lower.disk).status());
  const std::string stem = StemAt(*machine, lower.disk);
  LowerCommitJob job;
  job.id = LowerMergeJobOf(stem);
  job.progress = std::move(progress);
  // A daemon that died may have left one on its way; it has changed nothing unless it is done.
  CO_RETURN_IF_ERROR(co_await EndLeftJob(machine, job.id));
  CO_ASSIGN_OR_RETURN(const JobReport left, co_await AskForJob(machine.get(), job.id));
  if (left.present) CO_RETURN_IF_ERROR(co_await DismissJob(machine.get(), job.id));
  CO_ASSIGN_OR_RETURN(nodes, co_await DiskNodesOf(machine));
  CO_ASSIGN_OR_RETURN(const DiskNode top, NodeAt(nodes, lower.disk));
  CO_ASSIGN_OR_RETURN(const auto found, FindLower(top, lower));
  std::vector<std::string> images = {top.name};
  CO_RETURN_IF_ERROR(co_await OpenImages(machine.get(), std::move(images)));
  if (!found.merged.empty()) {
    job.node = top.name;
    job.top = found.merged;
    job.base = found.below;
    job.below = lower.below;
    CO_RETURN_IF_ERROR(co_await RunLowerCommitJob(machine, std::move(job)));
  } else {
    // QEMU's job changes over first, and then writes that into the file above; if only that fails
    // the job has failed.
    CO_ASSIGN_OR_RETURN(std::string above, co_await NodeOfFile(machine.get(), found.above));
    json::object name = {
        {"device", top.name}, {"image-node-name", std::move(above)}, {"backing-file", lower.below}};
    CO_RETURN_IF_ERROR(
        (co_await machine->Command("change-backing-file", std::move(name))).status());
  }
  // The file is to be nobody's from here on.
  co_return co_await DropUnusedOf(machine.get(), stem);
}

Task<absl::StatusOr<DiskFiles>> ListQemuDiskFiles(std::shared_ptr<QemuMachine> machine) {
  if (!IsAlive(*machine)) co_return machine->WrongState("list the files of its disks");
  for (const auto& [controller, scsi] : machine->document().virtual_machine.devices.scsi) {
    for (const auto& [lun, disk] : scsi.attachments) {
      if (disk.read_only) continue;
      const std::string stem = DiskStem(controller, lun, disk);
      std::string topmost = MergeJobOf(stem);
      std::string lower = LowerMergeJobOf(stem);
      CO_RETURN_IF_ERROR(co_await EndLeftJob(machine, std::move(topmost)));
      CO_RETURN_IF_ERROR(co_await EndLeftJob(machine, std::move(lower)));
      CO_RETURN_IF_ERROR(co_await EndLeftMove(machine, stem));
    }
  }
  CO_ASSIGN_OR_RETURN(const auto nodes, co_await DiskNodesOf(machine));
  DiskFiles files;
  for (const auto& [place, node] : nodes) {
    if (!AttachmentAt(*machine, place).read_only) files[place] = node.file;
  }
  co_return files;
}

}  // namespace ferry::vm
