#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "vmmanager/backend/backend_conformance.h"

// What the cases of the conformance suite are made of. For the suite's own files only.

// Assertions of GoogleTest that return do not fit into coroutines, so a case that cannot go on ends
// by REQUIRE_OK.
#define REQUIRE_OK(expr)                          \
  do {                                            \
    const absl::Status required = (expr);         \
    if (!required.ok()) {                         \
      ADD_FAILURE() << #expr << ": " << required; \
      co_return;                                  \
    }                                             \
  } while (false)

namespace ferry::vm::conformance {

inline constexpr char kVmId[] = "6f1c1f0e-8d5c-4f0b-9a55-0d7a5f6b1c01";
inline constexpr auto kWrongOrder = absl::StatusCode::kFailedPrecondition;

struct Context {
  BackendFixture& fixture;
  Executor executor;
  std::unique_ptr<ComputeSystem> source;
  std::unique_ptr<ComputeSystem> destination;
  MigrationEndpoint endpoint;

  // The transfers' ends.
  absl::Status source_result;
  absl::Status destination_result;
  AsyncEvent source_over{executor};
  AsyncEvent destination_over{executor};
};

struct Case {
  const char* name;
  Task<void> (*run)(Context&);
};

std::span<const Case> SavingCases();
std::span<const Case> MigrationCases();
std::span<const Case> SnapshotCases();
std::span<const Case> OverlayCases();

Task<absl::Status> MakeSource(Context& context, bool start = true);
Task<absl::Status> MakeDestination(Context& context);
Task<absl::Status> StartOnSource(Context& context);
Task<absl::Status> MakePair(Context& context);
void SpawnTransfers(Context& context, TransferHooks hooks);
Task<void> JoinTransfers(Context& context);
Task<schema::SystemState> StateOf(ComputeSystem& system);
Task<absl::Status> Finalize(ComputeSystem& system, schema::MigrationOrigin origin,
                            schema::MigrationFinalOperation operation);
Task<absl::Status> Cancel(ComputeSystem& system, schema::MigrationOrigin origin);
// Everything that was told so far; never waits.
Task<std::vector<SystemEvent>> Told(ComputeSystem& system);
std::vector<schema::MigrationEventName> Phases(const std::vector<SystemEvent>& events);
Task<void> ExpectRuns(Context& context, ComputeSystem& system);

}  // namespace ferry::vm::conformance
