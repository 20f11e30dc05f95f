#include "migration/session/session_outcome.h"

namespace ferry::migration {

v1::SessionOutcome OutcomeOf(v1::SessionState state) {
  switch (state) {
    case v1::SESSION_STATE_CANCELLING:
    case v1::SESSION_STATE_CANCELLED:
      return v1::SESSION_OUTCOME_CANCELLED;
    case v1::SESSION_STATE_FAILED:
      return v1::SESSION_OUTCOME_FAILED;
    default:
      return v1::SESSION_OUTCOME_UNSPECIFIED;
  }
}

v1::SessionOutcome OutcomeOfEnd(v1::MigrationPhase phase, v1::MigrationPhaseState state) {
  const bool success = state == v1::MIGRATION_PHASE_STATE_SUCCESS;
  if (success && phase == v1::MIGRATION_PHASE_DONE) return v1::SESSION_OUTCOME_SUCCEEDED;
  if (state == v1::MIGRATION_PHASE_STATE_CANCELLED) return v1::SESSION_OUTCOME_CANCELLED;
  return v1::SESSION_OUTCOME_FAILED;
}

std::string DefaultReason(v1::SessionOutcome outcome) {
  switch (outcome) {
    case v1::SESSION_OUTCOME_CANCELLED:
      return "cancelled";
    case v1::SESSION_OUTCOME_FAILED:
      return "failed";
    case v1::SESSION_OUTCOME_UNKNOWN:
      return "daemon_stopped";
    default:
      return "";
  }
}

}  // namespace ferry::migration
