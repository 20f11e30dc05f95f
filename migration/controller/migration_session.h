#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/unique_fd.h"
#include "ferry/state/v1/journal.pb.h"
#include "ferry/v1/migration.pb.h"
#include "migration/commit/commit_core.h"
#include "migration/connection/process_socket.h"
#include "migration/connection/session_connection.h"
#include "migration/controller/controller_deps.h"
#include "migration/session/notifier.h"
#include "migration/session/session_outcome.h"
#include "migration/session/session_state.h"
#include "migration/session/session_trace.h"
#include "vmmanager/sandbox/utility_vm.h"

namespace ferry::migration {

// Of the details in the journal's records.
inline constexpr uint32_t kCommitDetailVersion = 1;

// How long a transfer waits for the session connection.
milliseconds SocketTimeout(const v1::TransferSandboxRequest& request);

// A session that a former daemon process left undecided, as its records tell it.
struct FormerSession {
  v1::Session session;
  vm::JournalRecord last;
  state::v1::CommitDetail detail;  // of the last record
  JournalTrust trust = JournalTrust::kWhole;
  std::string request_id;
};

// What the connection over which a session's disks are copied calls itself.
std::string DiskSessionId(const std::string& session_id);

// What both sides of a migration have in common: identity, state, notifications, the journal, the
// connection to the other side. Thread: the executor's only.
class MigrationSession : public std::enable_shared_from_this<MigrationSession> {
 public:
  using Clock = std::chrono::steady_clock;

  virtual ~MigrationSession() = default;

  const std::string& id() const { return info_.session_id(); }
  v1::MigrationOrigin origin() const { return info_.origin(); }
  v1::SessionState state() const { return info_.state(); }
  const std::string& request_id() const { return request_id_; }
  // The session's newest record.
  const vm::JournalRecord& head() const { return head_; }
  const std::shared_ptr<Notifier>& notifier() const { return notifier_; }
  // The other host, by its certificate: who imported the session, or else who connected for it.
  // Empty as long as there is none.
  const std::string& peer_name() const { return peer_name_; }

  // The session as clients see it.
  v1::Session Describe() const;
  // Its timeline in Trace Event Format; empty if it is not traced.
  std::string TraceJson() const { return trace_ ? trace_->ToJson() : std::string(); }

  // The contract's calls; each fails with FAILED_PRECONDITION where it is not legal.
  virtual Task<absl::Status> Transfer(v1::TransferSandboxRequest request) = 0;
  virtual Task<absl::StatusOr<std::string>> Finalize(v1::FinalizeAction action,
                                                     std::string proof) = 0;
  virtual Task<absl::Status> Cancel(std::string reason) = 0;
  // A connected socket that was handed over under this ticket, in place of the one the daemons
  // make. ALREADY_EXISTS if the session has one. Returns before its other end has answered; if that
  // is not the other side of this session, Transfer fails.
  Task<absl::Status> AdoptSocket(std::string ticket);
  // The same, taken from another process on this host that a user with the id `caller` named.
  Task<absl::Status> AdoptProcessSocket(ProcessSocket socket, uid_t caller);
  absl::Status CheckCleanup() const;
  // The same as SessionRegistry::Dismiss.
  Task<absl::Status> Dismiss();
  // Nothing more happens in it, and nobody is to be told of it any more.
  virtual bool over() const { return info_.done(); }
  // Whoever is to be told of a session that is done is not told any more.
  virtual void StopTelling() {}
  // The daemon stops: ends what the session began beside its calls, and returns once that is over.
  virtual Task<void> AwaitWork() { co_return; }

  // Somebody asked about the session. If nobody does for its expiry, it ends by itself as far as
  // it can without the other side.
  void Touch() { last_call_ = Clock::now(); }
  // From now on; 0 stands for the default.
  void SetExpiry(uint32_t seconds);

  // After a restart: what its VM is to be adopted as, before anybody may use it.
  virtual vm::AdoptionClaim Claim() const = 0;
  // Goes on with the session, or ends it. `vm` may be nullptr: there was none yet, or none is left.
  virtual Task<void> Recover(std::shared_ptr<vm::UtilityVm> vm) = 0;

 protected:
  MigrationSession(const ControllerDeps& deps, std::string session_id, v1::MigrationOrigin origin);

  // Applies a call to the state; FAILED_PRECONDITION names the session too.
  absl::StatusOr<Transition> Enter(SessionCall call);
  // What the options ask of this side: its limits, and whether it is traced.
  void UseOptions(const schema::MigrationInitializeOptions& options);
  // Why it ends without having moved its VM; only the first verdict counts.
  void Conclude(EndReason reason);
  const std::optional<EndReason>& end_reason() const { return end_reason_; }

  // Makes a commit record durable, with what a restarted daemon must know. The head of the journal
  // is remembered for proofs.
  Task<absl::Status> Journal(std::string_view record, uint64_t epoch, vm::AppendOptions options);
  // Takes over what the records of a former daemon process tell.
  void Restore(const FormerSession& former);
  CommitIdentity Identity() const;
  std::string MakeProof(ProofKind kind, uint64_t epoch, std::string detail) const;
  // Remembers, with the next record, how far the other side's journal is.
  void NoteHeard(const Proof& proof);
  // Says so, once, if the other side was told of a record that this host's journal does not have:
  // it was put back to an earlier state. `meaning` tells people what follows from it.
  Task<void> CheckHeard(Proof echo, std::string meaning);

