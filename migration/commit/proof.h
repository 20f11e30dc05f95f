#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace ferry::migration {

// What one side of the commit protocol proves to the other. A proof states what its writer has made
// durable in its journal, so whoever holds it may act on it whenever and however it arrived.
enum class ProofKind : uint8_t {
  kPrepared = 1,  // destination: state loaded and verified; waits, and runs nothing
  kGo = 2,        // source: COMMIT is written; the source never runs this VM again on its own
  kRefused = 3,   // destination: REFUSED is written; it never runs this VM in this session
  kDone = 4,      // destination: it runs the VM
  kAbort = 5,     // source: ABORT is written; the destination must refuse
  kForced = 6,    // source: FORCED is written; any copy at the destination is stale and must end
};

struct Proof {
  ProofKind kind = ProofKind::kPrepared;
  std::string session_id;
  std::string vm_id;
  uint64_t epoch = 0;        // of the VM's ownership that this proof speaks about
  std::string plan_digest;   // SHA-256 of the sealed plan: ties the proof to one configuration
  std::string state_digest;  // SHA-256 of the sealed cut; empty where none was seen
  std::string journal_id;    // the writer's journal and where it stood
  uint64_t journal_sequence = 0;
  std::string journal_hash;
  std::string detail;  // for people and statistics, not part of any decision
  // The newest record of the reader's journal that the writer was told of in this session, so that
  // the reader notices if its journal was put back to an earlier state. 0: of none.
  uint64_t heard_sequence = 0;
  std::string heard_hash;

  bool operator==(const Proof&) const = default;
};

// Opaque bytes, authenticated with `key` (both sides know the plan's digest; HMAC-SHA256), so that
// a proof that was cut, altered or made for another session is refused. A detail that is too long
// is cut.
std::string EncodeProof(const Proof& proof, std::string_view key);

// INVALID_ARGUMENT if the bytes are no proof, PERMISSION_DENIED if they were not made with `key`.
absl::StatusOr<Proof> DecodeProof(std::string_view bytes, std::string_view key);

// At the end of a DONE's detail: the VM was granted, and ended before it ran.
inline constexpr char kLostMark[] = " lost";

std::string_view ToString(ProofKind kind);

}  // namespace ferry::migration
