#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "guestmanager/spool.h"

namespace ferry::guest {

// Position in a stdio stream: an absolute offset in a generation. A new generation begins when a
// guest is put back to an earlier state, because then bytes are written again.
struct StreamPosition {
  uint32_t generation = 0;
  uint64_t offset = 0;
  bool operator==(const StreamPosition&) const = default;
};

enum class Stream { kStdin, kStdout, kStderr };

// A part of what a host keeps of a detached process's output.
struct KeptOutput {
  StreamPosition start;  // of `bytes`
  std::string bytes;
  uint64_t end = 0;           // of the byte behind the last one that is kept
  uint64_t went_back_at = 0;  // what is behind was written since its guest was put back; 0: never
  bool ended = false;         // the stream ends there
};

// What the spool has from the byte `since` on, or from its oldest; at most `limit` bytes.
KeptOutput ReadKept(const Spool& spool, uint64_t since, size_t limit);

// The output of a process that is not detached goes to whoever is attached to it.
absl::Status NothingKept();

}  // namespace ferry::guest
