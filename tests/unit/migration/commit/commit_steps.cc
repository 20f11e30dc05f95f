#include "tests/unit/migration/commit/commit_steps.h"

#include <functional>
#include <optional>
#include <utility>

#include "bridge/runtime/str_cat.h"
#include "tests/unit/migration/commit/commit_cores.h"

namespace ferry::migration::model {
namespace {

constexpr char kSource[] = "source";
constexpr char kDestination[] = "destination";
constexpr char kHost[] = "host";

// The steps of one world, made by one side after the other.
class Explorer {
 public:
  Explorer(const World& world, const Faults& faults, Mistake mistake)
      : world_(world), faults_(faults), mistake_(mistake) {}

  std::vector<Step> All() {
    for (int s = 0; s < 2; ++s) {
      Begin(s);
      const Session& session = world_.sessions[s];
      if (!session.begun) continue;
      if (world_.up[session.source_host]) Source(s);
      if (world_.up[1 - session.source_host]) Destination(s);
      MirrorDisks(s);
      BreakStream(s);
      LoseMessages(s);
    }
    for (int host = 0; host < 2; ++host) CrashAndRestart(host);
    for (size_t copy = 0; copy < world_.copies.size(); ++copy) Write(copy);
    return std::move(steps_);
  }

 private:
  void Add(Step::Label label, const World& world, bool fault = false) {
    if (!(world == world_)) steps_.push_back({label, world, fault});
  }

  // --- The source ---

  Copy& SourceCopy(World& world, int s) const {
    return world.copies[world_.sessions[s].source_copy];
  }

  // A record becomes durable; what follows from it is another step, so that a crash fits between.
  void TakeSource(int s, const char* what, World world,
                  const absl::StatusOr<std::optional<SourceStep>>& step) {
    if (!step.ok() || !step->has_value()) return;
    Session& session = world.sessions[s];
    session.source_record = static_cast<uint8_t>((*step)->record);
    session.source_effect = 1;
    session.source_damaged = 0;
    session.source_in_doubt = 0;
    Add({kSource, s, what, ToString((*step)->record)}, world);
  }

  void ApplySource(World& world, int s, CopyEffect effect, std::optional<ProofKind> send) const {
    Copy& copy = SourceCopy(world, s);
    if (effect == CopyEffect::kRun && copy == Copy::kPaused) copy = Copy::kRunning;
    // Running it here ends whatever the VMM was still sending.
    Stream& stream = world.sessions[s].stream;
    if (effect == CopyEffect::kRun && stream == Stream::kActive) stream = Stream::kBroken;
    if (effect == CopyEffect::kRun) BreakMirror(world.sessions[s]);
    if (effect == CopyEffect::kEnd) copy = Copy::kGone;
    if (send) world.sessions[s].messages |= MessageOf(*send);
  }

  void SourceEffect(int s) {
    World next = world_;
    Session& session = next.sessions[s];
    session.source_effect = 0;
    const auto record = static_cast<SourceRecord>(session.source_record);
    // What the record means is what a restarted daemon would do about it.
    const SourceRecovery meaning = SourceCoreOf(world_.sessions[s], s).Recover();
    if (record == SourceRecord::kTransfer) {
      session.stream = Stream::kActive;
    } else if (record == SourceRecord::kOpen) {
      session.messages |= Message::kImport;
    } else if (record != SourceRecord::kQuiesced) {
      const bool hasty = mistake_ == Mistake::kReleaseWithGo && record == SourceRecord::kCommit;
      ApplySource(next, s, hasty ? CopyEffect::kEnd : meaning.copy, meaning.offer);
      if (mistake_ == Mistake::kDropDisksWithGo && record == SourceRecord::kCommit) {
        next.whole[session.source_copy] = 0;
      }
    }
    Add({kSource, s, "acts on", ToString(record)}, next);
  }

