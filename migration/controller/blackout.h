#pragma once

#include <optional>
#include <vector>

#include "absl/strings/string_view.h"

// What a migration's blackout took, from two hosts' clocks that need not agree. All in
// milliseconds.
namespace ferry::migration {

// What the destination has measured by its own clock.
struct DestinationTimes {
  double one_way = 0;                // half of the session connection's round trip; 0: not known
  std::optional<double> since_vote;  // from sending its vote to the running VM; nullopt: the daemon
                                     // that voted is not this one
  double since_go = 0;               // from receiving GO to the running VM
};

struct Blackout {
  double total = 0;   // STOP on the source until RESUME on the destination
  double device = 0;  // of it: until the source had the destination's vote
  double commit = 0;  // of it: until COMMIT was in the source's journal
  double resume = 0;  // the rest
};

// The first `count` numbers of a text that a peer sent, one space between each. nullopt unless all
// are there and could be times.
std::optional<std::vector<double>> TimesIn(absl::string_view text, size_t count);

// From what the source says in the detail of its GO: until that was made, and of it until the vote
// and from the vote on. One clock measures what comes after the vote, so that whoever carried GO,
// and however long, counts; the vote's own way is taken to be half a round trip. Without the time
// of the vote it is GO's way that is. nullopt if the source's text says nothing of it.
std::optional<Blackout> MeasureBlackout(absl::string_view said, const DestinationTimes& times);

}  // namespace ferry::migration
