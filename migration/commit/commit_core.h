#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "migration/commit/proof.h"

// The commit protocol: at most one host runs a VM, whatever crashes or gets lost.
//
//   source                                destination
//   OPEN                                  IMPORTED
//   TRANSFER                              LISTENING
//   QUIESCED   (guest stopped, copied disks sealed)
//                 <------ PREPARED -----  PREPARED  (state loaded and verified, disks here)
//   COMMIT
//                 -------- GO --------->  GRANTED
//                                         (runs the guest)
//                 <------- DONE --------  RUNNING
//   RELEASED   (ends its copy)
//
// The source may run the VM unless its last record is COMMIT, RELEASED or GIVEN_UP; after COMMIT
// only the destination's REFUSED gives it back (RECLAIMED). The destination may run it only with
// its own GRANTED. Only the destination writes GRANTED and REFUSED, and never both.
//
// Nothing else can make two copies run but a person: where the destination is lost for good, the
// source may be told to run the VM without its word (FORCED, which raises the epoch above the
// destination's), or to give it up (GIVEN_UP). A destination that comes back after FORCED finds
// that its copy is stale and ends it (SUPERSEDED).
//
// The cores are pure. A call returns the step to take; the driver makes step.record durable, calls
// Apply, and only then acts on it. nullopt means that the step was taken before.
namespace ferry::migration {

// What a session's proofs must agree with.
struct CommitIdentity {
  std::string session_id;
  std::string vm_id;
  uint64_t epoch = 0;  // the source's when the session opened; COMMIT makes it epoch + 1
  std::string plan_digest;
  std::string journal_id;       // own
  std::string peer_journal_id;  // empty until the peer told it; then every proof must carry it
};

enum class SourceRecord {
  kNone,
  kOpen,
  kTransfer,
  kQuiesced,
  kCommit,
  kReleased,
  kReclaimed,
  kAbort,
  kForced,
  kGivenUp
};
enum class DestinationRecord {
  kNone,
  kImported,
  kListening,
  kPrepared,
  kGranted,
  kRunning,
  kRefused,
  kSuperseded
};

std::string_view ToString(SourceRecord record);
std::string_view ToString(DestinationRecord record);
// As the journal spells them; nullopt for anything else.
std::optional<SourceRecord> SourceRecordFrom(std::string_view text);
std::optional<DestinationRecord> DestinationRecordFrom(std::string_view text);

// What becomes of this host's copy of the VM.
enum class CopyEffect {
  kNone,
  kRun,   // it runs (or stays paused, if its user paused it)
  kHold,  // it must not run until the other side's word is there
  kEnd,
};

// Whether the journal may lack records that were durable once: its newest ones were damaged, or it
// was put back to an earlier state.
enum class JournalTrust { kWhole, kMayLackRecords };

struct SourceStep {
  SourceRecord record = SourceRecord::kNone;
  uint64_t epoch = 0;             // of the VM after this record
  std::optional<ProofKind> send;  // to make and send once the record is durable
  CopyEffect copy = CopyEffect::kNone;
};

// What a restarted daemon has to do about a session.
struct SourceRecovery {
  std::optional<SourceStep> step;  // to take first
  CopyEffect copy = CopyEffect::kNone;
  // To be offered to the destination until it has answered with DONE or REFUSED.
  std::optional<ProofKind> offer;
};

class SourceCommit {
 public:
  explicit SourceCommit(CommitIdentity identity) : identity_(std::move(identity)) {}

  // Goes on from the last durable record after a restart. What was known beside the records (the
  // vote, the end of the transfer) is gone, so a session that had not committed cannot commit any
  // more.
  void Restore(SourceRecord last, JournalTrust trust);
  SourceRecovery Recover() const;

  // After Restore: nothing but the journal says that there was no COMMIT, and a journal may have
  // been put back to an earlier state. Until the destination has answered a COMMIT may be lost. No
  // effect on what is decided.
  void Question();

  // The destination's journal, once it told which one it writes.
  void set_peer_journal_id(std::string id) { identity_.peer_journal_id = std::move(id); }

  SourceRecord record() const { return record_; }
  const CommitIdentity& identity() const { return identity_; }
  // Open, and not decided by any record so far.
  bool before_commit() const;

  // Whether this host may execute the VM.
  bool may_execute() const;
  // Whether the destination has to be asked before this host may go back.
  bool past_point_of_no_return() const;
  // What the destination is told whenever it asks or is asked; nullopt while nothing is decided.
  std::optional<ProofKind> word() const;

  absl::StatusOr<std::optional<SourceStep>> Open();
  absl::StatusOr<std::optional<SourceStep>> BeginTransfer();
  // The guest has stopped, and none of the mirrored disks is unsealed.
  absl::StatusOr<std::optional<SourceStep>> Quiesce();