  void Source(int s) {
    const Session& session = world_.sessions[s];
    if (session.source_effect) return SourceEffect(s);
    SourceCommit core = SourceCoreOf(session, s);
    const auto record = core.record();

    SourceDisks(s, record);
    // The guest is stopped first; the record says so.
    if (record == SourceRecord::kTransfer && session.stream == Stream::kActive) {
      World next = world_;
      if (SourceCopy(next, s) == Copy::kRunning) SourceCopy(next, s) = Copy::kPaused;
      if (session.mirror == Mirror::kActive) Add({kSource, s, "stops the guest"}, next);
      TakeSource(s, "stops the guest and writes", next, core.Quiesce());
    }
    if (record == SourceRecord::kQuiesced && session.stream == Stream::kComplete &&
        !core.in_doubt()) {
      World next = world_;
      next.sessions[s].source_knows |= kKnowsTransfer;
      Add({kSource, s, "sees the transfer complete"}, next);
    }
    if (core.ready_to_commit()) TakeSource(s, "writes", world_, core.Commit());
    // Cancelled, out of patience, or the connection broke.
    if (!core.past_point_of_no_return() && record != SourceRecord::kNone) {
      TakeSource(s, "gives up and writes", world_, core.Abort());
    }
    if (mistake_ == Mistake::kResumeAfterTimeout && record == SourceRecord::kCommit) {
      World next = world_;
      ApplySource(next, s, CopyEffect::kRun, std::nullopt);
      Add({kSource, s, "runs out of patience"}, next);
    }
    // Asks again for as long as there is no answer.
    const bool asks =
        mistake_ != Mistake::kOfferOnce && (core.past_point_of_no_return() || !Refused(s));
    if (auto word = core.word(); word && asks) {
      World next = world_;
      next.sessions[s].messages |= MessageOf(*word);
      Add({kSource, s, "offers", ToString(*word)}, next);
    }
    Deliver(s, Message::kReady, "READY", [&](World next) {
      TakeSource(s, "hears READY and writes", next, core.BeginTransfer());
    });
    Deliver(s, Message::kPrepared, "PREPARED", [&](World next) {
      const bool noted =
          core.NotePrepared(MakeProof(session, s, ProofKind::kPrepared, false), "state").ok();
      if (noted && record == SourceRecord::kQuiesced && !core.in_doubt()) {
        next.sessions[s].source_knows |= kKnowsVote;
      }
      Add({kSource, s, "hears PREPARED"}, next);
    });
    Deliver(s, Message::kDone, "DONE", [&](World next) {
      Add({kSource, s, "hears DONE"}, next);
      TakeSource(s, "hears DONE and writes", next,
                 core.Release(MakeProof(session, s, ProofKind::kDone, false)));
    });
    Deliver(s, Message::kRefused, "REFUSED", [&](World next) {
      Add({kSource, s, "hears REFUSED"}, next);
      TakeSource(s, "hears REFUSED and writes", next,
                 core.OnRefused(MakeProof(session, s, ProofKind::kRefused, false)));
    });
  }

  // They are the same before the memory moves, or whoever drives both sides forgets them.
  void SourceDisks(int s, SourceRecord record) {
    const Session& session = world_.sessions[s];
    if (!world_.own_disks || !world_.up[1 - session.source_host]) return;
    World next = world_;
    next.whole[s + 1] = world_.whole[session.source_copy];
    if (record == SourceRecord::kOpen && session.mirror == Mirror::kIdle &&
        world_.copies[s + 1] == Copy::kLoading) {
      next.sessions[s].mirror = Mirror::kActive;
      Add({kSource, s, "mirrors its disks"}, next);
    }
    const bool stopped = world_.copies[session.source_copy] == Copy::kPaused;
    if (record == SourceRecord::kTransfer && session.mirror == Mirror::kActive &&
        (stopped || mistake_ == Mistake::kSealBeforeStop)) {
      next.sessions[s].mirror = Mirror::kSealed;
      Add({kSource, s, "seals the mirrors"}, next);
    }
  }

  bool Refused(int s) const {
    return world_.sessions[s].destination_record ==
           static_cast<uint8_t>(DestinationRecord::kRefused);
  }

  // --- The destination ---

  void TakeDestination(int s, const char* what, World world,
                       const absl::StatusOr<std::optional<DestinationStep>>& step) {
    if (!step.ok() || !step->has_value()) return;
    Session& session = world.sessions[s];
    if (mistake_ == Mistake::kTellRefusedTooEarly &&
        (*step)->record == DestinationRecord::kRefused) {
      World early = world;
      early.sessions[s].messages |= Message::kRefused;
      Add({kDestination, s, "says REFUSED first"}, early);
    }
    session.destination_record = static_cast<uint8_t>((*step)->record);
    session.destination_effect = 1;
    session.destination_damaged = 0;
    Add({kDestination, s, what, ToString((*step)->record)}, world);
  }

  void ApplyDestination(World& world, int s, CopyEffect effect) const {
    Copy& copy = world.copies[s + 1];
    Session& session = world.sessions[s];
    if (effect == CopyEffect::kRun && (copy == Copy::kLoaded || copy == Copy::kPaused)) {
      copy = Copy::kRunning;
    }
    if (effect == CopyEffect::kEnd && copy != Copy::kNone) copy = Copy::kGone;
    if (effect == CopyEffect::kEnd) BreakMirror(session);
    if (effect == CopyEffect::kEnd && session.stream == Stream::kActive) {
      session.stream = Stream::kBroken;
    }
  }

