#pragma once

#include <string>
#include <string_view>

#include "ferry/v1/migration.pb.h"

// How a session ends, and what one side tells the other about it.
namespace ferry::migration {

// Why a session ends without having moved its VM.
struct EndReason {
  v1::SessionOutcome outcome = v1::SESSION_OUTCOME_FAILED;  // or CANCELLED
  // Where it began, whoever notices it.
  v1::MigrationOrigin began_at = v1::MIGRATION_ORIGIN_UNSPECIFIED;
  std::string word;       // for machines, e.g. "transfer_stalled"
  std::string message;    // for people
  std::string next_step;  // what they can do about it; not part of a detail

  bool operator==(const EndReason&) const = default;
};

// Somebody called it off.
EndReason CalledOff(v1::MigrationOrigin by, const std::string& message);

// As the detail of a proof, "[failed destination connection_lost] the message". What was not
// written so is taken for a message: the session failed, at `writer`.
std::string ToDetail(const EndReason& reason);
EndReason FromDetail(std::string_view detail, v1::MigrationOrigin writer);

// The guest ended itself meanwhile.
inline constexpr char kGuestShutdown[] = "guest_shutdown";
inline constexpr char kGuestReset[] = "guest_reset";
bool IsGuestInitiated(const EndReason& reason);

// The state of a terminal notification that `teller` publishes: only a source knows of
// GUEST_INITIATED_CANCELLATION.
v1::MigrationPhaseState PhaseStateOf(const EndReason& reason, v1::MigrationOrigin teller);

// The verdict that comes with entering a state; UNSPECIFIED if none does.
v1::SessionOutcome OutcomeOf(v1::SessionState state);

// The word for machines where no error has given a better one.
std::string DefaultReason(v1::SessionOutcome outcome);

}  // namespace ferry::migration
