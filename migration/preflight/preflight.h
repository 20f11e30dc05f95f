#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "ferry/v1/migration.pb.h"
#include "migration/controller/session_registry.h"
#include "migration/preflight/checks.h"
#include "vmmanager/sandbox/host_description.h"

namespace ferry::migration {

// Finds out what checks.h judges, and changes nothing on either host. Thread: the executor's only.
class Preflight {
 public:
  struct Settings {
    vm::ProgramInfo program;
    std::string certificate;    // this host's PEM file; empty: plain TCP
    milliseconds agent{5'000};  // for the guest's answer
  };

  // The references must outlive it.
  Preflight(const ControllerDeps& deps, const SessionRegistry& sessions, Settings settings)
      : deps_(deps), sessions_(sessions), settings_(std::move(settings)) {}

  // Would a migration of this VM there be accepted? Asks the destination. A destination that cannot
  // be reached is a failed check; NOT_FOUND if there is no such VM, INVALID_ARGUMENT if the
  // destination is no address.
  Task<absl::StatusOr<v1::PreflightResponse>> Run(v1::PreflightRequest request);
  // The destination's half.
  Task<absl::StatusOr<v1::PreflightResponse>> RunIncoming(v1::PreflightIncomingRequest request);

 private:
  Task<SourceFacts> LookAt(std::shared_ptr<vm::UtilityVm> machine, v1::CopyStorage storage);
  Task<void> AskDestination(std::shared_ptr<PeerClient> peer, v1::PreflightRequest request,
                            std::string plan, v1::PreflightResponse* response);
  std::string OpenSession(const std::string& vm_id) const;
  CertificateFacts LookAtCertificate(const std::string& address) const;
  FolderFacts LookAtFolder() const;
  // As whoever would run the VM with that claim; the host with the journal `holder` may have it.
  Task<FenceFacts> LookAtFence(vm::FenceClaim claim, std::string holder) const;
  std::string WhyTaken(const vm::PlanState& plan) const;

  const ControllerDeps& deps_;
  const SessionRegistry& sessions_;
  const Settings settings_;
};

}  // namespace ferry::migration