  // Disks go along: they are mirrored while the guest runs, and sealed when it has stopped. Then
  // the destination has all that was written to them.
  void NoteDisksMirrored() { disks_mirrored_ = true; }
  void NoteDisksSealed() { disks_sealed_ = true; }

  // The backend confirmed that the destination loaded the state, and the destination's vote. Both
  // are needed before Commit.
  void NoteTransferCompleted() { transfer_completed_ = true; }
  absl::Status NotePrepared(const Proof& proof, std::string_view state_digest);
  bool ready_to_commit() const;

  absl::StatusOr<std::optional<SourceStep>> Commit();
  absl::StatusOr<std::optional<SourceStep>> Release(const Proof& done);
  absl::StatusOr<std::optional<SourceStep>> Reclaim(const Proof& refused);
  absl::StatusOr<std::optional<SourceStep>> Abort() const;
  // The destination's REFUSED: takes the VM back after COMMIT, calls the session off before it.
  absl::StatusOr<std::optional<SourceStep>> OnRefused(const Proof& refused);

  // Whether only the destination's word can go on, or a person who forces it.
  bool in_doubt() const { return in_doubt_ || record_ == SourceRecord::kCommit; }
  // A person's decision to run the VM here without that word: the destination may run it, too.
  absl::StatusOr<std::optional<SourceStep>> Force() const;
  // A person's decision to end the copy here without that word: it may have been the last one.
  absl::StatusOr<std::optional<SourceStep>> GiveUp() const;
  // Whether this is the destination's REFUSED after FORCED: it has ended what it had.
  absl::Status CheckHeardForced(const Proof& refused) const;

  void Apply(const SourceStep& step);

 private:
  absl::Status CheckProof(const Proof& proof, ProofKind kind) const;
  absl::Status WrongState(std::string_view wanted) const;

  CommitIdentity identity_;
  SourceRecord record_ = SourceRecord::kNone;
  bool transfer_completed_ = false;
  bool prepared_ = false;
  bool disks_mirrored_ = false;
  bool disks_sealed_ = false;
  bool in_doubt_ = false;  // a COMMIT may have been written and lost
};

struct DestinationStep {
  DestinationRecord record = DestinationRecord::kNone;
  uint64_t epoch = 0;
  std::optional<ProofKind> send;
  CopyEffect copy = CopyEffect::kNone;
};

struct DestinationRecovery {
  std::optional<DestinationStep> step;  // to take first
  CopyEffect copy = CopyEffect::kNone;
};

class DestinationCommit {
 public:
  explicit DestinationCommit(CommitIdentity identity) : identity_(std::move(identity)) {}

  // As on the source. `copy` tells what the VM does now: one that runs was granted, whatever the
  // journal says.
  enum class Copy { kGone, kWaits, kRuns };
  void Restore(DestinationRecord last, JournalTrust trust, Copy copy);
  DestinationRecovery Recover() const;

  DestinationRecord record() const { return record_; }
  const CommitIdentity& identity() const { return identity_; }
  bool may_execute() const;
  // Whether this host may end the session without the source's word.
  bool may_refuse_alone() const;
  // What the source is told whenever it asks; nullopt while there is nothing to tell.
  std::optional<ProofKind> word() const;

  absl::StatusOr<std::optional<DestinationStep>> Import();
  absl::StatusOr<std::optional<DestinationStep>> Listen();

  // The disks whose content comes with the VM.
  void AwaitDisks(std::set<std::string> disks) { awaited_disks_ = std::move(disks); }
  // Those that the source says it has sealed; DATA_LOSS unless they are the awaited ones.
  absl::Status NoteSealed(const std::set<std::string>& disks);
  // All of their content is here, and nobody writes to them any more.
  void NoteDisksHere() { disks_here_ = disks_sealed_; }

  // The whole state is loaded and agrees with the plan, and all disks are here.
  absl::StatusOr<std::optional<DestinationStep>> Prepare();
  absl::StatusOr<std::optional<DestinationStep>> Grant(const Proof& go);
  absl::StatusOr<std::optional<DestinationStep>> Running();
  // Legal until GRANTED; final.
  absl::StatusOr<std::optional<DestinationStep>> Refuse() const;
  // The source's ABORT: it has not committed, or wants to take the VM back.
  absl::StatusOr<std::optional<DestinationStep>> OnAbort(const Proof& abort);
  // The source was forced to run the VM: whatever there is of it here is stale.
  absl::StatusOr<std::optional<DestinationStep>> OnForced(const Proof& forced);

  void Apply(const DestinationStep& step) { record_ = step.record; }

 private:
  absl::Status WrongState(std::string_view wanted) const;

  CommitIdentity identity_;
  DestinationRecord record_ = DestinationRecord::kNone;
  Copy copy_ = Copy::kWaits;
  std::set<std::string> awaited_disks_;
  bool disks_sealed_ = false;
  bool disks_here_ = false;
  bool in_doubt_ = false;  // a GRANTED may have been written and lost
};

}  // namespace ferry::migration
