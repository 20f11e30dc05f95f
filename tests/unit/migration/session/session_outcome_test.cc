#include "migration/session/session_outcome.h"

#include <gtest/gtest.h>

namespace ferry::migration {
namespace {

TEST(SessionOutcome, OfStates) {
  EXPECT_EQ(OutcomeOf(v1::SESSION_STATE_TRANSFERRING), v1::SESSION_OUTCOME_UNSPECIFIED);
  // Whether a VM moved or was given back, its session is finalized: the end says which.
  EXPECT_EQ(OutcomeOf(v1::SESSION_STATE_FINALIZED), v1::SESSION_OUTCOME_UNSPECIFIED);
  EXPECT_EQ(OutcomeOf(v1::SESSION_STATE_CANCELLING), v1::SESSION_OUTCOME_CANCELLED);
  EXPECT_EQ(OutcomeOf(v1::SESSION_STATE_FAILED), v1::SESSION_OUTCOME_FAILED);
}

constexpr v1::MigrationOrigin kSource = v1::MIGRATION_ORIGIN_SOURCE;
constexpr v1::MigrationOrigin kDestination = v1::MIGRATION_ORIGIN_DESTINATION;

TEST(EndReason, GoesToTheOtherSideAsADetail) {
  const EndReason cancelled = CalledOff(kSource, "changed my mind");
  EXPECT_EQ(ToDetail(cancelled), "[cancelled source cancelled] changed my mind");
  const EndReason failed{v1::SESSION_OUTCOME_FAILED, kDestination, "connection_lost",
                         "reset] by peer"};
  for (const EndReason& reason : {cancelled, failed}) {
    EXPECT_EQ(FromDetail(ToDetail(reason), kSource), reason);
  }
}

TEST(EndReason, WhatWasNotWrittenSoIsAMessage) {
  for (const char* text :
       {"", "the disk is full", "[", "[failed] x", "[failed nowhere w] x", "[lost source w] x",
        "[failed source two words] x", "[failed source ] x"}) {
    const EndReason reason = FromDetail(text, kDestination);
    EXPECT_EQ(reason.outcome, v1::SESSION_OUTCOME_FAILED) << text;
    EXPECT_EQ(reason.began_at, kDestination) << text;
    EXPECT_EQ(reason.message, text);
    EXPECT_NE(reason.word, "");
  }
}

TEST(EndReason, TellsWhereItBeganAndNotWhoNoticedIt) {
  const EndReason there{v1::SESSION_OUTCOME_FAILED, kDestination, "w", ""};
  const EndReason here{v1::SESSION_OUTCOME_FAILED, kSource, "w", ""};
  for (const v1::MigrationOrigin teller : {kSource, kDestination}) {
    EXPECT_EQ(PhaseStateOf(there, teller), v1::MIGRATION_PHASE_STATE_DESTINATION_FAILED);
    EXPECT_EQ(PhaseStateOf(here, teller), v1::MIGRATION_PHASE_STATE_SOURCE_FAILED);
    EXPECT_EQ(PhaseStateOf(CalledOff(kSource, ""), teller), v1::MIGRATION_PHASE_STATE_CANCELLED);
  }
  EndReason guest = CalledOff(kSource, "");
  guest.word = kGuestShutdown;
  EXPECT_EQ(PhaseStateOf(guest, kSource), v1::MIGRATION_PHASE_STATE_GUEST_INITIATED_CANCELLATION);
  EXPECT_EQ(PhaseStateOf(guest, kDestination), v1::MIGRATION_PHASE_STATE_CANCELLED);
}

TEST(SessionOutcome, EveryDefeatHasAReason) {
  EXPECT_EQ(DefaultReason(v1::SESSION_OUTCOME_SUCCEEDED), "");
  for (const auto outcome :
       {v1::SESSION_OUTCOME_CANCELLED, v1::SESSION_OUTCOME_FAILED, v1::SESSION_OUTCOME_UNKNOWN}) {
    EXPECT_NE(DefaultReason(outcome), "");
  }
}

}  // namespace
}  // namespace ferry::migration
