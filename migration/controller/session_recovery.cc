// The sessions that a former daemon process left, and those that only the journal knows.
#include <spdlog/spdlog.h>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "migration/controller/session_registry.h"
#include "migration/controller/session_row.h"

namespace ferry::migration {
namespace {

constexpr size_t kPlanDigestSize = 32;

absl::StatusOr<state::v1::CommitDetail> ParseDetail(const vm::JournalRecord& record) {
  state::v1::CommitDetail detail;
  if (!detail.ParseFromString(record.detail) || detail.schema_version() != kCommitDetailVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("record ", record.sequence, " of the journal (", record.kind, " of session ",
                     record.session_id,
                     ") was written by another version of ferryd; run that one, or finish "
                     "the session with it first"));
  }
  return detail;
}

}  // namespace

// Whether a session that is over wrote something about the VM after that record: then the VM is
// what that one made of it.
Task<absl::StatusOr<bool>> SessionRegistry::IsSuperseded(std::string vm_id, uint64_t sequence) {
  auto rows = co_await deps_.store().ListSessions();
  if (!rows.ok()) co_return rows.status();
  for (const vm::SessionRow& row : *rows) {
    if (row.vm_id != vm_id || !row.decided) continue;
    auto records = co_await deps_.store().ReadJournal(row.id);
    if (!records.ok()) co_return records.status();
    if (!records->empty() && records->back().sequence > sequence) co_return true;
  }
  co_return false;
}

// Whether the newest word about the VM is that session's, that it is another host's. What is here
// of it all the same could not be removed then.
Task<absl::StatusOr<bool>> SessionRegistry::GaveAway(vm::SessionRow row) {
  auto records = co_await deps_.store().ReadVmJournal(row.vm_id, 0);
  if (!records.ok()) co_return records.status();
  if (records->empty() || records->back().session_id != row.id) co_return false;
  const std::string& kind = records->back().kind;
  if (row.is_source) {
    co_return kind == ToString(SourceRecord::kReleased) || kind == ToString(SourceRecord::kGivenUp);
  }
  co_return kind == ToString(DestinationRecord::kRefused) ||
      kind == ToString(DestinationRecord::kSuperseded);
}

Task<absl::Status> SessionRegistry::LoadUndecided(const vm::SessionRow& row, v1::Session session,
                                                  JournalTrust trust) {
  const bool is_source = row.is_source;
  auto records = co_await deps_.store().ReadJournal(row.id);
  if (!records.ok()) co_return records.status();
  if (records->empty()) {
    // It ended before its first record: nothing had begun.
    session.set_error("the daemon stopped before this session had begun");
    co_return co_await KeepUndecided(row.request_id, std::move(session));
  }
  FormerSession former;
  former.last = records->back();
  former.request_id = row.request_id;
  session.set_commit_record(former.last.kind);
  if (!row.request_id.empty()) requests_[row.request_id] = row.id;
  if (is_source && former.last.kind == ToString(SourceRecord::kForced)) {
    auto reached = co_await HasReached(row.vm_id, former.last.epoch);
    if (!reached.ok()) co_return reached.status();
    if (*reached) co_return co_await LoadTeller(row.id, std::move(former), std::move(session));
  }
  auto superseded = co_await IsSuperseded(row.vm_id, former.last.sequence);
  if (!superseded.ok()) co_return superseded.status();
  if (*superseded) co_return co_await KeepUndecided(row.request_id, std::move(session));
  former.trust = trust;
  CO_ASSIGN_OR_RETURN(former.detail, ParseDetail(former.last));
  former.session = std::move(session);
  std::shared_ptr<MigrationSession> made;
  if (is_source) {
    made = std::make_shared<SourceSession>(deps_, former);
  } else {
    made = std::make_shared<DestinationSession>(deps_, former);
  }
  CO_RETURN_IF_ERROR(co_await made->notifier()->Restore());
  // Only a VM's newest session has a say about it: what an older one meant is undone by what came
  // after it.
  std::shared_ptr<MigrationSession>& newest = recovering_[former.session.vm_id()];
  std::shared_ptr<MigrationSession> older = newest;
  if (newest != nullptr && newest->head().sequence > former.last.sequence) {
    older = made;
  } else {
    newest = made;
  }
  sessions_[newest->id()] = newest;
  if (older == nullptr) co_return absl::OkStatus();
  sessions_.erase(older->id());
  std::string began_by = older->request_id();
  v1::Session record = older->Describe();
  co_return co_await KeepUndecided(std::move(began_by), std::move(record));
}

