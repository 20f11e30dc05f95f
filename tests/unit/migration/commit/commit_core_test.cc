#include "migration/commit/commit_core.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ferry::migration {
namespace {

using ::testing::HasSubstr;

constexpr char kStateDigest[] = "state";

CommitIdentity SourceIdentity() { return {"session", "vm", 4, "plan", "journal-s", "journal-d"}; }
CommitIdentity DestinationIdentity() {
  return {"session", "vm", 4, "plan", "journal-d", "journal-s"};
}

Proof MakeProof(ProofKind kind, uint64_t epoch, const CommitIdentity& writer) {
  Proof proof;
  proof.kind = kind;
  proof.session_id = writer.session_id;
  proof.vm_id = writer.vm_id;
  proof.epoch = epoch;
  proof.plan_digest = writer.plan_digest;
  proof.state_digest = kStateDigest;
  proof.journal_id = writer.journal_id;
  return proof;
}

Proof FromDestination(ProofKind kind, uint64_t epoch) {
  return MakeProof(kind, epoch, DestinationIdentity());
}
Proof FromSource(ProofKind kind, uint64_t epoch) {
  return MakeProof(kind, epoch, SourceIdentity());
}

template <typename Core, typename Step>
void Take(Core& core, const absl::StatusOr<std::optional<Step>>& step) {
  ASSERT_TRUE(step.ok()) << step.status();
  ASSERT_TRUE(step->has_value());
  core.Apply(**step);
}

SourceCommit QuiescedSource() {
  SourceCommit source(SourceIdentity());
  Take(source, source.Open());
  Take(source, source.BeginTransfer());
  Take(source, source.Quiesce());
  return source;
}

SourceCommit CommittedSource() {
  SourceCommit source = QuiescedSource();
  source.NoteTransferCompleted();
  EXPECT_TRUE(source.NotePrepared(FromDestination(ProofKind::kPrepared, 4), kStateDigest).ok());
  Take(source, source.Commit());
  return source;
}

DestinationCommit PreparedDestination() {
  DestinationCommit destination(DestinationIdentity());
  Take(destination, destination.Import());
  Take(destination, destination.Listen());
  Take(destination, destination.Prepare());
  return destination;
}

TEST(SourceCommit, MayExecuteUntilCommitOnly) {
  SourceCommit source(SourceIdentity());
  EXPECT_TRUE(source.may_execute());
  source = QuiescedSource();
  EXPECT_TRUE(source.may_execute());
  EXPECT_FALSE(source.past_point_of_no_return());
  source = CommittedSource();
  EXPECT_FALSE(source.may_execute());
  EXPECT_TRUE(source.past_point_of_no_return());
  Take(source, source.Release(FromDestination(ProofKind::kDone, 5)));
  EXPECT_FALSE(source.may_execute());
}

TEST(SourceCommit, CommitNeedsVoteAndCompletedTransfer) {
  SourceCommit source = QuiescedSource();
  EXPECT_THAT(std::string(source.Commit().status().message()),
              HasSubstr("the transfer is not complete"));
  source.NoteTransferCompleted();
  EXPECT_THAT(std::string(source.Commit().status().message()), HasSubstr("has not voted"));
  ASSERT_TRUE(source.NotePrepared(FromDestination(ProofKind::kPrepared, 4), kStateDigest).ok());
  auto step = source.Commit();
  ASSERT_TRUE(step.ok());
  EXPECT_EQ((*step)->record, SourceRecord::kCommit);
  EXPECT_EQ((*step)->epoch, 5u);
  EXPECT_EQ((*step)->send, ProofKind::kGo);
}

TEST(SourceCommit, QuiescesOnlyOnceItsMirroredDisksAreSealed) {
  SourceCommit source(SourceIdentity());
  Take(source, source.Open());
  source.NoteDisksMirrored();
  Take(source, source.BeginTransfer());
  EXPECT_THAT(source.Quiesce().status().message(), HasSubstr("does not have all of the disks"));
  EXPECT_EQ(source.record(), SourceRecord::kTransfer);
  source.NoteDisksSealed();
  Take(source, source.Quiesce());
}

TEST(SourceCommit, RefusesAVoteForAnotherStateEpochOrJournal) {
  SourceCommit source = QuiescedSource();
  EXPECT_EQ(source.NotePrepared(FromDestination(ProofKind::kPrepared, 4), "other").code(),
            absl::StatusCode::kDataLoss);
  EXPECT_EQ(source.NotePrepared(FromDestination(ProofKind::kPrepared, 3), kStateDigest).code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(source.NotePrepared(FromDestination(ProofKind::kDone, 4), kStateDigest).code(),
            absl::StatusCode::kInvalidArgument);
  Proof wiped = FromDestination(ProofKind::kPrepared, 4);
  wiped.journal_id = "journal-new";
  EXPECT_THAT(std::string(source.NotePrepared(wiped, kStateDigest).message()),
              HasSubstr("another journal"));
  source.NoteTransferCompleted();
  EXPECT_FALSE(source.ready_to_commit());
}

TEST(SourceCommit, OnlyRefusedGivesTheVmBackAfterCommit) {
  SourceCommit source = CommittedSource();
  EXPECT_EQ(source.Abort().status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(source.Reclaim(FromDestination(ProofKind::kDone, 5)).status().code(),
            absl::StatusCode::kInvalidArgument);
  Proof other_session = FromDestination(ProofKind::kRefused, 4);
  other_session.session_id = "other";
  EXPECT_EQ(source.Reclaim(other_session).status().code(), absl::StatusCode::kInvalidArgument);
  auto step = source.Reclaim(FromDestination(ProofKind::kRefused, 4));
  ASSERT_TRUE(step.ok());
  EXPECT_EQ((*step)->epoch, 6u);
  Take(source, step);
  EXPECT_TRUE(source.may_execute());
  EXPECT_EQ(source.Release(FromDestination(ProofKind::kDone, 5)).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST(SourceCommit, AbortAndCommitExcludeEachOther) {
  SourceCommit source = QuiescedSource();
  source.NoteTransferCompleted();
  ASSERT_TRUE(source.NotePrepared(FromDestination(ProofKind::kPrepared, 4), kStateDigest).ok());
  Take(source, source.Abort());
  EXPECT_TRUE(source.may_execute());
  EXPECT_EQ(source.Commit().status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(SourceCommit, RepeatedCallsTakeNoSecondStep) {
  SourceCommit source = CommittedSource();
  EXPECT_EQ(*source.Commit(), std::nullopt);
  Take(source, source.Release(FromDestination(ProofKind::kDone, 5)));
  EXPECT_EQ(*source.Release(FromDestination(ProofKind::kDone, 5)), std::nullopt);
  EXPECT_EQ(*source.Commit(), std::nullopt);
}

TEST(DestinationCommit, ExecutesOnlyWithGranted) {
  DestinationCommit destination = PreparedDestination();
  EXPECT_FALSE(destination.may_execute());
  EXPECT_EQ(destination.Grant(FromSource(ProofKind::kAbort, 4)).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(destination.Grant(FromSource(ProofKind::kGo, 4)).status().code(),
            absl::StatusCode::kFailedPrecondition);
  Take(destination, destination.Grant(FromSource(ProofKind::kGo, 5)));
  EXPECT_TRUE(destination.may_execute());
  auto running = destination.Running();
  ASSERT_TRUE(running.ok());
  EXPECT_EQ((*running)->send, ProofKind::kDone);
}

TEST(DestinationCommit, VotesOnlyWithAllOfTheDisksThatItAwaits) {
  DestinationCommit destination(DestinationIdentity());
  destination.AwaitDisks({"root", "data"});
  Take(destination, destination.Import());
  Take(destination, destination.Listen());
  EXPECT_EQ(destination.Prepare().status().code(), absl::StatusCode::kDataLoss);
  for (const std::set<std::string>& others : {std::set<std::string>{}, {"root"}, {"root", "b"}}) {
    EXPECT_EQ(destination.NoteSealed(others).code(), absl::StatusCode::kDataLoss);
  }
  // Whatever came before the source has sealed it is not all.
  destination.NoteDisksHere();
  EXPECT_FALSE(destination.Prepare().ok());
  EXPECT_TRUE(destination.NoteSealed({"data", "root"}).ok());
  EXPECT_FALSE(destination.Prepare().ok());
  destination.NoteDisksHere();
  Take(destination, destination.Prepare());
}

TEST(DestinationCommit, TakesNoDisksThatItDoesNotAwait) {
  DestinationCommit destination(DestinationIdentity());
  EXPECT_EQ(destination.NoteSealed({"root"}).code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(destination.NoteSealed({}).ok());
}

TEST(DestinationCommit, NeverWritesGrantedAndRefused) {
  DestinationCommit granted = PreparedDestination();
  Take(granted, granted.Grant(FromSource(ProofKind::kGo, 5)));
  EXPECT_EQ(granted.Refuse().status().code(), absl::StatusCode::kFailedPrecondition);

  DestinationCommit refused = PreparedDestination();
  Take(refused, refused.Refuse());
  EXPECT_EQ(refused.Grant(FromSource(ProofKind::kGo, 5)).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(*refused.Refuse(), std::nullopt);
}

TEST(DestinationCommit, RefusesGoBeforeItsOwnVote) {
  DestinationCommit destination(DestinationIdentity());
  EXPECT_FALSE(destination.Grant(FromSource(ProofKind::kGo, 5)).ok());
  Take(destination, destination.Import());
  EXPECT_FALSE(destination.Grant(FromSource(ProofKind::kGo, 5)).ok());
  Take(destination, destination.Listen());
  EXPECT_FALSE(destination.Grant(FromSource(ProofKind::kGo, 5)).ok());
}

TEST(Proof, RoundTrips) {
  Proof proof = FromSource(ProofKind::kGo, 5);
  proof.journal_sequence = 17;
  proof.journal_hash = std::string("\0\x01", 2);
  proof.detail = "resumed in 3 ms";
  auto back = DecodeProof(EncodeProof(proof, "key"), "key");
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(*back, proof);
}

TEST(Proof, AnyAlteredOrMissingByteIsRefused) {
  const std::string bytes = EncodeProof(FromSource(ProofKind::kGo, 5), "key");
  for (size_t i = 0; i < bytes.size(); ++i) {
    std::string flipped = bytes;
    flipped[i] = static_cast<char>(flipped[i] ^ 0x10);
    EXPECT_FALSE(DecodeProof(flipped, "key").ok()) << i;
    EXPECT_FALSE(DecodeProof(bytes.substr(0, i), "key").ok()) << i;
  }
  EXPECT_EQ(DecodeProof(bytes, "other key").status().code(), absl::StatusCode::kPermissionDenied);
}

SourceCommit RestoredSource(SourceRecord last, JournalTrust trust = JournalTrust::kWhole) {
  SourceCommit source(SourceIdentity());
  source.Restore(last, trust);
  return source;
}

DestinationCommit RestoredDestination(
    DestinationRecord last, JournalTrust trust = JournalTrust::kWhole,
    DestinationCommit::Copy copy = DestinationCommit::Copy::kWaits) {
  DestinationCommit destination(DestinationIdentity());
  destination.Restore(last, trust, copy);
  return destination;
}

TEST(SourceRecovery, CallsOffWhatWasNotCommitted) {
  for (const auto last : {SourceRecord::kOpen, SourceRecord::kTransfer, SourceRecord::kQuiesced}) {
    const SourceRecovery recovery = RestoredSource(last).Recover();
    ASSERT_TRUE(recovery.step.has_value()) << ToString(last);
    EXPECT_EQ(recovery.step->record, SourceRecord::kAbort);
    EXPECT_EQ(recovery.copy, CopyEffect::kRun);
    EXPECT_EQ(recovery.offer, ProofKind::kAbort);
  }
}

TEST(SourceRecovery, CannotCommitWithoutTheVoteItForgot) {
  SourceCommit source = RestoredSource(SourceRecord::kQuiesced);
  EXPECT_FALSE(source.ready_to_commit());
  EXPECT_FALSE(source.Commit().ok());
}

TEST(SourceRecovery, HoldsAndOffersGoAfterCommit) {
  SourceCommit source = RestoredSource(SourceRecord::kCommit);
  const SourceRecovery recovery = source.Recover();
  EXPECT_FALSE(recovery.step.has_value());
  EXPECT_EQ(recovery.copy, CopyEffect::kHold);
  EXPECT_EQ(recovery.offer, ProofKind::kGo);
  EXPECT_FALSE(source.may_execute());
}

TEST(SourceRecovery, FinishesWhatWasDecided) {
  EXPECT_EQ(RestoredSource(SourceRecord::kReleased).Recover().copy, CopyEffect::kEnd);
  EXPECT_EQ(RestoredSource(SourceRecord::kReclaimed).Recover().copy, CopyEffect::kRun);
  EXPECT_EQ(RestoredSource(SourceRecord::kAbort).Recover().copy, CopyEffect::kRun);
  EXPECT_EQ(RestoredSource(SourceRecord::kNone).Recover().copy, CopyEffect::kNone);
}

TEST(SourceRecovery, AsksBeforeItRunsWhenItsJournalMayLackCommit) {
  SourceCommit source = RestoredSource(SourceRecord::kQuiesced, JournalTrust::kMayLackRecords);
  EXPECT_FALSE(source.may_execute());
  EXPECT_EQ(source.Recover().copy, CopyEffect::kHold);
  EXPECT_EQ(source.Recover().offer, ProofKind::kAbort);
  EXPECT_FALSE(source.Abort().ok());
  SourceCommit released = source;
  Take(released, released.Release(FromDestination(ProofKind::kDone, 5)));
  EXPECT_FALSE(released.may_execute());
  Take(source, source.OnRefused(FromDestination(ProofKind::kRefused, 4)));
  EXPECT_EQ(source.record(), SourceRecord::kReclaimed);
  EXPECT_TRUE(source.may_execute());
}

TEST(SourceCommit, RefusedEndsTheSessionBeforeCommitAndReclaimsAfterIt) {
  SourceCommit before = QuiescedSource();
  Take(before, before.OnRefused(FromDestination(ProofKind::kRefused, 4)));
  EXPECT_EQ(before.record(), SourceRecord::kAbort);
  SourceCommit after = CommittedSource();
  Take(after, after.OnRefused(FromDestination(ProofKind::kRefused, 4)));
  EXPECT_EQ(after.record(), SourceRecord::kReclaimed);
}

TEST(DestinationRecovery, RefusesWhatItHadNotVotedFor) {
  for (const auto last : {DestinationRecord::kImported, DestinationRecord::kListening}) {
    const DestinationRecovery recovery = RestoredDestination(last).Recover();
    ASSERT_TRUE(recovery.step.has_value()) << ToString(last);
    EXPECT_EQ(recovery.step->record, DestinationRecord::kRefused);
    EXPECT_EQ(recovery.copy, CopyEffect::kEnd);
  }
}

TEST(DestinationRecovery, KeepsItsVoteWhileTheCopyLives) {
  DestinationCommit destination = RestoredDestination(DestinationRecord::kPrepared);
  EXPECT_FALSE(destination.Recover().step.has_value());
  EXPECT_EQ(destination.Recover().copy, CopyEffect::kHold);
  EXPECT_EQ(destination.word(), ProofKind::kPrepared);
  destination = RestoredDestination(DestinationRecord::kPrepared, JournalTrust::kWhole,
                                    DestinationCommit::Copy::kGone);
  EXPECT_EQ(destination.Recover().step->record, DestinationRecord::kRefused);
}

TEST(DestinationRecovery, RunsWhatWasGranted) {
  DestinationCommit destination = RestoredDestination(DestinationRecord::kGranted);
  EXPECT_EQ(destination.Recover().copy, CopyEffect::kRun);
  Take(destination, destination.Running());
  EXPECT_EQ(destination.word(), ProofKind::kDone);
  EXPECT_EQ(RestoredDestination(DestinationRecord::kRefused).word(), ProofKind::kRefused);
}

TEST(DestinationRecovery, TakesARunningCopyForGranted) {
  const DestinationCommit destination = RestoredDestination(
      DestinationRecord::kPrepared, JournalTrust::kMayLackRecords, DestinationCommit::Copy::kRuns);
  EXPECT_EQ(destination.record(), DestinationRecord::kGranted);
  EXPECT_TRUE(destination.may_execute());
}

TEST(DestinationRecovery, RefusesOnlyOnTheSourcesWordWhenItsJournalMayLackGranted) {
  DestinationCommit destination =
      RestoredDestination(DestinationRecord::kPrepared, JournalTrust::kMayLackRecords);
  EXPECT_FALSE(destination.may_refuse_alone());
  EXPECT_FALSE(destination.Refuse().ok());
  EXPECT_EQ(destination.Recover().copy, CopyEffect::kHold);
  DestinationCommit granted = destination;
  Take(granted, granted.Grant(FromSource(ProofKind::kGo, 5)));
  EXPECT_TRUE(granted.may_execute());
  Take(destination, destination.OnAbort(FromSource(ProofKind::kAbort, 4)));
  EXPECT_EQ(destination.record(), DestinationRecord::kRefused);
}

TEST(CommitRecords, AreReadAsTheyAreWritten) {
  for (int i = 0; i <= static_cast<int>(SourceRecord::kAbort); ++i) {
    const auto record = static_cast<SourceRecord>(i);
    EXPECT_EQ(SourceRecordFrom(ToString(record)), record);
  }
  for (int i = 0; i <= static_cast<int>(DestinationRecord::kRefused); ++i) {
    const auto record = static_cast<DestinationRecord>(i);
    EXPECT_EQ(DestinationRecordFrom(ToString(record)), record);
  }
  EXPECT_EQ(SourceRecordFrom("GRANTED"), std::nullopt);
  EXPECT_EQ(DestinationRecordFrom(""), std::nullopt);
}

DestinationCommit GrantedDestination() {
  DestinationCommit destination = PreparedDestination();
  Take(destination, destination.Grant(FromSource(ProofKind::kGo, 5)));
  return destination;
}

TEST(ForcedDecision, OnlyAVmInDoubtCanBeForced) {
  EXPECT_FALSE(QuiescedSource().Force().ok());
  EXPECT_FALSE(QuiescedSource().GiveUp().ok());
  SourceCommit released = CommittedSource();
  Take(released, released.Release(FromDestination(ProofKind::kDone, 5)));
  EXPECT_FALSE(released.Force().ok());
  EXPECT_FALSE(released.GiveUp().ok());

  SourceCommit damaged = QuiescedSource();
  damaged.Restore(SourceRecord::kQuiesced, JournalTrust::kMayLackRecords);
  EXPECT_TRUE(damaged.in_doubt());
  EXPECT_TRUE(damaged.Force().ok());
}

TEST(ForcedDecision, RunsHereAboveEveryEpochThatTheDestinationCanHave) {
  SourceCommit source = CommittedSource();
  const auto step = source.Force();
  ASSERT_TRUE(step.ok() && step->has_value()) << step.status();
  EXPECT_EQ((*step)->epoch, 7u);
  EXPECT_EQ((*step)->copy, CopyEffect::kRun);
  source.Apply(**step);
  EXPECT_TRUE(source.may_execute());
  EXPECT_FALSE(source.in_doubt());
  EXPECT_EQ(source.word(), ProofKind::kForced);
  // It is decided: neither the destination's DONE nor another decision changes it.
  EXPECT_FALSE(source.Release(FromDestination(ProofKind::kDone, 5)).ok());
  EXPECT_FALSE(source.GiveUp().ok());
  EXPECT_EQ(source.Force().value(), std::nullopt);

  source.Restore(SourceRecord::kForced, JournalTrust::kWhole);
  EXPECT_EQ(source.Recover().copy, CopyEffect::kRun);
  EXPECT_EQ(source.Recover().offer, ProofKind::kForced);
}

TEST(ForcedDecision, GivingUpEndsTheCopyForGood) {
  SourceCommit source = CommittedSource();
  Take(source, source.GiveUp());
  EXPECT_FALSE(source.may_execute());
  EXPECT_FALSE(source.Force().ok());
  source.Restore(SourceRecord::kGivenUp, JournalTrust::kWhole);
  EXPECT_EQ(source.Recover().copy, CopyEffect::kEnd);
}

TEST(ForcedDecision, AGrantedCopyIsStaleAndEnds) {
  DestinationCommit destination = GrantedDestination();
  const auto step = destination.OnForced(FromSource(ProofKind::kForced, 7));
  ASSERT_TRUE(step.ok() && step->has_value()) << step.status();
  EXPECT_EQ((*step)->record, DestinationRecord::kSuperseded);
  EXPECT_EQ((*step)->copy, CopyEffect::kEnd);
  destination.Apply(**step);
  EXPECT_FALSE(destination.may_execute());
  EXPECT_EQ(destination.word(), ProofKind::kRefused);
  EXPECT_EQ(destination.OnForced(FromSource(ProofKind::kForced, 7)).value(), std::nullopt);
  destination.Restore(DestinationRecord::kSuperseded, JournalTrust::kWhole,
                      DestinationCommit::Copy::kRuns);
  EXPECT_EQ(destination.Recover().copy, CopyEffect::kEnd);
}

TEST(ForcedDecision, ACopyThatWaitsIsRefused) {
  DestinationCommit destination = PreparedDestination();
  const auto step = destination.OnAbort(FromSource(ProofKind::kForced, 7));
  ASSERT_TRUE(step.ok() && step->has_value()) << step.status();
  EXPECT_EQ((*step)->record, DestinationRecord::kRefused);
}

TEST(ForcedDecision, IsTakenOnlyFromTheSessionsOwnSource) {
  DestinationCommit destination = GrantedDestination();
  EXPECT_FALSE(destination.OnForced(FromSource(ProofKind::kForced, 6)).ok());
  EXPECT_FALSE(destination.OnForced(FromDestination(ProofKind::kForced, 7)).ok());
  EXPECT_FALSE(destination.OnForced(FromSource(ProofKind::kGo, 7)).ok());
}

TEST(ProofText, WhatWasHeardTravelsWithTheDetail) {
  for (const std::string detail : {"", "12.5 3", "[failed source x] why", "1 2 lost", " heard "}) {
    Proof proof = FromSource(ProofKind::kGo, 5);
    proof.detail = detail;
    EXPECT_EQ(DecodeProof(EncodeProof(proof, "key"), "key").value(), proof) << detail;
    proof.heard_sequence = 12;
    proof.heard_hash = std::string(32, '\xab');
    EXPECT_EQ(DecodeProof(EncodeProof(proof, "key"), "key").value(), proof) << detail;
  }
}

TEST(ProofText, WhatOnlyLooksLikeItIsText) {
  const std::string hash(64, 'a');
  const std::vector<std::string> details = {
      " heard 0 " + hash,
      " heard 12 " + hash + "a",
      " heard x " + hash,
      " heard 12",
      " heard 12 " + std::string(64, 'G'),
      " heard 99999999999999999999 " + hash,
  };
  for (const std::string& detail : details) {
    Proof proof = FromSource(ProofKind::kGo, 5);
    proof.detail = detail;
    EXPECT_EQ(DecodeProof(EncodeProof(proof, "key"), "key").value(), proof) << detail;
  }
}

TEST(QuestionedSource, WaitsForTheDestination) {
  for (const SourceRecord record :
       {SourceRecord::kOpen, SourceRecord::kTransfer, SourceRecord::kQuiesced}) {
    SourceCommit source = CommittedSource();
    source.Restore(record, JournalTrust::kWhole);
    source.Question();
    EXPECT_TRUE(source.in_doubt());
    EXPECT_FALSE(source.may_execute());
    EXPECT_EQ(source.word(), ProofKind::kAbort);
    EXPECT_FALSE(source.Abort().ok());
    EXPECT_FALSE(source.BeginTransfer().value_or(std::nullopt).has_value());
    EXPECT_FALSE(source.Quiesce().value_or(std::nullopt).has_value());
  }
}

TEST(QuestionedSource, GoesByWhatTheDestinationSays) {
  SourceCommit source = CommittedSource();
  source.Restore(SourceRecord::kQuiesced, JournalTrust::kWhole);
  source.Question();
  const auto reclaimed = source.OnRefused(FromDestination(ProofKind::kRefused, 4));
  ASSERT_TRUE(reclaimed.ok() && reclaimed->has_value()) << reclaimed.status();
  EXPECT_EQ((*reclaimed)->record, SourceRecord::kReclaimed);
  const auto released = source.Release(FromDestination(ProofKind::kDone, 5));
  ASSERT_TRUE(released.ok() && released->has_value()) << released.status();
  EXPECT_EQ((*released)->record, SourceRecord::kReleased);
}

TEST(QuestionedSource, IsOnlyOneThatCouldHaveCommitted) {
  for (const SourceRecord record : {SourceRecord::kCommit, SourceRecord::kAbort,
                                    SourceRecord::kReclaimed, SourceRecord::kReleased}) {
    SourceCommit source = CommittedSource();
    source.Restore(record, JournalTrust::kWhole);
    const bool could_execute = source.may_execute();
    const auto word = source.word();
    source.Question();
    EXPECT_EQ(source.may_execute(), could_execute);
    EXPECT_EQ(source.word(), word);
  }
}

}  // namespace
}  // namespace ferry::migration
