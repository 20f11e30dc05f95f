#pragma once

#include <string>

#include "ferry/v1/migration.pb.h"

// How a session ends, as far as its state and its last notification tell.
namespace ferry::migration {

// The verdict that comes with entering a state; UNSPECIFIED if none does.
v1::SessionOutcome OutcomeOf(v1::SessionState state);

// The verdict of a session that ends with this notification without having had one before.
v1::SessionOutcome OutcomeOfEnd(v1::MigrationPhase phase, v1::MigrationPhaseState state);

// The word for machines where no error has given a better one.
std::string DefaultReason(v1::SessionOutcome outcome);

}  // namespace ferry::migration
