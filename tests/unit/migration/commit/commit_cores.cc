#include "tests/unit/migration/commit/commit_cores.h"

#include <set>
#include <string>

namespace ferry::migration::model {
namespace {

const std::set<std::string>& TheDisks() {
  static const std::set<std::string> disks{"root"};
  return disks;
}

std::string JournalOf(int host) { return host == 0 ? "journal-a" : "journal-b"; }

CommitIdentity IdentityOf(int session, int own_host) {
  CommitIdentity identity;
  identity.session_id = session == 0 ? "s0" : "s1";
  identity.vm_id = "vm";
  identity.epoch = 1 + 2 * static_cast<uint64_t>(session);
  identity.plan_digest = session == 0 ? "p0" : "p1";
  identity.journal_id = JournalOf(own_host);
  identity.peer_journal_id = JournalOf(1 - own_host);
  return identity;
}

}  // namespace

SourceCommit SourceCoreOf(const Session& session, int s) {
  SourceCommit core(IdentityOf(s, session.source_host));
  core.Restore(static_cast<SourceRecord>(session.source_record),
               session.source_damaged ? JournalTrust::kMayLackRecords : JournalTrust::kWhole);
  if (session.source_in_doubt) core.Question();
  if (session.mirror != Mirror::kIdle) core.NoteDisksMirrored();
  if (session.mirror == Mirror::kSealed || session.mirror == Mirror::kReceived) {
    core.NoteDisksSealed();
  }
  if (session.source_knows & kKnowsTransfer) core.NoteTransferCompleted();
  if (session.source_knows & kKnowsVote) {
    (void)core.NotePrepared(MakeProof(session, s, ProofKind::kPrepared, false), "state");
  }
  return core;
}

DestinationCommit DestinationCoreOf(const World& world, int s) {
  const Session& session = world.sessions[s];
  DestinationCommit core(IdentityOf(s, 1 - session.source_host));
  const Copy copy = world.copies[s + 1];
  core.Restore(static_cast<DestinationRecord>(session.destination_record),
               session.destination_damaged ? JournalTrust::kMayLackRecords : JournalTrust::kWhole,
               copy == Copy::kRunning                       ? DestinationCommit::Copy::kRuns
               : copy == Copy::kGone || copy == Copy::kNone ? DestinationCommit::Copy::kGone
                                                            : DestinationCommit::Copy::kWaits);
  if (world.own_disks) core.AwaitDisks(TheDisks());
  if (session.mirror == Mirror::kReceived) HasDisks(core);
  return core;
}

void HasDisks(DestinationCommit& core) {
  (void)core.NoteSealed(TheDisks());
  core.NoteDisksHere();
}

Proof MakeProof(const Session& session, int s, ProofKind kind, bool from_source) {
  const int source = session.source_host;
  const CommitIdentity writer = IdentityOf(s, from_source ? source : 1 - source);
  Proof proof;
  proof.kind = kind;
  proof.session_id = writer.session_id;
  proof.vm_id = writer.vm_id;
  const bool moved = kind == ProofKind::kGo || kind == ProofKind::kDone;
  proof.epoch = writer.epoch + (moved ? 1 : 0);
  proof.plan_digest = writer.plan_digest;
  proof.state_digest = "state";
  proof.journal_id = writer.journal_id;
  return proof;
}

uint8_t MessageOf(ProofKind kind) {
  switch (kind) {
    case ProofKind::kPrepared:
      return Message::kPrepared;
    case ProofKind::kGo:
      return Message::kGo;
    case ProofKind::kRefused:
      return Message::kRefused;
    case ProofKind::kDone:
      return Message::kDone;
    case ProofKind::kAbort:
      return Message::kAbort;
    case ProofKind::kForced:
      // Left out: it gives up on purpose what the checker looks for.
      return 0;
  }
  return 0;
}

}  // namespace ferry::migration::model
