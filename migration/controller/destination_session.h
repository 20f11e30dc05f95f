#pragma once

#include <memory>
#include <optional>
#include <string>

#include "migration/controller/migration_session.h"
#include "vmmanager/schema/migration.h"
#include "vmmanager/state/saved_state.h"

namespace ferry::migration {

// The destination's side of one migration.
class DestinationSession final : public MigrationSession {
 public:
  DestinationSession(const ControllerDeps& deps, std::string session_id)
      : MigrationSession(deps, std::move(session_id), v1::MIGRATION_ORIGIN_DESTINATION),
        cut_arrived_(deps.executor()) {}

  // Opens the sealed plan and checks that this host can run what it describes. All or nothing.
  Task<absl::Status> Import(v1::ImportSandboxRequest request);

  // Makes the VM's system ready to receive.
  Task<absl::StatusOr<v1::PrepareSandboxResponse>> Prepare(v1::InitializeOptions options);

  Task<absl::Status> Transfer(v1::TransferSandboxRequest request) override;
  Task<absl::StatusOr<std::string>> Finalize(v1::FinalizeAction action, std::string proof) override;
  Task<absl::Status> Cancel(std::string reason) override;

 protected:
  Role role() const override { return Role::kDestination; }

 private:
  using Self = std::shared_ptr<DestinationSession>;
  Self self() { return std::static_pointer_cast<DestinationSession>(shared_from_this()); }

  Task<absl::StatusOr<schema::ComputeSystem>> LocalDocument(const state::v1::VmPayload& vm);
  Task<absl::Status> TakeStep(absl::StatusOr<std::optional<DestinationStep>> step);

  static Task<void> RunTransfer(Self self, v1::TransferSandboxRequest request);
  Task<absl::Status> Receive(const v1::TransferSandboxRequest& request);
  Task<absl::Status> Vote();
  static Task<void> ReadMessages(Self self, std::shared_ptr<SessionConnection> connection);
  Task<void> HandleProof(std::string bytes);
  void OnSystemEvent(const vm::SystemEvent& event);

  Task<absl::StatusOr<std::string>> Run(Proof go);
  Task<absl::StatusOr<std::string>> Refuse(std::string why);
  // The same while deciding_ is held.
  Task<absl::StatusOr<std::string>> RefuseNow(std::string why);

  std::unique_ptr<DestinationCommit> core_;
  std::unique_ptr<SessionListener::Expectation> expectation_;
  std::string incoming_path_;
  std::string sealed_plan_;
  std::string sealed_cut_;
  std::optional<vm::CutState> cut_;
  AsyncEvent cut_arrived_;  // or it never will
  std::string done_proof_;
  std::string refused_proof_;
  bool running_ = false;  // DONE is made
  Clock::time_point resumed_at_;
};

}  // namespace ferry::migration