  // Tells, once, that the VM does not move and why: DONE, or FAILED if the guest was stopped
  // already.
  void TellFailure();
  // End the session for its subscribers and store what became of it: the VM moved, or it did not.
  // A source adds how its recovery went, if there was one to make.
  void EndWell(const std::string& message);
  enum class Recovery { kNone, kDone, kFailed };
  void EndBadly(Recovery recovery);
  void Publish(v1::MigrationPhase phase, v1::MigrationPhaseState state,
               const std::string& message = "");
  void Tell(const v1::Notification& notification);
  // A session is remembered for longer than what it moved its VM with is of use: that goes once it
  // is done and no transfer task runs. Called when one of the two has come about.
  void LetGoIfOver() {
    if (info_.done() && transfer_ended_.is_set()) LetGo();
  }
  virtual void LetGo() { connection_.reset(); }
  void Store();
  // The same, durable when it returns.
  Task<absl::Status> StoreNow();
  static Task<void> StoreLater(std::shared_ptr<MigrationSession> self);

  // Whether a socket may be handed over now, and what becomes of one that was.
  absl::Status CheckNeedsSocket() const;
  void GreetOver(UniqueFd socket);
  static Task<void> ShakeHands(std::shared_ptr<MigrationSession> self, UniqueFd socket,
                               HandshakeParams params);
  void SocketFailed(const absl::Status& why);
  // A path for a Unix socket in a folder of this session's own, which the VMM may enter.
  absl::StatusOr<std::string> MakeSocketPath();
  // The same in a folder that only we may enter.
  absl::StatusOr<std::string> MakeLayerSocketPath();
  // The same for what is written to disks; the VMM may enter that folder.
  absl::StatusOr<std::string> MakeDiskSocketPath();
  // The end of them and their folders.
  void RemoveSocketPaths();

  // STOP after RESUME: ends the VM that runs here because of this session, as long as nothing has
  // moved it on from `epoch`. deciding_ is held.
  Task<absl::Status> EndResumedVm(uint64_t epoch);

  // Whether nobody but us keeps the session from being forgotten.
  virtual bool may_expire() const = 0;
  // Nobody has asked about the session for that long.
  virtual Task<void> Expire(EndReason why) = 0;

  // The VM is another host's, and what is left of it here could not be removed, for want of room
  // say: says so, and calls ForgetVm again and again. Until that succeeds the session is not done,
  // so that a daemon that is started anew does not take the VM for its own.
  void ForgetLater(const absl::Status& why);
  // Removes it, and ends the session; or see ForgetLater. deciding_ is held.
  virtual Task<void> ForgetVm() = 0;

  // The connection, by whichever way it comes first: handed over, or made by the daemons.
  void ConnectionArrived(std::shared_ptr<SessionConnection> connection);
  virtual Role role() const = 0;

  // Adds to an error where the VM runs and what to do next.
  absl::Status Explain(const absl::Status& status, const std::string& phase,
                       const std::string& next_step) const;

  static Task<absl::Status> WaitFor(AsyncEvent* event);
  static double MillisecondsBetween(Clock::time_point from, Clock::time_point to);

  const ControllerDeps& deps_;
  ControllerLimits limits_;
  std::unique_ptr<SessionTrace> trace_;  // nullptr: not traced
  std::string request_id_;
  v1::Session info_;
  std::shared_ptr<Notifier> notifier_;
  std::string plan_digest_;
  std::string state_digest_;
  std::string peer_journal_id_;
  vm::JournalHead heard_;  // of the other side's journal
  bool put_back_ = false;  // see CheckHeard
  std::string peer_name_;
  uint64_t base_epoch_ = 0;  // of the VM when the session opened
  bool paused_by_user_ = false;
  vm::JournalRecord head_;
  std::shared_ptr<SessionConnection> connection_;  // only while it is of use
  AsyncEvent connected_;  // or it cannot come any more; then socket_error_ says why
  TaskScope greetings_;   // over sockets that were handed over
  bool greeting_ = false;
  absl::Status socket_error_;  // of the last one
  AsyncEvent transfer_ended_;  // set while no transfer task runs
  // Held while this side makes up its mind: a record of the commit protocol follows from those
  // before it, so nothing may come between looking at them, writing the next and acting on it.
  AsyncMutex deciding_;
  std::vector<std::string> socket_paths_;
  std::shared_ptr<vm::UtilityVm> vm_;
  bool stopped_again_ = false;  // by STOP after RESUME
  Clock::time_point created_ = Clock::now();

 private:
  static Task<void> WatchExpiry(std::weak_ptr<MigrationSession> weak,
                                std::shared_ptr<AsyncEvent> ended);
  static Task<void> KeepForgetting(std::shared_ptr<MigrationSession> self);
  void Finish(bool moved, const std::string& message);
  absl::StatusOr<std::string> MakeSocketFolder(const std::string& kind);
  absl::Status GiveToVmm(const std::string& folder) const;
  bool IsPeers(const Proof& proof) const;

  std::optional<EndReason> end_reason_;
  std::string left_;  // why what is left of the VM is still there
  std::chrono::seconds expiry_{0};
  Clock::time_point last_call_ = Clock::now();
  std::shared_ptr<AsyncEvent> ended_;  // nothing more happens in the session
};

}  // namespace ferry::migration
