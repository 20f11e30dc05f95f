#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "vmmanager/backend/snapshots.h"

namespace ferry::vm {

class QemuMachine;

// What a disk's device reads from and writes to: the top of a chain of files.
struct DiskNode {
  std::string name;    // the block node's
  std::string driver;  // "qcow2" or "raw"
  std::string file;
  std::string data_file;  // of a qcow2 file that holds no data itself
  bool read_only = false;
  std::string io_status;                // QEMU's BlockDeviceIoStatus: "ok", "failed" or "nospace"
  std::vector<DiskSnapshot> snapshots;  // inside the top file
  // A file of the chain below the top one.
  struct Lower {
    std::string name;  // as QEMU calls it
    std::vector<DiskSnapshot> snapshots;
  };
  std::vector<Lower> below;  // the next one first
};

// The machine's disks as QEMU has them now, also where a former daemon has put files on top. A disk
// that is in the machine's document and not in QEMU is left out.
Task<absl::StatusOr<std::map<DiskPlace, DiskNode>>> DiskNodesOf(
    std::shared_ptr<QemuMachine> machine);

// Of those; NOT_FOUND if there is no such disk.
absl::StatusOr<DiskNode> NodeAt(const std::map<DiskPlace, DiskNode>& nodes, const DiskPlace& place);

// The names of all block nodes that QEMU has.
Task<absl::StatusOr<std::vector<std::string>>> NodeNamesOf(QemuMachine* machine);

// The name of the node that reads that image; NOT_FOUND if it is not open.
Task<absl::StatusOr<std::string>> NodeOfFile(QemuMachine* machine, std::string file);

// A name that is free, for a file on top of the disk of that stem (see DiskStem).
std::string FreeNodeName(const std::vector<std::string>& taken, const std::string& stem);

// Removes the nodes of that disk which nothing uses any more, and returns the names of the others:
// none, once its device is gone.
Task<absl::StatusOr<std::vector<std::string>>> DropUnusedNodes(QemuMachine* machine,
                                                               std::string stem);

// The path in QEMU's name of a file: that itself, or inside what begins with "json:".
std::string PathInFileName(const std::string& name);

}  // namespace ferry::vm
