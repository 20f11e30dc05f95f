#pragma once

#include <chrono>

namespace ferry::bridge {

// How long the host waits for the answer to FreezeFilesystems beyond the limit that it gave: the
// agent says in better words what it was late with.
constexpr std::chrono::milliseconds FreezeAnswerSlack(std::chrono::milliseconds limit) {
  return limit / 4;
}

// How long the agent waits for a disk that hangs when it thaws what it froze for so long, before it
// answers all the same: less than the host does.
constexpr std::chrono::milliseconds ThawPatience(std::chrono::milliseconds limit) {
  return FreezeAnswerSlack(limit) / 2;
}

}  // namespace ferry::bridge