// A forced session of which all is done here; it only has to tell the other host yet.
Task<absl::Status> SessionRegistry::LoadTeller(std::string session_id, FormerSession former,
                                               v1::Session session) {
  CO_ASSIGN_OR_RETURN(former.detail, ParseDetail(former.last));
  former.session = std::move(session);
  auto teller = std::make_shared<SourceSession>(deps_, former);
  CO_RETURN_IF_ERROR(co_await teller->notifier()->Restore());
  sessions_[session_id] = teller;
  telling_.push_back(std::move(teller));
  co_return absl::OkStatus();
}

// A session that nothing more can come of, though it was never decided.
Task<absl::Status> SessionRegistry::KeepUndecided(std::string request_id, v1::Session session) {
  session.set_done(true);
  session.set_outcome(v1::SESSION_OUTCOME_UNKNOWN);
  session.set_reason(DefaultReason(v1::SESSION_OUTCOME_UNKNOWN));
  session.clear_failed_at();
  session.clear_next_step();
  records_[session.session_id()] = session;
  const vm::SessionRow row = ToRow(session, true, std::move(request_id));
  co_return co_await deps_.store().PutSession(row);
}

std::map<std::string, vm::AdoptionClaim> SessionRegistry::Claims() const {
  std::map<std::string, vm::AdoptionClaim> claims;
  for (const auto& [vm_id, session] : recovering_) claims[vm_id] = session->Claim();
  return claims;
}

Task<void> SessionRegistry::Recover() {
  const auto recovering = std::exchange(recovering_, {});
  for (const auto& [vm_id, session] : recovering) {
    auto vm = deps_.inventory.Find(vm_id);
    std::shared_ptr<vm::UtilityVm> found = vm.ok() ? *vm : nullptr;
    Spawn(deps_.executor(), session->Recover(std::move(found)));
  }
  for (const auto& session : std::exchange(telling_, {})) {
    Spawn(deps_.executor(), session->Recover(nullptr));
  }
  co_return;
}

Task<absl::StatusOr<bool>> SessionRegistry::HasReached(std::string vm_id, uint64_t epoch) {
  auto rows = co_await deps_.store().ListVms();
  if (!rows.ok()) co_return rows.status();
  for (const vm::VmRow& row : *rows) {
    if (row.id == vm_id) co_return row.epoch >= epoch;
  }
  co_return true;
}

Task<absl::Status> SessionRegistry::ReviveIfForced(v1::SettleSessionRequest request,
                                                   MayForce may_force) {
  auto records = co_await deps_.store().ReadJournal(request.session_id());
  if (!records.ok()) co_return records.status();
  if (records->empty()) co_return absl::OkStatus();
  FormerSession former;
  former.last = records->back();
  const auto record = DestinationRecordFrom(former.last.kind);
  if (record != DestinationRecord::kGranted && record != DestinationRecord::kRunning) {
    co_return absl::OkStatus();
  }
  CO_ASSIGN_OR_RETURN(former.detail, ParseDetail(former.last));
  auto proof = DecodeProof(request.proof(), former.detail.plan_sha256());
  if (!proof.ok() || proof->kind != ProofKind::kForced) co_return absl::OkStatus();
  CO_RETURN_IF_ERROR(DestinationSession::CheckMayForce(may_force));
  const std::string id = request.session_id();
  if (auto known = records_.find(id); known != records_.end()) {
    former.session = known->second;
  } else {
    // Its row was dropped long ago.
    former.session.set_session_id(id);
    former.session.set_origin(v1::MIGRATION_ORIGIN_DESTINATION);
    former.session.set_vm_id(former.last.vm_id);
    former.session.set_done(true);
  }
  auto session = std::make_shared<DestinationSession>(deps_, former);
  CO_RETURN_IF_ERROR(co_await session->notifier()->Restore());
  session->Revive();
  if (sessions_.try_emplace(id, session).second) records_.erase(id);
  co_return absl::OkStatus();
}

