#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "migration/controller/controller_deps.h"
#include "migration/controller/destination_session.h"
#include "migration/controller/orchestrator.h"
#include "migration/controller/source_session.h"

namespace ferry::migration {

// The migration sessions of this host: those under way, and what is known of ended ones. Thread:
// the executor's only.
class SessionRegistry {
 public:
  explicit SessionRegistry(const ControllerDeps& deps)
      : deps_(deps), orchestrator_(deps), arriving_(deps.executor()) {}

  // Reads what is known of former sessions. `trust` says whether the journal may lack records.
  // FAILED_PRECONDITION if an undecided one cannot be understood: its VM must not be touched then.
  Task<absl::Status> Load(JournalTrust trust);
  // What undecided sessions make of the VMs that are about to be adopted, by VM id.
  std::map<std::string, vm::AdoptionClaim> Claims() const;
  // Goes on with them, once the VMs are adopted. Does not wait for their end.
  Task<void> Recover();

  // The one-call migration. The same request id returns the same session.
  Task<absl::StatusOr<v1::Session>> Migrate(v1::MigrateRequest request);

  Task<absl::StatusOr<std::string>> PrepareAndExport(v1::PrepareAndExportSandboxRequest request);
  // If a host's daemon imports, the session is that host's: `peer_name`, by its certificate.
  Task<absl::Status> Import(v1::ImportSandboxRequest request, std::string peer_name = "");
  // Of an imported session: the containers that come with it.
  std::vector<v1::IncomingContainer> Incoming(const std::string& session_id) const;
  Task<absl::StatusOr<v1::BindContainerResponse>> Bind(v1::BindContainerRequest request);
  Task<absl::StatusOr<v1::ReceiveLayersResponse>> ReceiveLayers(v1::ReceiveLayersRequest request);
  Task<absl::Status> SendLayers(v1::SendLayersRequest request);
  Task<absl::StatusOr<v1::PrepareSandboxResponse>> Prepare(v1::PrepareSandboxRequest request);
  // The disks whose content comes with the VM of a session.
  std::vector<v1::IncomingDisk> IncomingDisks(const std::string& session_id) const;
  Task<absl::StatusOr<v1::ReceiveDisksResponse>> ReceiveDisks(v1::ReceiveDisksRequest request);
  Task<absl::Status> SendDisks(v1::SendDisksRequest request);
  // A source asks, or tells, how a session ends; see MigrationService.SettleSession.
  Task<absl::StatusOr<v1::SettleSessionResponse>> Settle(v1::SettleSessionRequest request,
                                                         std::string peer_name = "",
                                                         MayForce may_force = MayForce::kNo);
  // The host that a session, or the record of one, belongs to: empty if none has shown itself yet,
  // nullopt if this host knows no such session.
  Task<absl::StatusOr<std::optional<std::string>>> PeerOf(std::string session_id);
  // What both hosts know of a session, and with `force` a person's decision; see
  // MigrationService.RecoverSession.
  Task<absl::StatusOr<v1::RecoverSessionResponse>> RecoverSession(
      v1::RecoverSessionRequest request);
  // Forgets an ended session of the caller's; its record and its notifications stay. A failed one
  // is ended first.
  Task<absl::Status> Cleanup(std::string session_id);
  // Of one that is done, which is the caller's to see: marks it as no job any more, durably. All
  // else of it stays: its VM's journal may need it. NOT_FOUND.
  Task<absl::Status> Dismiss(std::string session_id);

  // NOT_FOUND if this host has no such session, or only the record of it.
  absl::StatusOr<std::shared_ptr<MigrationSession>> Find(const std::string& session_id) const;
  // A session or the record of one.
  absl::StatusOr<v1::Session> Describe(const std::string& session_id) const;
  // Those of a session or of the record of one.
  Task<absl::StatusOr<std::shared_ptr<Notifier>>> Notifications(std::string session_id);
  std::vector<v1::Session> List(const std::string& vm) const;
  // The timeline of a session that was traced; FAILED_PRECONDITION if it was not.
  absl::StatusOr<std::string> Trace(const std::string& session_id) const;

