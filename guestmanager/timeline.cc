#include "guestmanager/timeline.h"

#include <algorithm>

namespace ferry::guest {
namespace {

constexpr uint64_t kMsPerSecond = 1000;

void NoteWhere(StreamState* stream) {
  const uint64_t kept = stream->spool_start + stream->spool.size();
  stream->went_back_at = stream->spool.empty() ? stream->taken.offset : kept;
}

}  // namespace

void BeginTimeline(GuestState* state, uint32_t former, uint64_t now_unix_ms) {
  // Seconds, of which 32 bits have enough until 2106.
  const auto now = static_cast<uint32_t>(now_unix_ms / kMsPerSecond);
  state->timeline = std::max({state->timeline + 1, former + 1, now});
  for (auto* processes : {&state->processes, &state->starting}) {
    for (ProcessState& process : *processes) {
      NoteWhere(&process.std_out);
      NoteWhere(&process.std_err);
    }
  }
}

}  // namespace ferry::guest
