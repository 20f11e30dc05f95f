#pragma once

#include "vmmanager/backend/backend_conformance.h"

namespace ferry::vm {

// What the cases about snapshots need beside the other cases.
class SnapshotFixture : public BackendFixture {
 public:
  // Makes an empty qcow2 disk of 64 MiB.
  virtual void MakeQcow2(const std::string& path) = 0;
  // Writes a snapshot of the disk alone into an image that no system uses.
  virtual void SnapshotDiskAlone(const std::string& path, const std::string& tag) = 0;
};

using SnapshotFixtureFactory = std::function<std::unique_ptr<SnapshotFixture>(Executor)>;

// As RegisterBackendConformance().
bool RegisterSnapshotConformance(const char* suite, SnapshotFixtureFactory factory);

}  // namespace ferry::vm
