#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ferry/state/v1/saved_state.pb.h"
#include "guestmanager/guest.h"

// The saved state's two parts: made, checked and taken apart. Whatever is not exactly understood is
// refused whole: INVALID_ARGUMENT for malformed or out-of-range content, FAILED_PRECONDITION for
// another version or unknown critical fields, DATA_LOSS for damage.
namespace ferry::vm {

inline constexpr uint32_t kStateSchemaVersion = 1;
inline constexpr size_t kMaxProcesses = 4096;
inline constexpr size_t kMaxSpoolBytes = 16 * 1024 * 1024;
// Of all containers together, what they have printed.
inline constexpr size_t kMaxContainerOutput = 16 * 1024 * 1024;

struct PlanState {
  std::string session_id;
  std::string source_address;
  std::string source_journal_id;
  std::string init_options_json;  // of the source; empty: it does not say
  state::v1::VmPayload vm;        // schema_version is filled by EncodePlan
};

struct CutState {
  std::string session_id;
  std::string vm_id;
  std::string plan_sha256;  // PlanDigest of the plan's envelope
  guest::GuestState guest;
  std::string guest_link;
  bool paused_by_user = false;
  std::vector<state::v1::ContainerRecord> containers;  // as they are at the cut
  std::vector<std::string> copied_disks;               // the destination has all of them
};

// To and from the sealed envelope.
absl::StatusOr<std::string> EncodePlan(const PlanState& plan);
absl::StatusOr<PlanState> DecodePlan(std::string_view envelope);
absl::StatusOr<std::string> EncodeCut(const CutState& cut);
// `plan_envelope` is the plan that the cut must belong to.
absl::StatusOr<CutState> DecodeCut(std::string_view envelope, std::string_view plan_envelope);
std::string PlanDigest(std::string_view plan_envelope);

// GuestPayload bytes without an envelope, for the host's own store.
absl::StatusOr<std::string> EncodeGuest(const guest::GuestState& state);
absl::StatusOr<guest::GuestState> DecodeGuest(std::string_view bytes);

std::string ProcessSpecToJson(const guest::ProcessSpec& spec);
absl::StatusOr<guest::ProcessSpec> ProcessSpecFromJson(std::string_view json);

// Whether a cut with these processes fits into `limit` bytes, also if their spools fill up until
// then. FAILED_PRECONDITION says by how much it does not.
absl::Status CheckCutFits(const guest::GuestState& state, size_t limit);

}  // namespace ferry::vm
