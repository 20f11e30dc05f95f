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

TEST(SessionOutcome, OfEnds) {
  EXPECT_EQ(OutcomeOfEnd(v1::MIGRATION_PHASE_DONE, v1::MIGRATION_PHASE_STATE_SUCCESS),
            v1::SESSION_OUTCOME_SUCCEEDED);
  EXPECT_EQ(OutcomeOfEnd(v1::MIGRATION_PHASE_DONE, v1::MIGRATION_PHASE_STATE_CANCELLED),
            v1::SESSION_OUTCOME_CANCELLED);
  EXPECT_EQ(OutcomeOfEnd(v1::MIGRATION_PHASE_DONE, v1::MIGRATION_PHASE_STATE_DESTINATION_FAILED),
            v1::SESSION_OUTCOME_FAILED);
  // The recovery succeeded, the migration did not.
  EXPECT_EQ(OutcomeOfEnd(v1::MIGRATION_PHASE_RECOVERY_DONE, v1::MIGRATION_PHASE_STATE_SUCCESS),
            v1::SESSION_OUTCOME_FAILED);
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
