#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "ferry/state/v1/saved_state.pb.h"
#include "vmmanager/schema/compute_system.h"

// The disks that a VM's memory knows, by the names of files that may have become others since.
namespace ferry::vm {

// How fingerprints named a disk, and name it now.
using DeviceNames = std::map<std::string, std::string>;

// `see` may change a disk. Returns the names of all.
DeviceNames ForEachDisk(schema::ComputeSystem* document,
                        const std::function<void(schema::Attachment&)>& see);
void RenameDevices(const DeviceNames& names, state::v1::Fingerprint* fingerprint);

// A disk that was merged into another file since.
struct MergedDisk {
  std::string then;               // as the memory calls it
  state::v1::DiskGeneration now;  // the file that it is in; of which place it is does not count
  std::string format;
};
// Gives it its file of now where the machine, or what is known of its disks, has it.
DeviceNames NameAsNow(const MergedDisk& disk, schema::ComputeSystem* document,
                      std::vector<state::v1::DiskGeneration>* generations);

}  // namespace ferry::vm
