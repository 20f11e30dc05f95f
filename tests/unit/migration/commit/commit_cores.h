#pragma once

#include <cstdint>

#include "migration/commit/commit_core.h"
#include "tests/unit/migration/commit/commit_world.h"

// The cores of a modelled world's session `s`, as their drivers hold them, and what they say.
namespace ferry::migration::model {

SourceCommit SourceCoreOf(const Session& session, int s);
DestinationCommit DestinationCoreOf(const World& world, int s);
// Says that the VM's disks have come.
void HasDisks(DestinationCommit& core);

// What one side of the session says, as it would write it.
Proof MakeProof(const Session& session, int s, ProofKind kind, bool from_source);

// The message that carries it; none if the model leaves it out.
uint8_t MessageOf(ProofKind kind);

}  // namespace ferry::migration::model
