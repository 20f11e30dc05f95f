#pragma once

#include <functional>
#include <memory>
#include <string>

#include "vmmanager/backend/compute_system.h"

namespace ferry::vm {

// What the conformance suite needs to know of the backend that it runs on.
class BackendFixture {
 public:
  virtual ~BackendFixture() = default;

  // The two hosts' backends; may be the same object.
  virtual Backend& source() = 0;
  virtual Backend& destination() = 0;
  virtual schema::ComputeSystem Document() = 0;
  // A fresh folder for sockets and files, short enough for a socket's path.
  virtual std::string Folder() = 0;
  // Makes an empty qcow2 disk of 64 MiB.
  virtual void MakeQcow2(const std::string& path) = 0;
  // Makes a qcow2 disk with nothing in it, on top of what is in `below`.
  virtual void MakeOverlay(const std::string& path, const std::string& below,
                           const std::string& format) = 0;
  // Writes a snapshot of the disk alone into an image that no system uses.
  virtual void SnapshotDiskAlone(const std::string& path, const std::string& tag) = 0;
  // For one whole case, on the host's clock.
  virtual milliseconds Deadline() { return milliseconds(60'000); }

  // A number in the guest's memory that it raises by running, and that is not 0 once LetRun() was
  // called.
  virtual Task<absl::StatusOr<uint64_t>> Progress(ComputeSystem& system) = 0;
  // Makes the guest run for at least one step, or waits for that.
  virtual Task<void> LetRun(ComputeSystem& system) = 0;
};

using BackendFixtureFactory = std::function<std::unique_ptr<BackendFixture>(Executor)>;

// Registers every case as a GoogleTest of `suite`; to be called from a static initialiser:
//   const bool kRegistered = RegisterBackendConformance("FakeBackendConformance", MakeFixture);
bool RegisterBackendConformance(const char* suite, BackendFixtureFactory factory);

}  // namespace ferry::vm
