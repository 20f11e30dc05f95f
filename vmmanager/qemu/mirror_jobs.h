#pragma once

#include <boost/json/value.hpp>
#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "bridge/runtime/async.h"
#include "vmmanager/backend/disk_copies.h"
#include "vmmanager/schema/compute_system.h"

namespace ferry::vm {

class QemuMachine;
struct QmpEvent;

// QEMU's jobs blockdev-mirror that copy a machine's disks to another host.

// A disk that the guest can write to; `stem` as DiskStem() says, also its device's id.
struct WritableDisk {
  std::string stem;
  schema::Attachment disk;
};
std::map<DiskPlace, WritableDisk> WritableDisksOf(QemuMachine& machine);

// The id of the job that copies that disk.
std::string CopyJobOf(const std::string& stem);

// The states of several of them, as QEMU tells them.
struct MirrorJobs {
  explicit MirrorJobs(const Executor& executor) : changed(executor) {}

  void Hear(const QmpEvent& event);
  // Those that the bandwidth is for.
  std::vector<std::string> Unready() const;

  AsyncEvent changed;
  std::map<std::string, std::string> states;  // by the job's id
  std::set<std::string> ready;                // those that have been
  bool all_begun = false;
  bool other_failed = false;  // the other host's disk, or the way there
};

// Of several jobs at once; 0 is no limit.
uint64_t ShareOf(uint64_t bytes_per_second, size_t jobs);
// Of one that has ended nothing is to be limited.
Task<absl::Status> SetJobSpeed(QemuMachine* machine, std::string id, uint64_t speed);

// Of those among query-block-jobs' answer whose id is one of these.
CopiedBytes SumOfJobs(const boost::json::value& answer,
                      const std::function<bool(const std::string&)>& counts);

}  // namespace ferry::vm
