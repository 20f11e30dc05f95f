// What both hosts know about a session, what will happen next, and what a person may decide.
#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "migration/controller/session_registry.h"

namespace ferry::migration {
namespace {

// What comes of a session by itself, by its last record and by what the VM is here.
std::string NextOnSource(const v1::Session& session, v1::VmState vm, bool over) {
  const std::string& there = session.destination();
  const std::string asked =
      there.empty() ? "until somebody brings the destination's proof"
                    : absl::StrCat("and ", there, " is asked until it answers: DONE ends this ",
                                   "copy, REFUSED gives the VM back");
  const auto record = SourceRecordFrom(session.commit_record()).value_or(SourceRecord::kNone);
  switch (record) {
    case SourceRecord::kReleased:
      return session.vm_location() == "nowhere"
                 ? absl::StrCat("nothing: the VM was ", there, "'s when it ended")
                 : absl::StrCat("nothing: the VM went to ", there);
    case SourceRecord::kReclaimed:
      return session.done() ? "nothing: the VM is this host's"
                            : "the VM is this host's, and is let run as soon as it may";
    case SourceRecord::kAbort:
      return session.done() ? "nothing: the VM is this host's"
                            : "the VM is this host's; the session is over once it has been rolled "
                              "back";
    case SourceRecord::kCommit:
      if (session.done()) break;
      return absl::StrCat("the VM stays paused here, ", asked);
    case SourceRecord::kForced:
      return over ? "nothing: the VM is this host's"
                  : absl::StrCat("the VM is this host's; ", there,
                                 " is told to end its copy until it answers");
    case SourceRecord::kGivenUp:
      return "nothing: this host gave the VM up";
    default:
      break;
  }
  if (session.done()) return "nothing: the session is over";
  if (vm == v1::VM_STATE_IN_DOUBT) {
    return absl::StrCat("this host's journal may have lost that the VM was given away: it stays ",
                        "paused here, ", asked);
  }
  return "the VM is this host's until the switchover; before it a failure calls the session off";
}

std::string NextOnDestination(const v1::Session& session) {
  const auto record =
      DestinationRecordFrom(session.commit_record()).value_or(DestinationRecord::kNone);
  const bool lost = session.vm_location() == "nowhere";
  switch (record) {
    case DestinationRecord::kGranted:
      return lost ? "nothing: the VM is this host's, but its store does not know it"
                  : "the VM is this host's and is told to run";
    case DestinationRecord::kRunning:
      return lost ? "nothing: the VM is this host's, and has ended" : "nothing: the VM came here";
    case DestinationRecord::kRefused:
      return "nothing: this host refused the VM and will never run it in this session";
    case DestinationRecord::kSuperseded:
      return session.done()
                 ? "nothing: the source was forced to run the VM, and the copy here ended"
                 : "the source was forced to run the VM, and the copy here ends";
    default:
      break;
  }
  if (session.done()) return "nothing: the session is over";
  if (record == DestinationRecord::kPrepared) {
    return absl::StrCat("its copy waits, paused, for the word of ", session.source(),
                        "; if that does not come, it is refused and ends");
  }
  return absl::StrCat("it waits for the VM's state from ", session.source());
}

std::string Risk(const v1::Session& session) {
  return absl::StrCat(
      "the VM may run at ", session.destination(),
      " already. run-here makes two running copies then, until that host is back and ends its own; "
      "give-up ends this copy, which is the last one if that host never ran it");
}

}  // namespace

Task<absl::StatusOr<v1::SessionKnowledge>> SessionRegistry::Know(std::string session_id) const {
  CO_ASSIGN_OR_RETURN(v1::Session session, Describe(session_id));
  v1::SessionKnowledge known;
  known.set_address(deps_.own_address());
  known.set_origin(session.origin());
  auto records = co_await deps_.store().ReadJournal(session_id);
  if (!records.ok()) co_return records.status();
  for (const vm::JournalRecord& record : *records) {
    v1::JournalEntry* entry = known.add_journal();
    entry->set_sequence(record.sequence);
    entry->set_record(record.kind);
    entry->set_epoch(record.epoch);
    session.set_commit_record(record.kind);
  }
  if (auto vm = deps_.inventory.Find(session.vm_id()); vm.ok()) known.set_vm_state((*vm)->state());
  const auto live = sessions_.find(session_id);
  const bool over = live == sessions_.end() || live->second->over();
  known.set_next(session.origin() == v1::MIGRATION_ORIGIN_SOURCE
                     ? NextOnSource(session, known.vm_state(), over)
                     : NextOnDestination(session));
  *known.mutable_session() = std::move(session);
  co_return known;
}

Task<v1::SessionKnowledge> SessionRegistry::AskPeer(v1::SessionKnowledge own) const {
  const bool from_source = own.origin() == v1::MIGRATION_ORIGIN_SOURCE;
  v1::SessionKnowledge known;
  known.set_origin(from_source ? v1::MIGRATION_ORIGIN_DESTINATION : v1::MIGRATION_ORIGIN_SOURCE);
  known.set_address(from_source ? own.session().destination() : own.session().source());
  if (known.address().empty()) {
    known.set_error("it is not known where it is");
    co_return known;
  }
  auto peer = deps_.make_peer(known.address());
  if (!peer.ok()) {
    known.set_error(std::string(peer.status().message()));
    co_return known;
  }
  const std::shared_ptr<PeerClient> client = *std::move(peer);
  v1::RecoverSessionRequest request;
  request.set_session_id(own.session().session_id());
  request.set_local_only(true);
  auto answer = co_await client->Recover(std::move(request));
  if (answer.ok() && answer->sides_size() > 0) co_return answer->sides(0);
  known.set_error(answer.ok() ? "it knows nothing of the session"
                              : std::string(answer.status().message()));
  co_return known;
}

Task<absl::StatusOr<v1::RecoverSessionResponse>> SessionRegistry::RecoverSession(
    v1::RecoverSessionRequest request) {
  const std::string id = request.session_id();
  auto found = Find(id);
  auto source = found.ok() ? std::dynamic_pointer_cast<SourceSession>(*found) : nullptr;
  v1::RecoverSessionResponse response;
  if (source != nullptr && source->in_doubt()) response.set_risk(Risk(source->Describe()));
  if (request.force()) {
    if (request.decision() != v1::FORCED_DECISION_RUN_HERE &&
        request.decision() != v1::FORCED_DECISION_GIVE_UP) {
      co_return absl::InvalidArgumentError("force needs a decision: run-here or give-up");
    }
    CO_ASSIGN_OR_RETURN(const v1::Session session, Describe(id));
    if (request.vm_name() != session.vm_name()) {
      co_return absl::InvalidArgumentError(
          absl::StrCat("session ", id, " is not about the VM '", request.vm_name(),
                       "'; give the name of the VM that it moves"));
    }
    const bool run_here = request.decision() == v1::FORCED_DECISION_RUN_HERE;
    const auto decided = run_here ? SourceRecord::kForced : SourceRecord::kGivenUp;
    if (source == nullptr && session.commit_record() != ToString(decided)) {
      co_return absl::FailedPreconditionError(
          absl::StrCat("session ", id,
                       " cannot be forced here: only a source that waits for its destination "
                       "can; a destination gives up by itself"));
    }
    // What is over by now was decided so before.
    if (source != nullptr) CO_RETURN_IF_ERROR(co_await source->Force(request.decision()));
  }
  CO_ASSIGN_OR_RETURN(const v1::SessionKnowledge own, co_await Know(id));
  *response.add_sides() = own;
  if (!request.local_only()) *response.add_sides() = co_await AskPeer(own);
  co_return response;
}

}  // namespace ferry::migration