  void DestinationEffect(int s) {
    World next = world_;
    Session& session = next.sessions[s];
    session.destination_effect = 0;
    DestinationCommit core = DestinationCoreOf(world_, s);
    if (core.record() == DestinationRecord::kListening) {
      next.copies[s + 1] = Copy::kLoading;
      session.messages |= Message::kReady;
    } else if (core.record() != DestinationRecord::kImported) {
      ApplyDestination(next, s, core.Recover().copy);
      if (auto word = core.word()) session.messages |= MessageOf(*word);
    }
    Add({kDestination, s, "acts on", ToString(core.record())}, next);
  }

  void Destination(int s) {
    const Session& session = world_.sessions[s];
    if (session.destination_effect) return DestinationEffect(s);
    DestinationCommit core = DestinationCoreOf(world_, s);
    const auto record = core.record();

    if (record == DestinationRecord::kImported && world_.copies[s + 1] == Copy::kNone) {
      TakeDestination(s, "writes", world_, core.Listen());
    }
    if (world_.copies[s + 1] == Copy::kLoading && session.stream == Stream::kActive &&
        session.source_record == static_cast<uint8_t>(SourceRecord::kQuiesced) &&
        world_.up[session.source_host]) {
      World next = world_;
      next.copies[s + 1] = Copy::kLoaded;
      next.sessions[s].stream = Stream::kComplete;
      Add({kDestination, s, "has the state"}, next);
    }
    if (record == DestinationRecord::kListening && world_.copies[s + 1] == Copy::kLoaded &&
        !session.destination_damaged) {
      if (mistake_ == Mistake::kVoteWithoutDisks) HasDisks(core);
      TakeDestination(s, "writes", world_, core.Prepare());
      World next = world_;
      if (session.mirror == Mirror::kSealed) next.sessions[s].mirror = Mirror::kReceived;
      Add({kDestination, s, "has all of the disks"}, next);
    }
    if (record == DestinationRecord::kGranted && world_.copies[s + 1] == Copy::kRunning) {
      TakeDestination(s, "writes", world_, core.Running());
    }
    if (record != DestinationRecord::kNone && core.may_refuse_alone()) {
      TakeDestination(s, "gives up and writes", world_, core.Refuse());
    }
    Deliver(s, Message::kImport, "IMPORT", [&](World next) {
      Add({kDestination, s, "hears IMPORT"}, next);
      if (HasVm(1 - session.source_host, s)) return;
      TakeDestination(s, "hears IMPORT and writes", next, core.Import());
    });
    Deliver(s, Message::kGo, "GO", [&](World next) {
      auto grant = core.Grant(MakeProof(session, s, ProofKind::kGo, true));
      if (grant.ok()) {
        if (auto word = core.word()) next.sessions[s].messages |= MessageOf(*word);
        Add({kDestination, s, "hears GO"}, next);
        TakeDestination(s, "hears GO and writes", next, grant);
      } else {
        Answer(s, "hears GO and answers", next, core, core.Refuse());
      }
    });
    Deliver(s, Message::kAbort, "ABORT", [&](World next) {
      Answer(s, "hears ABORT and answers", next, core,
             core.OnAbort(MakeProof(session, s, ProofKind::kAbort, true)));
    });
  }

  // What cannot be done is answered with what was done before.
  void Answer(int s, const char* heard, World next, const DestinationCommit& core,
              const absl::StatusOr<std::optional<DestinationStep>>& refuse) {
    if (refuse.ok() && refuse->has_value()) {
      return TakeDestination(s, heard, next, refuse);
    }
    if (auto word = core.word(); word && word != ProofKind::kPrepared) {
      next.sessions[s].messages |= MessageOf(*word);
    }
    Add({kDestination, s, heard}, next);
  }

  // Whether this host still has a copy of the VM from before, which keeps another from coming.
  bool HasVm(int host, int session) const {
    if (session == 0) return false;
    const Session& former = world_.sessions[0];
    const Copy source = world_.copies[former.source_copy];
    const Copy destination = world_.copies[1];
    const Copy here = former.source_host == host ? source : destination;
    return here != Copy::kGone && here != Copy::kNone;
  }

  // --- The world ---

