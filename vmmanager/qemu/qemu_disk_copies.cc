#include "vmmanager/qemu/qemu_disk_copies.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/backend/disk_copies.h"
#include "vmmanager/qemu/block_job.h"
#include "vmmanager/qemu/disk_nodes.h"
#include "vmmanager/qemu/job_report.h"
#include "vmmanager/qemu/json_text.h"
#include "vmmanager/qemu/mirror_jobs.h"
#include "vmmanager/qemu/open_images.h"
#include "vmmanager/qemu/qemu_command_line.h"
#include "vmmanager/qemu/qemu_machine.h"
#include "vmmanager/qemu/unix_socket.h"

namespace ferry::vm {
namespace {

namespace json = boost::json;
using schema::SystemState;

constexpr char kCopying[] = "copy a disk to the destination";
constexpr milliseconds kSealPause{5};
// What is left to be written when the guest has been stopped.
constexpr milliseconds kSealDeadline{10'000};

// At the destination, the file of a disk a second time, which is written to as long as the disk's
// own node may not be; at the source, the other host's disk.
std::string InNodeOf(const std::string& stem) { return absl::StrCat(stem, "-in"); }
std::string PeerNodeOf(const std::string& stem) { return absl::StrCat(stem, "-peer"); }

absl::StatusOr<std::vector<WritableDisk>> FindWritable(QemuMachine& machine,
                                                       const std::vector<DiskPlace>& places) {
  const std::map<DiskPlace, WritableDisk> all = WritableDisksOf(machine);
  std::vector<WritableDisk> found;
  for (const DiskPlace& place : places) {
    const auto disk = all.find(place);
    if (disk == all.end()) {
      return absl::NotFoundError(
          absl::StrCat("there is no disk at ", ToText(place), " that can be written to"));
    }
    found.push_back(disk->second);
  }
  return found;
}

Task<absl::Status> Tell(QemuMachine* machine, std::string command, json::object arguments) {
  co_return (co_await machine->Command(std::move(command), std::move(arguments))).status();
}

// Zeros take no room in it: QEMU leaves them out only where it may unmap.
Task<absl::Status> OpenForWriting(QemuMachine* machine, const WritableDisk* disk) {
  json::object file = {{"driver", "file"}, {"filename", disk->disk.path}, {"discard", "unmap"}};
  json::object node = {{"driver", disk->disk.format},
                       {"node-name", InNodeOf(disk->stem)},
                       {"file", std::move(file)},
                       {"discard", "unmap"}};
  CO_RETURN_IF_ERROR(co_await Tell(machine, "blockdev-add", std::move(node)));
  json::object exported = {{"type", "nbd"},
                           {"id", InNodeOf(disk->stem)},
                           {"node-name", InNodeOf(disk->stem)},
                           {"name", disk->stem},
                           {"writable", true}};
  co_return co_await Tell(machine, "block-export-add", std::move(exported));
}

json::object ServerAt(const std::string& unix_path) {
  return {{"type", "unix"}, {"path", unix_path}};
}

// Why a job ended that should not have, or was never begun.
Task<absl::Status> WhyEnded(QemuMachine* machine, std::shared_ptr<MirrorJobs> copies,
                            std::string id) {
  CO_ASSIGN_OR_RETURN(const JobReport end, co_await AskForJob(machine, id));
  if (!end.present) co_return absl::CancelledError("the copy of a disk was called off");
  absl::Status why = BlockJobError(kCopying, end.error.empty() ? "its job ended early" : end.error);
  if (copies->other_failed) why.SetPayload(kOtherDiskFailed, absl::Cord());
  co_return why;
}

struct CopyWay {
  uint64_t speed = 0;  // bytes per second; 0: no limit
  bool full = false;   // with what the disk lies over
};

// QEMU sends so much at once and then waits until that would have gone at the job's speed. What
// takes longer than a second looks as if nothing moved any more.
int64_t BufferFor(uint64_t speed) {
  constexpr uint64_t kLeast = uint64_t{1} << 20;
  constexpr uint64_t kMost = uint64_t{10} << 20;  // QEMU's own choice
  return static_cast<int64_t>(speed == 0 ? kMost : std::clamp(speed, kLeast, kMost));
}

Task<absl::Status> BeginCopy(QemuMachine* machine, std::string source, std::string stem,
                             std::string unix_path, CopyWay way) {
  // Where it may not unmap, QEMU's mirror counts zeros as bytes that it sends (mirror_iteration()),
  // and a limit makes a large empty disk take for ever.
  json::object peer = {{"driver", "nbd"},
                       {"node-name", PeerNodeOf(stem)},
                       {"server", ServerAt(unix_path)},
                       {"export", stem},
                       {"discard", "unmap"}};
  CO_RETURN_IF_ERROR(co_await Tell(machine, "blockdev-add", std::move(peer)));
  // The other disk is new, and what is empty stays out of it: of a disk without another below,
  // "top" is all of it, and "full" fills the other one with zeros first. Not "write-blocking":
  // QEMU 7.2 may die when the connection ends while its guest writes (docs/adr/0033).
  json::object mirror = {{"job-id", CopyJobOf(stem)},        {"device", std::move(source)},
                         {"target", PeerNodeOf(stem)},       {"sync", way.full ? "full" : "top"},
                         {"copy-mode", "background"},        {"on-target-error", "report"},
                         {"on-source-error", "report"},      {"auto-dismiss", false},
                         {"buf-size", BufferFor(way.speed)}, {"speed", way.speed}};
  co_return co_await Tell(machine, "blockdev-mirror", std::move(mirror));
}

Task<absl::Status> AwaitSame(QemuMachine* machine, std::shared_ptr<MirrorJobs> copies) {
  while (true) {
    copies->changed.Reset();
    for (const auto& [id, state] : copies->states) {
      if (state == "concluded" || state == "null") {
        co_return co_await WhyEnded(machine, copies, id);
      }
    }
    if (copies->ready.size() == copies->states.size()) co_return absl::OkStatus();
    co_await copies->changed.Wait();
  }
}

absl::Status CheckCanCopy(const DiskNode& top, const DiskPlace& place) {
  if (top.read_only) {
    return absl::FailedPreconditionError(
        absl::StrCat("the disk at ", ToText(place), " is only read"));
  }
  if (top.snapshots.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("the file ", top.file, " of the disk at ", ToText(place),
                   " holds snapshots, which would be lost; delete them first"));
}

// The other host has made its disk for what it was told of this one.
absl::Status LiesOverOthers(const DiskNode& top, const DiskPlace& place) {
  return absl::AbortedError(absl::StrCat("the file ", top.file, " of the disk at ", ToText(place),
                                         " lies over other files than before; try again"));
}

Task<absl::Status> BeginAndAwait(std::shared_ptr<QemuMachine> machine,
                                 std::vector<DiskMirror> mirrors, std::string unix_path,
                                 uint64_t bytes_per_second, std::shared_ptr<MirrorJobs> copies) {
  std::vector<DiskPlace> places;
  for (const DiskMirror& mirror : mirrors) places.push_back(mirror.place);
  CO_ASSIGN_OR_RETURN(const std::vector<WritableDisk> disks, FindWritable(*machine, places));
  const uint64_t speed = ShareOf(bytes_per_second, disks.size());
  CO_ASSIGN_OR_RETURN(const auto nodes, co_await DiskNodesOf(machine));
  for (size_t i = 0; i < disks.size(); ++i) {
    CO_ASSIGN_OR_RETURN(const DiskNode top, NodeAt(nodes, places[i]));
    CO_RETURN_IF_ERROR(CheckCanCopy(top, places[i]));
    std::vector<std::string> images = {top.name};
    CO_RETURN_IF_ERROR(co_await OpenImages(machine.get(), std::move(images)));
    copies->states[CopyJobOf(disks[i].stem)] = "";
    const bool over_same = mirrors[i].over_same;
    if (over_same && top.below.size() != 1) co_return LiesOverOthers(top, places[i]);
    const CopyWay way{.speed = speed, .full = !over_same && !top.below.empty()};
    CO_RETURN_IF_ERROR(co_await BeginCopy(machine.get(), top.name, disks[i].stem, unix_path, way));
  }
  copies->all_begun = true;
  co_return co_await AwaitSame(machine.get(), std::move(copies));
}

Task<absl::Status> AwaitEndOf(std::shared_ptr<QemuMachine> machine) {
  co_await machine->WaitEnded();
  co_return absl::UnavailableError("QEMU ended while its disks were copied");
}

// Whether there is a node of that name.
Task<absl::StatusOr<bool>> HasNode(QemuMachine* machine, std::string name) {
  CO_ASSIGN_OR_RETURN(const std::vector<std::string> names, co_await NodeNamesOf(machine));
  co_return std::find(names.begin(), names.end(), name) != names.end();
}

// The call that began a copy and one that calls it off may both be at this: what the other one has
// removed meanwhile is gone.
Task<absl::Status> RemoveNode(QemuMachine* machine, std::string name) {
  CO_ASSIGN_OR_RETURN(const bool there, co_await HasNode(machine, name));
  if (!there) co_return absl::OkStatus();
  json::object node = {{"node-name", name}};
  const absl::Status removed = co_await Tell(machine, "blockdev-del", std::move(node));
  if (removed.ok() || GotNoAnswer(removed)) co_return removed;
  CO_ASSIGN_OR_RETURN(const bool stays, co_await HasNode(machine, name));
  co_return stays ? removed : absl::OkStatus();
}

Task<absl::Status> RemoveJob(QemuMachine* machine, std::string id) {
  CO_ASSIGN_OR_RETURN(const JobReport left, co_await AskForJob(machine, id));
  if (!left.present) co_return absl::OkStatus();
  const absl::Status removed = co_await DismissJob(machine, id);
  if (removed.ok() || GotNoAnswer(removed)) co_return removed;
  CO_ASSIGN_OR_RETURN(const JobReport now, co_await AskForJob(machine, id));
  co_return now.present ? removed : absl::OkStatus();
}

Task<absl::Status> DropOne(std::shared_ptr<QemuMachine> machine, std::string stem) {
  const std::string id = CopyJobOf(stem);
  CO_RETURN_IF_ERROR(co_await EndLeftJob(machine, id));
  CO_RETURN_IF_ERROR(co_await RemoveJob(machine.get(), id));
  std::string peer = PeerNodeOf(stem);
  CO_RETURN_IF_ERROR(co_await RemoveNode(machine.get(), std::move(peer)));
  co_return co_await LiftWriteLimit(machine.get(), std::move(stem));
}

// The guest stands still, so that what is left becomes less.
Task<absl::Status> AwaitReady(QemuMachine* machine, std::shared_ptr<MirrorJobs> copies,
                              std::string id) {
  while (true) {
    CO_ASSIGN_OR_RETURN(const json::value answer, co_await machine->Command("query-block-jobs"));
    const json::object* found = nullptr;
    const json::array* jobs = answer.if_array();
    for (size_t i = 0; jobs != nullptr && i < jobs->size(); ++i) {
      const json::object* job = (*jobs)[i].if_object();
      if (job != nullptr && TextAt(*job, "device") == id) found = job;
    }
    const std::string status = found == nullptr ? "null" : TextAt(*found, "status");
    if (status == "null" || status == "concluded" || status == "aborting") {
      co_return co_await WhyEnded(machine, copies, id);
    }
    const json::value* ready = found->if_contains("ready");
    if (ready != nullptr && ready->is_bool() && ready->get_bool()) co_return absl::OkStatus();
    co_await Delay(kSealPause);
  }
}

// A job that is ready ends well when it is cancelled without force: once the other disk has all.
// One that failed since is kept, with its reason.
Task<absl::Status> AwaitSealed(QemuMachine* machine, std::shared_ptr<MirrorJobs> copies,
                               std::string id) {
  copies->states[id] = "";
  CO_RETURN_IF_ERROR(co_await SetJobSpeed(machine, id, 0));
  CO_RETURN_IF_ERROR(co_await AwaitReady(machine, copies, id));
  json::object job = {{"device", id}};
  const absl::Status told = co_await Tell(machine, "block-job-cancel", std::move(job));
  if (GotNoAnswer(told)) co_return told;
  if (!told.ok()) co_return co_await WhyEnded(machine, copies, id);
  const auto over = [copies, id] {
    const std::string& state = copies->states[id];
    return state == "concluded" || state == "null";
  };
  while (!over()) {
    copies->changed.Reset();
    if (over()) break;
    co_await copies->changed.Wait();
  }
  CO_ASSIGN_OR_RETURN(const JobReport end, co_await AskForJob(machine, id));
  if (!end.present || !end.error.empty()) co_return co_await WhyEnded(machine, copies, id);
  co_return absl::OkStatus();
}

Task<absl::Status> SealAll(QemuMachine* machine, std::vector<WritableDisk> disks,
                           std::shared_ptr<MirrorJobs> copies) {
  for (const WritableDisk& disk : disks) {
    const std::string id = CopyJobOf(disk.stem);
    CO_RETURN_IF_ERROR(co_await AwaitSealed(machine, copies, id));
    CO_RETURN_IF_ERROR(co_await DismissJob(machine, id));
    // With it goes its connection, so that the other host knows that it has all.
    json::object peer = {{"node-name", PeerNodeOf(disk.stem)}};
    CO_RETURN_IF_ERROR(co_await Tell(machine, "blockdev-del", std::move(peer)));
  }
  co_return absl::OkStatus();
}

}  // namespace

Task<absl::Status> OpenQemuDisks(std::shared_ptr<QemuMachine> machine, std::vector<DiskPlace> disks,
                                 std::string unix_path) {
  if (machine->state() != SystemState::kIncoming) {
    co_return machine->WrongState("take the content of its disks");
  }
  CO_RETURN_IF_ERROR(CheckUnixPath(unix_path));
  CO_ASSIGN_OR_RETURN(const std::vector<WritableDisk> found, FindWritable(*machine, disks));
  json::object path = {{"path", unix_path}};
  json::object address = {{"type", "unix"}, {"data", std::move(path)}};
  json::object server = {{"addr", std::move(address)}};
  CO_RETURN_IF_ERROR(co_await Tell(machine.get(), "nbd-server-start", std::move(server)));
  absl::Status opened;
  for (size_t i = 0; opened.ok() && i < found.size(); ++i) {
    opened = co_await OpenForWriting(machine.get(), &found[i]);
  }
  if (opened.ok()) co_return opened;
  (void)co_await CloseQemuDisks(machine);
  // Also if nothing was opened, or the next one would only hear that there is a server.
  json::object none;
  (void)co_await Tell(machine.get(), "nbd-server-stop", std::move(none));
  co_return opened;
}

Task<absl::Status> CloseQemuDisks(std::shared_ptr<QemuMachine> machine) {
  std::vector<std::string> open;
  CO_ASSIGN_OR_RETURN(const std::vector<std::string> names, co_await NodeNamesOf(machine.get()));
  for (const auto& [place, disk] : WritableDisksOf(*machine)) {
    std::string node = InNodeOf(disk.stem);
    if (std::find(names.begin(), names.end(), node) != names.end()) open.push_back(std::move(node));
  }
  if (open.empty()) co_return absl::OkStatus();
  // Ends the exports, too, whoever is connected to them. It may have been stopped before.
  json::object none;
  const absl::Status stopped = co_await Tell(machine.get(), "nbd-server-stop", std::move(none));
  if (GotNoAnswer(stopped)) co_return stopped;
  for (const std::string& node : open) {
    json::object gone = {{"node-name", node}};
    CO_RETURN_IF_ERROR(co_await Tell(machine.get(), "blockdev-del", std::move(gone)));
  }
  co_return absl::OkStatus();
}

Task<absl::Status> MirrorQemuDisks(std::shared_ptr<QemuMachine> machine,
                                   std::vector<DiskMirror> disks, std::string unix_path,
                                   MirrorLimits limits, TellCopied tell) {
  using asio::experimental::awaitable_operators::operator||;
  if (machine->state() != SystemState::kRunning && machine->state() != SystemState::kPaused) {
    co_return machine->WrongState("copy its disks");
  }
  CO_RETURN_IF_ERROR(CheckUnixPath(unix_path));
  const auto copies = std::make_shared<MirrorJobs>(machine->host().executor);
  const uint64_t tap =
      machine->AddEventTap([copies](const QmpEvent& event) { copies->Hear(event); });
  const absl::Cleanup untap = [machine, tap] { machine->RemoveEventTap(tap); };
  Task<absl::Status> begun = BeginAndAwait(machine, std::move(disks), std::move(unix_path),
                                           limits.bytes_per_second, copies);
  auto first = co_await (std::move(begun) || AwaitEndOf(machine) ||
                         WatchMirrors(machine.get(), copies, std::move(limits), std::move(tell)));
  if (first.index() == 1) co_return machine->WithLastWords(std::get<1>(first));
  const absl::Status same = first.index() == 0 ? std::get<0>(first) : std::get<2>(first);
  if (same.ok()) co_return same;
  const absl::Status dropped = co_await DropQemuMirrors(machine);
  if (!dropped.ok()) spdlog::warn("{}: {}", machine->id(), dropped.ToString());
  co_return same;
}

Task<absl::StatusOr<CopiedBytes>> MeasureQemuMirrors(std::shared_ptr<QemuMachine> machine) {
  std::set<std::string> jobs;
  for (const auto& [place, disk] : WritableDisksOf(*machine)) jobs.insert(CopyJobOf(disk.stem));
  CO_ASSIGN_OR_RETURN(const json::value answer, co_await machine->Command("query-block-jobs"));
  co_return SumOfJobs(answer, [&jobs](const std::string& id) { return jobs.contains(id); });
}

Task<absl::Status> SealQemuMirrors(std::shared_ptr<QemuMachine> machine,
                                   std::vector<DiskPlace> disks) {
  CO_ASSIGN_OR_RETURN(std::vector<WritableDisk> found, FindWritable(*machine, disks));
  const auto copies = std::make_shared<MirrorJobs>(machine->host().executor);
  const uint64_t tap =
      machine->AddEventTap([copies](const QmpEvent& event) { copies->Hear(event); });
  const absl::Cleanup untap = [machine, tap] { machine->RemoveEventTap(tap); };
  co_return co_await WithDeadline(kSealDeadline, "the rest of the disks",
                                  SealAll(machine.get(), std::move(found), copies));
}

Task<absl::Status> DropQemuMirrors(std::shared_ptr<QemuMachine> machine) {
  if (machine->state() != SystemState::kRunning && machine->state() != SystemState::kPaused) {
    co_return absl::OkStatus();
  }
  const std::map<DiskPlace, WritableDisk> disks = WritableDisksOf(*machine);
  for (const auto& [place, disk] : disks) {
    std::string stem = disk.stem;
    CO_RETURN_IF_ERROR(co_await DropOne(machine, std::move(stem)));
  }
  co_return absl::OkStatus();
}

}  // namespace ferry::vm
