#pragma once

#include <optional>

#include "absl/status/statusor.h"
#include "ferry/v1/migration.pb.h"
#include "vmmanager/schema/migration.h"

namespace ferry::migration {

// Each worker has a channel of the session connection, which carries 64, and QEMU one beside them.
inline constexpr uint32_t kMaxWorkers = 63;

// Converts the contract's options into the schema's. Unset and zero stay different; a value out of
// range is INVALID_ARGUMENT naming the field and its range, never wrapped or clamped. The memory
// transport must be TCP. Absent options are the defaults of docs/migration-options.md. The caller
// adds origin and compatibility data, which no client may set.
absl::StatusOr<schema::MigrationInitializeOptions> InitializeOptionsFromProto(
    const std::optional<v1::InitializeOptions>& options);

// FAILED_PRECONDITION, naming every option that both sides must agree on and do not. The others are
// each side's own affair, or the source's alone.
absl::Status CheckOptionsAgree(const schema::MigrationInitializeOptions& source,
                               const schema::MigrationInitializeOptions& destination);

}  // namespace ferry::migration