  void Begin(int s) {
    if (world_.sessions[s].begun) return;
    World next = world_;
    Session& session = next.sessions[s];
    if (s == 1) {
      const Session& former = world_.sessions[0];
      if (!former.begun) return;
      const bool moved =
          former.destination_record == static_cast<uint8_t>(DestinationRecord::kRunning) &&
          !former.destination_effect;
      const auto source = static_cast<SourceRecord>(former.source_record);
      const bool stayed = (source == SourceRecord::kAbort || source == SourceRecord::kReclaimed) &&
                          !former.source_effect;
      if (!moved && !stayed) return;
      session.source_host = moved ? 1 - former.source_host : former.source_host;
      session.source_copy = moved ? 1 : former.source_copy;
      if (world_.copies[session.source_copy] != Copy::kRunning) return;
    }
    if (!world_.up[session.source_host]) return;
    session.begun = 1;
    world_.sessions[s] = session;  // so that the core speaks for the right host
    TakeSource(s, "writes", next, SourceCoreOf(world_.sessions[s], s).Open());
    world_.sessions[s] = {};
  }

  // A source's VMM that loses its stream before the end lets the guest run on by itself.
  void BreakStream(int s) {
    if (world_.sessions[s].stream != Stream::kActive) return;
    World next = world_;
    next.sessions[s].stream = Stream::kBroken;
    if (SourceCopy(next, s) == Copy::kPaused) SourceCopy(next, s) = Copy::kRunning;
    if (next.copies[s + 1] == Copy::kLoading) {
      next.copies[s + 1] = Copy::kGone;
      BreakMirror(next.sessions[s]);
    }
    const bool fault = world_.up[0] && world_.up[1];
    Add({kSource, s, "loses its stream"}, next, fault);
  }

  static void BreakMirror(Session& session) {
    if (session.mirror == Mirror::kActive || session.mirror == Mirror::kSealed) {
      session.mirror = Mirror::kBroken;
    }
  }

  // What is written to the source's disks goes to the other ones some time later, or the mirrors
  // end before the destination has all.
  void MirrorDisks(int s) {
    const Session& session = world_.sessions[s];
    const bool up = world_.up[0] && world_.up[1];
    if (session.mirror == Mirror::kActive && up) {
      World next = world_;
      next.whole[s + 1] = world_.whole[session.source_copy];
      Add({kSource, s, "mirrors what was written"}, next);
    }
    World next = world_;
    BreakMirror(next.sessions[s]);
    Add({kSource, s, "loses its mirrors"}, next, up);
  }

  // A guest that runs is told that something is on its disks.
  void Write(size_t copy) {
    if (!world_.own_disks || world_.copies[copy] != Copy::kRunning) return;
    World next = world_;
    next.whole = {};
    next.whole[copy] = world_.whole[copy];
    Add({"guest", static_cast<int>(copy), "writes"}, next);
  }

  void Deliver(int s, Message message, const char* name,
               const std::function<void(const World&)>& handle) {
    if (!(world_.sessions[s].messages & message)) return;
    World next = world_;
    next.sessions[s].messages &= static_cast<uint8_t>(~message);
    handle(next);
    if (world_.doubled >= faults_.doubled_messages) return;
    World doubled = world_;
    ++doubled.doubled;
    const size_t before = steps_.size();
    handle(doubled);
    for (size_t i = before; i < steps_.size(); ++i) {
      steps_[i].fault = true;
      steps_[i].label.again = name;
    }
  }

  void LoseMessages(int s) {
    if (world_.lost >= faults_.lost_messages) return;
    for (uint8_t bit = 1; bit <= Message::kAbort; bit = static_cast<uint8_t>(bit << 1)) {
      if (!(world_.sessions[s].messages & bit)) continue;
      World next = world_;
      ++next.lost;
      next.sessions[s].messages &= static_cast<uint8_t>(~bit);
      Add({"session", s, "loses a message"}, next, true);
    }
  }

  void CrashAndRestart(int host) {
    if (!world_.up[host]) {
      World next = world_;
      next.up[host] = 1;
      for (int s = 0; s < 2; ++s) Recover(next, host, s);
      return Add({kHost, host, "is back"}, next);
    }
    if (world_.crashes[host] >= faults_.crashes_per_host) return;
    World next = world_;
    ++next.crashes[host];
    next.up[host] = 0;
    for (Session& session : next.sessions) {
      if (!session.begun) continue;
      if (session.source_host == host) session.source_knows = session.source_effect = 0;
      if (session.source_host != host) session.destination_effect = 0;
    }
    Add({kHost, host, "crashes"}, next, true);
    if (world_.damaged < faults_.damaged_journals) Damage(next, host);
    if (world_.restored < faults_.restored_journals) RestoreJournal(next, host);
  }

