#include "migration/commit/commit_core.h"

#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/str_cat.h"

namespace ferry::migration {
namespace {

// What both sides demand of a proof before they look at what it says.
absl::Status CheckIdentity(const CommitIdentity& identity, const Proof& proof, ProofKind kind) {
  if (proof.kind != kind) {
    return absl::InvalidArgumentError(
        StrCat("expected a proof of ", ToString(kind), ", but got one of ", ToString(proof.kind)));
  }
  if (proof.session_id != identity.session_id || proof.vm_id != identity.vm_id ||
      proof.plan_digest != identity.plan_digest) {
    return absl::InvalidArgumentError(StrCat("the proof of ", ToString(kind),
                                             " belongs to session ", proof.session_id, ", not to ",
                                             identity.session_id));
  }
  if (!identity.peer_journal_id.empty() && proof.journal_id != identity.peer_journal_id) {
    return absl::FailedPreconditionError(
        StrCat("the proof of ", ToString(kind),
               " comes from another journal than the one this session was opened with; the "
               "peer's state was replaced, so its word cannot be trusted"));
  }
  return absl::OkStatus();
}

// COMMIT would give the destination one more, and its REFUSED the source two.
constexpr uint64_t kForcedEpochs = 3;

}  // namespace

std::string_view ToString(SourceRecord record) {
  switch (record) {
    case SourceRecord::kNone:
      return "NONE";
    case SourceRecord::kOpen:
      return "OPEN";
    case SourceRecord::kTransfer:
      return "TRANSFER";
    case SourceRecord::kQuiesced:
      return "QUIESCED";
    case SourceRecord::kCommit:
      return "COMMIT";
    case SourceRecord::kReleased:
      return "RELEASED";
    case SourceRecord::kReclaimed:
      return "RECLAIMED";
    case SourceRecord::kAbort:
      return "ABORT";
    case SourceRecord::kForced:
      return "FORCED";
    case SourceRecord::kGivenUp:
      return "GIVEN_UP";
  }
  return "NONE";
}

std::string_view ToString(DestinationRecord record) {
  switch (record) {
    case DestinationRecord::kNone:
      return "NONE";
    case DestinationRecord::kImported:
      return "IMPORTED";
    case DestinationRecord::kListening:
      return "LISTENING";
    case DestinationRecord::kPrepared:
      return "PREPARED";
    case DestinationRecord::kGranted:
      return "GRANTED";
    case DestinationRecord::kRunning:
      return "RUNNING";
    case DestinationRecord::kRefused:
      return "REFUSED";
    case DestinationRecord::kSuperseded:
      return "SUPERSEDED";
  }
  return "NONE";
}

std::optional<SourceRecord> SourceRecordFrom(std::string_view text) {
  for (int i = 0; i <= static_cast<int>(SourceRecord::kGivenUp); ++i) {
    if (ToString(static_cast<SourceRecord>(i)) == text) return static_cast<SourceRecord>(i);
  }
  return std::nullopt;
}

std::optional<DestinationRecord> DestinationRecordFrom(std::string_view text) {
  for (int i = 0; i <= static_cast<int>(DestinationRecord::kSuperseded); ++i) {
    const auto record = static_cast<DestinationRecord>(i);
    if (ToString(record) == text) return record;
  }
  return std::nullopt;
}

void SourceCommit::Restore(SourceRecord last, JournalTrust trust) {
  record_ = last;
  transfer_completed_ = false;
  prepared_ = false;
  in_doubt_ = trust == JournalTrust::kMayLackRecords && before_commit();
}

void SourceCommit::Question() {
  if (before_commit()) in_doubt_ = true;
}

bool SourceCommit::before_commit() const {
  return record_ == SourceRecord::kOpen || record_ == SourceRecord::kTransfer ||
         record_ == SourceRecord::kQuiesced;
}

SourceRecovery SourceCommit::Recover() const {
  switch (record_) {
    case SourceRecord::kNone:
      return {};
    case SourceRecord::kOpen:
    case SourceRecord::kTransfer:
    case SourceRecord::kQuiesced:
      if (in_doubt_) return {std::nullopt, CopyEffect::kHold, word()};
      return {*Abort(), CopyEffect::kRun, ProofKind::kAbort};
    case SourceRecord::kCommit:
      return {std::nullopt, CopyEffect::kHold, word()};
    case SourceRecord::kReleased:
    case SourceRecord::kGivenUp:
      return {std::nullopt, CopyEffect::kEnd, std::nullopt};
    case SourceRecord::kReclaimed:
      return {std::nullopt, CopyEffect::kRun, std::nullopt};
    case SourceRecord::kAbort:
    case SourceRecord::kForced:
      return {std::nullopt, CopyEffect::kRun, word()};
  }
  return {};
}

bool SourceCommit::may_execute() const {
  return !in_doubt_ && record_ != SourceRecord::kCommit && record_ != SourceRecord::kReleased &&
         record_ != SourceRecord::kGivenUp;
}

bool SourceCommit::past_point_of_no_return() const {
  return in_doubt_ || record_ == SourceRecord::kCommit || record_ == SourceRecord::kReleased ||
         record_ == SourceRecord::kReclaimed || record_ == SourceRecord::kForced ||
         record_ == SourceRecord::kGivenUp;
}

std::optional<ProofKind> SourceCommit::word() const {
  if (record_ == SourceRecord::kCommit) return ProofKind::kGo;
  if (record_ == SourceRecord::kForced) return ProofKind::kForced;
  if (record_ == SourceRecord::kAbort || in_doubt_) return ProofKind::kAbort;
  return std::nullopt;
}

void SourceCommit::Apply(const SourceStep& step) {
  record_ = step.record;
  in_doubt_ = false;
}

absl::Status SourceCommit::WrongState(std::string_view wanted) const {
  return absl::FailedPreconditionError(StrCat("session ", identity_.session_id, " cannot ", wanted,
                                              ": its last record on the source is ",
                                              ToString(record_)));
}

absl::StatusOr<std::optional<SourceStep>> SourceCommit::Open() {
  if (record_ == SourceRecord::kOpen) return std::nullopt;
  if (record_ != SourceRecord::kNone) return WrongState("open");
  return SourceStep{SourceRecord::kOpen, identity_.epoch, std::nullopt};
}

absl::StatusOr<std::optional<SourceStep>> SourceCommit::BeginTransfer() {
  if (record_ == SourceRecord::kTransfer) return std::nullopt;
  if (record_ != SourceRecord::kOpen || in_doubt_) return WrongState("begin the transfer");
  return SourceStep{SourceRecord::kTransfer, identity_.epoch, std::nullopt};
}

absl::StatusOr<std::optional<SourceStep>> SourceCommit::Quiesce() {
  if (record_ == SourceRecord::kQuiesced) return std::nullopt;
  if (record_ != SourceRecord::kTransfer || in_doubt_) return WrongState("quiesce");
  if (disks_mirrored_ && !disks_sealed_) {
    return absl::FailedPreconditionError(
        StrCat("session ", identity_.session_id,
               " cannot quiesce: the destination does not have all of the disks that it copies"));
  }
  return SourceStep{SourceRecord::kQuiesced, identity_.epoch, std::nullopt};
}

absl::Status SourceCommit::NotePrepared(const Proof& proof, std::string_view state_digest) {
  RETURN_IF_ERROR(CheckProof(proof, ProofKind::kPrepared));
  if (proof.epoch != identity_.epoch) {
    return absl::FailedPreconditionError(StrCat("the destination voted for epoch ", proof.epoch,
                                                ", but the VM is at epoch ", identity_.epoch));
  }
  if (proof.state_digest != state_digest) {
    return absl::DataLossError(
        "the destination holds another state than the one that was sent; it must not run");
  }
  prepared_ = true;
  return absl::OkStatus();
}

bool SourceCommit::ready_to_commit() const {
  return record_ == SourceRecord::kQuiesced && prepared_ && transfer_completed_;
}

absl::StatusOr<std::optional<SourceStep>> SourceCommit::Commit() {
  if (record_ == SourceRecord::kCommit || record_ == SourceRecord::kReleased) return std::nullopt;
  if (record_ != SourceRecord::kQuiesced) return WrongState("commit");
  if (!ready_to_commit()) {
    return absl::FailedPreconditionError(
        StrCat("session ", identity_.session_id, " cannot commit: ",
               transfer_completed_ ? "the destination has not voted yet"
                                   : "the transfer is not complete"));
  }
  return SourceStep{SourceRecord::kCommit, identity_.epoch + 1, ProofKind::kGo, CopyEffect::kHold};
}

absl::StatusOr<std::optional<SourceStep>> SourceCommit::Release(const Proof& done) {
  if (record_ == SourceRecord::kReleased) return std::nullopt;
  if (record_ == SourceRecord::kForced) {
    return absl::FailedPreconditionError(
        StrCat("session ", identity_.session_id, " cannot release its copy: the source was forced ",
               "to run the VM, and what the destination has of it is superseded"));
  }
  if (record_ != SourceRecord::kCommit && !in_doubt_) return WrongState("release its copy");
  RETURN_IF_ERROR(CheckProof(done, ProofKind::kDone));
  return SourceStep{SourceRecord::kReleased, identity_.epoch + 1, std::nullopt, CopyEffect::kEnd};
}

absl::StatusOr<std::optional<SourceStep>> SourceCommit::Reclaim(const Proof& refused) {
  if (record_ == SourceRecord::kReclaimed) return std::nullopt;
  if (record_ != SourceRecord::kCommit && !in_doubt_) return WrongState("take the VM back");
  RETURN_IF_ERROR(CheckProof(refused, ProofKind::kRefused));
  return SourceStep{SourceRecord::kReclaimed, identity_.epoch + 2, std::nullopt, CopyEffect::kRun};
}

absl::StatusOr<std::optional<SourceStep>> SourceCommit::Abort() const {
  if (record_ == SourceRecord::kAbort) return std::nullopt;
  if (past_point_of_no_return()) {
    return absl::FailedPreconditionError(
        StrCat("session ", identity_.session_id, " is past its point of no return (",
               ToString(record_), "); the destination decides now"));
  }
  return SourceStep{SourceRecord::kAbort, identity_.epoch, ProofKind::kAbort, CopyEffect::kRun};
}

absl::StatusOr<std::optional<SourceStep>> SourceCommit::OnRefused(const Proof& refused) {
  if (past_point_of_no_return()) return Reclaim(refused);
  RETURN_IF_ERROR(CheckProof(refused, ProofKind::kRefused));
  return Abort();
}

absl::Status SourceCommit::CheckProof(const Proof& proof, ProofKind kind) const {
  return CheckIdentity(identity_, proof, kind);
}

absl::StatusOr<std::optional<SourceStep>> SourceCommit::Force() const {
  if (record_ == SourceRecord::kForced) return std::nullopt;
  if (!in_doubt()) return WrongState("be forced");
  return SourceStep{SourceRecord::kForced, identity_.epoch + kForcedEpochs, ProofKind::kForced,
                    CopyEffect::kRun};
}

absl::StatusOr<std::optional<SourceStep>> SourceCommit::GiveUp() const {
  if (record_ == SourceRecord::kGivenUp) return std::nullopt;
  if (!in_doubt()) return WrongState("be given up");
  return SourceStep{SourceRecord::kGivenUp, identity_.epoch + 1, std::nullopt, CopyEffect::kEnd};
}

absl::Status SourceCommit::CheckHeardForced(const Proof& refused) const {
  if (record_ != SourceRecord::kForced) return WrongState("end as a forced one");
  return CheckProof(refused, ProofKind::kRefused);
}

void DestinationCommit::Restore(DestinationRecord last, JournalTrust trust, Copy copy) {
  record_ = last;
  copy_ = copy;
  const bool before_grant = last == DestinationRecord::kImported ||
                            last == DestinationRecord::kListening ||
                            last == DestinationRecord::kPrepared;
  if (before_grant && copy == Copy::kRuns) record_ = DestinationRecord::kGranted;
  in_doubt_ = trust == JournalTrust::kMayLackRecords && before_grant && copy != Copy::kRuns;
}

DestinationRecovery DestinationCommit::Recover() const {
  switch (record_) {
    case DestinationRecord::kNone:
      return {};
    case DestinationRecord::kImported:
    case DestinationRecord::kListening:
      if (in_doubt_) return {std::nullopt, CopyEffect::kHold};
      return {*Refuse(), CopyEffect::kEnd};
    case DestinationRecord::kPrepared:
      if (in_doubt_ || copy_ != Copy::kGone) return {std::nullopt, CopyEffect::kHold};
      return {*Refuse(), CopyEffect::kEnd};
    case DestinationRecord::kGranted:
      return {std::nullopt, CopyEffect::kRun};
    case DestinationRecord::kRunning:
      return {std::nullopt, CopyEffect::kRun};
    case DestinationRecord::kRefused:
    case DestinationRecord::kSuperseded:
      return {std::nullopt, CopyEffect::kEnd};
  }
  return {};
}

bool DestinationCommit::may_refuse_alone() const { return !may_execute() && !in_doubt_; }

std::optional<ProofKind> DestinationCommit::word() const {
  switch (record_) {
    case DestinationRecord::kPrepared:
      return ProofKind::kPrepared;
    case DestinationRecord::kRunning:
      return ProofKind::kDone;
    case DestinationRecord::kRefused:
    case DestinationRecord::kSuperseded:
      return ProofKind::kRefused;
    default:
      return std::nullopt;
  }
}

bool DestinationCommit::may_execute() const {
  return record_ == DestinationRecord::kGranted || record_ == DestinationRecord::kRunning;
}

absl::Status DestinationCommit::WrongState(std::string_view wanted) const {
  return absl::FailedPreconditionError(StrCat("session ", identity_.session_id, " cannot ", wanted,
                                              ": its last record on the destination is ",
                                              ToString(record_)));
}

absl::StatusOr<std::optional<DestinationStep>> DestinationCommit::Import() {
  if (record_ == DestinationRecord::kImported) return std::nullopt;
  if (record_ != DestinationRecord::kNone) return WrongState("import");
  return DestinationStep{DestinationRecord::kImported, identity_.epoch, std::nullopt};
}

absl::StatusOr<std::optional<DestinationStep>> DestinationCommit::Listen() {
  if (record_ == DestinationRecord::kListening) return std::nullopt;
  if (record_ != DestinationRecord::kImported) return WrongState("listen");
  return DestinationStep{DestinationRecord::kListening, identity_.epoch, std::nullopt};
}

absl::Status DestinationCommit::NoteSealed(const std::set<std::string>& disks) {
  if (disks != awaited_disks_) {
    return absl::DataLossError("the source has not sent the disks that this host does not see");
  }
  disks_sealed_ = true;
  return absl::OkStatus();
}

absl::StatusOr<std::optional<DestinationStep>> DestinationCommit::Prepare() {
  if (record_ == DestinationRecord::kPrepared) return std::nullopt;
  if (record_ != DestinationRecord::kListening) return WrongState("vote");
  if (!awaited_disks_.empty() && !disks_here_) {
    return absl::DataLossError(StrCat("session ", identity_.session_id,
                                      " cannot vote: the content of the VM's disks has not come"));
  }
  return DestinationStep{DestinationRecord::kPrepared, identity_.epoch, ProofKind::kPrepared};
}

absl::StatusOr<std::optional<DestinationStep>> DestinationCommit::Grant(const Proof& go) {
  if (may_execute()) return std::nullopt;
  if (record_ != DestinationRecord::kPrepared) return WrongState("run the VM");
  RETURN_IF_ERROR(CheckIdentity(identity_, go, ProofKind::kGo));
  if (go.epoch != identity_.epoch + 1) {
    return absl::FailedPreconditionError(
        StrCat("the source's GO is for epoch ", go.epoch, ", expected ", identity_.epoch + 1));
  }
  return DestinationStep{DestinationRecord::kGranted, identity_.epoch + 1, std::nullopt,
                         CopyEffect::kRun};
}

absl::StatusOr<std::optional<DestinationStep>> DestinationCommit::Running() {
  if (record_ == DestinationRecord::kRunning) return std::nullopt;
  if (record_ != DestinationRecord::kGranted) return WrongState("report the VM as running");
  return DestinationStep{DestinationRecord::kRunning, identity_.epoch + 1, ProofKind::kDone};
}

absl::StatusOr<std::optional<DestinationStep>> DestinationCommit::Refuse() const {
  if (record_ == DestinationRecord::kRefused || record_ == DestinationRecord::kSuperseded) {
    return std::nullopt;
  }
  if (may_execute()) return WrongState("be refused");
  if (in_doubt_) {
    return absl::FailedPreconditionError(
        StrCat("session ", identity_.session_id,
               " cannot be refused by this host alone: its journal may have lost that the VM was "
               "granted to it; only the source's word can settle it"));
  }
  return DestinationStep{DestinationRecord::kRefused, identity_.epoch, ProofKind::kRefused,
                         CopyEffect::kEnd};
}

absl::StatusOr<std::optional<DestinationStep>> DestinationCommit::OnAbort(const Proof& abort) {
  if (abort.kind == ProofKind::kForced) return OnForced(abort);
  RETURN_IF_ERROR(CheckIdentity(identity_, abort, ProofKind::kAbort));
  if (record_ == DestinationRecord::kRefused || record_ == DestinationRecord::kSuperseded) {
    return std::nullopt;
  }
  if (may_execute()) return WrongState("be refused");
  return DestinationStep{DestinationRecord::kRefused, identity_.epoch, ProofKind::kRefused,
                         CopyEffect::kEnd};
}

absl::StatusOr<std::optional<DestinationStep>> DestinationCommit::OnForced(const Proof& forced) {
  RETURN_IF_ERROR(CheckIdentity(identity_, forced, ProofKind::kForced));
  if (forced.epoch != identity_.epoch + kForcedEpochs) {
    return absl::FailedPreconditionError(StrCat("the source was forced at epoch ", forced.epoch,
                                                ", expected ", identity_.epoch + kForcedEpochs));
  }
  if (record_ == DestinationRecord::kRefused || record_ == DestinationRecord::kSuperseded) {
    return std::nullopt;
  }
  const auto record = may_execute() ? DestinationRecord::kSuperseded : DestinationRecord::kRefused;
  const uint64_t epoch = may_execute() ? forced.epoch : identity_.epoch;
  return DestinationStep{record, epoch, ProofKind::kRefused, CopyEffect::kEnd};
}

}  // namespace ferry::migration