  // Calls off every migration that can still be called off (the daemon stops), and ends all
  // notifications. From here on new sessions are refused with UNAVAILABLE.
  Task<void> Shutdown();

 private:
  absl::Status CheckServing() const;
  // Of sessions and VMs; they come from peers and go into the journal.
  static constexpr size_t kMaxId = 128;
  static absl::Status CheckId(const std::string& session_id);
  absl::Status CheckNew(const std::string& session_id) const;
  // The session if it is under way, and on that side.
  template <typename Side>
  std::shared_ptr<Side> FindAs(const std::string& session_id) const {
    auto it = sessions_.find(session_id);
    if (it == sessions_.end()) return nullptr;
    it->second->Touch();
    return std::dynamic_pointer_cast<Side>(it->second);
  }
  // FAILED_PRECONDITION if this host is the other side; `call` is one for that side.
  absl::StatusOr<std::shared_ptr<DestinationSession>> FindDestination(const std::string& session_id,
                                                                      const char* call) const;
  // The same of the source; `what` it alone does.
  absl::StatusOr<std::shared_ptr<SourceSession>> FindSource(const std::string& session_id,
                                                            const char* what) const;
  Task<void> Drop(std::shared_ptr<MigrationSession> session);
  // Makes mere records of the oldest sessions that are over, and forgets the oldest records.
  Task<void> RetireEnded();
  void MakeRecord(const std::shared_ptr<MigrationSession>& session);
  Task<void> TrimRecords();
  Task<absl::StatusOr<bool>> GaveAway(vm::SessionRow row);
  Task<absl::StatusOr<bool>> IsSuperseded(std::string vm_id, uint64_t sequence);
  Task<absl::Status> KeepUndecided(std::string request_id, v1::Session session);
  Task<absl::Status> LoadUndecided(const vm::SessionRow& row, v1::Session session,
                                   JournalTrust trust);
  Task<absl::Status> LoadTeller(std::string session_id, FormerSession former, v1::Session session);
  Task<absl::StatusOr<std::string>> AnswerFromJournal(v1::SettleSessionRequest request,
                                                      std::string peer_name);
  // If the source says that it was forced to run a VM that was granted to this host, brings the
  // session back to life so that it can settle that; it is a mere record otherwise.
  Task<absl::Status> ReviveIfForced(v1::SettleSessionRequest request, MayForce may_force);
  // Makes a mere record of it (again) if it is over; else it is there (again).
  void LayDown(const std::shared_ptr<MigrationSession>& session);
  // Whether the store's VM is at that epoch, or gone: what a forced decision meant for it was done.
  Task<absl::StatusOr<bool>> HasReached(std::string vm_id, uint64_t epoch);
  Task<absl::StatusOr<v1::SessionKnowledge>> Know(std::string session_id) const;
  Task<v1::SessionKnowledge> AskPeer(v1::SessionKnowledge own) const;

  const ControllerDeps& deps_;
  Orchestrator orchestrator_;
  // Held from looking whether the journal knows a session until it is here, or refused for ever: a
  // session must not be both.
  AsyncMutex arriving_;
  std::map<std::string, std::shared_ptr<MigrationSession>> sessions_;
  std::map<std::string, v1::Session> records_;
  std::deque<std::pair<std::string, std::string>> traces_;  // of records, the newest last
  std::map<std::string, std::string> requests_;             // request id to session id
  bool stopping_ = false;
  std::map<std::string, std::shared_ptr<MigrationSession>> recovering_;  // by VM id
  // Those that have no say about their VM any more, only something to tell to the other host.
  std::vector<std::shared_ptr<MigrationSession>> telling_;
};

}  // namespace ferry::migration