  // The newest record of a journal is lost in the crash.
  void Damage(World crashed, int host) {
    ++crashed.damaged;
    for (int s = 0; s < 2; ++s) {
      const Session& session = world_.sessions[s];
      if (!session.begun) continue;
      World next = crashed;
      const bool noticed = mistake_ != Mistake::kTrustDamagedJournal;
      if (session.source_host == host &&
          session.source_record == static_cast<uint8_t>(SourceRecord::kCommit)) {
        next.sessions[s].source_record = static_cast<uint8_t>(SourceRecord::kQuiesced);
        next.sessions[s].source_damaged = noticed;
        Add({kHost, host, "crashes and loses COMMIT"}, next, true);
      }
      if (session.source_host != host &&
          session.destination_record == static_cast<uint8_t>(DestinationRecord::kGranted)) {
        next.sessions[s].destination_record = static_cast<uint8_t>(DestinationRecord::kPrepared);
        next.sessions[s].destination_damaged = noticed;
        Add({kHost, host, "crashes and loses GRANTED"}, next, true);
      }
    }
  }

  // Somebody puts a source's journal back to what it was before COMMIT, and nobody notices.
  void RestoreJournal(World crashed, int host) {
    ++crashed.restored;
    for (int s = 0; s < 2; ++s) {
      const Session& session = world_.sessions[s];
      const auto record = static_cast<SourceRecord>(session.source_record);
      if (!session.begun || session.source_host != host) continue;
      if (record != SourceRecord::kCommit && record != SourceRecord::kReleased) continue;
      for (const auto former :
           {SourceRecord::kOpen, SourceRecord::kTransfer, SourceRecord::kQuiesced}) {
        World next = crashed;
        next.sessions[s].source_record = static_cast<uint8_t>(former);
        Add({kHost, host, "crashes and is put back to", ToString(former)}, next, true);
      }
    }
  }

  // Whether the source's VMM shows no more than the journal that there was no COMMIT: it has sent
  // all that it had and has not run since, or it is gone.
  static bool MayHaveCommitted(const World& world, int s) {
    const Session& session = world.sessions[s];
    const Copy copy = world.copies[session.source_copy];
    const bool gone = copy == Copy::kGone || copy == Copy::kNone;
    return gone || (copy != Copy::kRunning && session.stream == Stream::kComplete);
  }

  // What a daemon does on start about a session of its journal. Only the newest session of a VM
  // has a say: what an older one meant is undone by what came after it.
  void Recover(World& world, int host, int s) {
    Session& session = world.sessions[s];
    if (!session.begun) return;
    const Session& newer = world.sessions[1];
    if (s == 0 && newer.begun && newer.source_host == host) return;
    if (session.source_host == host) {
      session.source_in_doubt = MayHaveCommitted(world, s) &&
                                mistake_ != Mistake::kTrustDamagedJournal &&
                                mistake_ != Mistake::kTrustRestoredJournal;
      SourceCommit core = SourceCoreOf(session, s);
      if (mistake_ == Mistake::kForgetCommit && core.record() == SourceRecord::kCommit) {
        core.Restore(SourceRecord::kQuiesced, JournalTrust::kWhole);
      }
      const SourceRecovery recovery = core.Recover();
      if (recovery.step) {
        session.source_record = static_cast<uint8_t>(recovery.step->record);
        session.source_effect = 1;
      } else if (session.source_record != 0) {
        ApplySource(world, s, recovery.copy, recovery.offer);
      }
      return;
    }
    DestinationCommit core = DestinationCoreOf(world_, s);
    const DestinationRecovery recovery = core.Recover();
    if (session.destination_record == 0) return;
    // A copy that runs was granted; that is written down again.
    session.destination_record = static_cast<uint8_t>(core.record());
    if (recovery.step) {
      session.destination_record = static_cast<uint8_t>(recovery.step->record);
      session.destination_effect = 1;
    } else {
      const bool hasty = mistake_ == Mistake::kRunBeforeGrantIsKnown &&
                         core.record() == DestinationRecord::kPrepared;
      ApplyDestination(world, s, hasty ? CopyEffect::kRun : recovery.copy);
    }
  }

  World world_;
  const Faults faults_;
  const Mistake mistake_;
  std::vector<Step> steps_;
};

}  // namespace

std::vector<Step> Successors(const World& world, const Faults& faults, Mistake mistake) {
  return Explorer(world, faults, mistake).All();
}

std::string Step::Label::Text() const {
  return StrCat(who, " ", number, ": ", does, record.empty() ? "" : " ", record,
                again == nullptr ? "" : " (it comes again: ", again == nullptr ? "" : again,
                again == nullptr ? "" : ")");
}

}  // namespace ferry::migration::model
