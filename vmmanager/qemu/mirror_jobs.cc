#include "vmmanager/qemu/mirror_jobs.h"

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "vmmanager/qemu/json_text.h"
#include "vmmanager/qemu/qemu_command_line.h"
#include "vmmanager/qemu/qemu_machine.h"

namespace ferry::vm {

namespace json = boost::json;

std::map<DiskPlace, WritableDisk> WritableDisksOf(QemuMachine& machine) {
  std::map<DiskPlace, WritableDisk> disks;
  for (const auto& [controller, scsi] : machine.document().virtual_machine.devices.scsi) {
    for (const auto& [lun, disk] : scsi.attachments) {
      if (disk.read_only) continue;
      disks[{controller, lun}] = {DiskStem(controller, lun, disk), disk};
    }
  }
  return disks;
}

std::string CopyJobOf(const std::string& stem) { return absl::StrCat(stem, "-copy"); }

void MirrorJobs::Hear(const QmpEvent& event) {
  if (event.name == "BLOCK_JOB_ERROR" && states.contains(TextAt(event.data, "device"))) {
    other_failed = other_failed || TextAt(event.data, "operation") == "write";
  }
  if (event.name != "JOB_STATUS_CHANGE") return;
  const auto job = states.find(TextAt(event.data, "id"));
  if (job == states.end()) return;
  job->second = TextAt(event.data, "status");
  // It may leave that again for moments.
  if (job->second == "ready") ready.insert(job->first);
  changed.Set();
}

std::vector<std::string> MirrorJobs::Unready() const {
  std::vector<std::string> ids;
  for (const auto& [id, state] : states) {
    if (!ready.contains(id)) ids.push_back(id);
  }
  return ids;
}

uint64_t ShareOf(uint64_t bytes_per_second, size_t jobs) {
  if (bytes_per_second == 0) return 0;
  return std::max<uint64_t>(1, bytes_per_second / std::max<size_t>(1, jobs));
}

Task<absl::Status> SetJobSpeed(QemuMachine* machine, std::string id, uint64_t speed) {
  json::object arguments = {{"device", std::move(id)}, {"speed", speed}};
  const absl::Status told =
      (co_await machine->Command("block-job-set-speed", std::move(arguments))).status();
  co_return GotNoAnswer(told) ? told : absl::OkStatus();
}

CopiedBytes SumOfJobs(const json::value& answer,
                      const std::function<bool(const std::string&)>& counts) {
  CopiedBytes sum;
  const json::array* jobs = answer.if_array();
  for (size_t i = 0; jobs != nullptr && i < jobs->size(); ++i) {
    const json::object* job = (*jobs)[i].if_object();
    if (job == nullptr || !counts(TextAt(*job, "device"))) continue;
    sum.done += WholeNumberAt(*job, "offset");
    sum.total += WholeNumberAt(*job, "len");
  }
  return sum;
}

}  // namespace ferry::vm
