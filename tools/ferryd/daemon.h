#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "bridge/runtime/async.h"
#include "tools/ferryd/config.h"

namespace ferry::migration {
struct RefusedConnection;
}  // namespace ferry::migration

namespace ferry::tools {

// The daemon: makes every collaborator in order, serves until told to stop, and lets go of them in
// the opposite order. VMs run on when it ends.
class Daemon {
 public:
  Daemon(Executor executor, FerrydConfig config);
  ~Daemon();

  // Returns when it serves, or why it cannot.
  Task<absl::Status> Start();
  // Takes no more calls, calls migrations off, tells attached clients, and detaches from the VMs.
  Task<void> Stop();

 private:
  absl::Status PrepareFolders();
  absl::Status OpenCertificates();
  void AuditRefusedSession(const migration::RefusedConnection& refused);
  Task<absl::Status> OpenFence();
  Task<absl::Status> OpenBackend();
  Task<absl::Status> LoadContainers();
  std::function<void(const std::string&)> Failpoint() const;
  bool VsockWorks() const;
  void MakeImages();
  void MakeSaves();
  Task<void> OpenImages();
  absl::Status OpenMigration();
  absl::Status Serve();
  Task<void> StopServing();
  Task<void> LetGo();

  struct Parts;
  Executor executor_;
  FerrydConfig config_;
  std::unique_ptr<Parts> parts_;
};

}  // namespace ferry::tools
