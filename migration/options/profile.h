#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "ferry/v1/migration.pb.h"

namespace ferry::migration {

// Completes the options of a one-call migration with what `profile` stands for; what is set wins.
// The daemons make its connection themselves, so the memory's transport need not be named either.
// docs/migration-options.md lists it all. INVALID_ARGUMENT if there is no such profile.
absl::Status ExpandProfile(v1::MigrationProfile profile, v1::InitializeOptions& options);

// The time that a migration of this profile may take if its caller sets no limit, in ms; 0: any.
uint64_t DefaultTimeLimitMs(v1::MigrationProfile profile);

}  // namespace ferry::migration