void SessionRegistry::LayDown(const std::shared_ptr<MigrationSession>& session) {
  if (session->over()) {
    MakeRecord(session);
    return;
  }
  records_.erase(session->id());
  sessions_[session->id()] = session;
}

Task<absl::StatusOr<std::optional<std::string>>> SessionRegistry::PeerOf(std::string session_id) {
  CO_RETURN_IF_ERROR(CheckId(session_id));
  std::optional<std::string> peer;
  auto live = sessions_.find(session_id);
  if (live == sessions_.end()) {
    auto records = co_await deps_.store().ReadJournal(session_id);
    if (!records.ok()) co_return records.status();
    if (!records->empty()) {
      CO_ASSIGN_OR_RETURN(const state::v1::CommitDetail detail, ParseDetail(records->back()));
      peer = detail.peer_name();
    }
    // It may have been imported meanwhile.
    live = sessions_.find(session_id);
  }
  if (live != sessions_.end()) peer = live->second->peer_name();
  co_return peer;
}

// A session that is over, or that never came here. What was decided is told again; what is not
// known is refused, durably, so that a late Import cannot bring it to life.
Task<absl::StatusOr<std::string>> SessionRegistry::AnswerFromJournal(
    v1::SettleSessionRequest request, std::string peer_name) {
  CO_RETURN_IF_ERROR(CheckId(request.session_id()));
  if (request.vm_id().size() > kMaxId || request.plan_sha256().size() != kPlanDigestSize) {
    co_return absl::InvalidArgumentError(absl::StrCat(
        "vm_id may have at most ", kMaxId, " bytes, and plan_sha256 has ", kPlanDigestSize));
  }
  auto records = co_await deps_.store().ReadJournal(request.session_id());
  if (!records.ok()) co_return records.status();
  vm::JournalRecord last;
  if (!records->empty()) {
    last = records->back();
  } else {
    state::v1::CommitDetail detail;
    detail.set_schema_version(kCommitDetailVersion);
    detail.set_epoch(request.epoch());
    detail.set_plan_sha256(request.plan_sha256());
    detail.set_peer_name(peer_name);
    last.session_id = request.session_id();
    last.vm_id = request.vm_id();
    last.kind = std::string(ToString(DestinationRecord::kRefused));
    last.epoch = request.epoch();
    last.detail = detail.SerializeAsString();
    deps_.failpoint("REFUSED.before");
    auto written = co_await deps_.store().Append(std::move(last), {});
    if (!written.ok()) co_return written.status();
    last = *std::move(written);
    deps_.failpoint("REFUSED.after");
    spdlog::info("session {}: not known here, refused for ever", request.session_id());
  }
  CO_ASSIGN_OR_RETURN(const state::v1::CommitDetail detail, ParseDetail(last));
  Proof proof;
  const auto record = DestinationRecordFrom(last.kind);
  if (record == DestinationRecord::kRunning) {
    proof.kind = ProofKind::kDone;
  } else if (record == DestinationRecord::kRefused || record == DestinationRecord::kSuperseded) {
    proof.kind = ProofKind::kRefused;
  } else {
    co_return absl::FailedPreconditionError(
        absl::StrCat("session ", request.session_id(), " stands at ", last.kind, " here"));
  }
  proof.session_id = last.session_id;
  proof.vm_id = last.vm_id;
  proof.epoch = last.epoch;
  proof.plan_digest = detail.plan_sha256();
  proof.state_digest = detail.state_sha256();
  proof.journal_id = deps_.store().journal_id();
  proof.journal_sequence = last.sequence;
  proof.journal_hash = last.hash;
  proof.heard_sequence = detail.heard_sequence();
  proof.heard_hash = detail.heard_hash();
  co_return EncodeProof(proof, proof.plan_digest);
}

}  // namespace ferry::migration
