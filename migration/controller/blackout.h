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
  double since_go = 0;               // from receiving GO to the running VM
  std::optional<double> since_vote;  // from sending its vote to the running VM, where GO took its
                                     // time; nullopt: the session connection carried it
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
// and from the vote on. GO's way is taken to be half a round trip. Where it took its time, one
// clock measures all that comes after the vote, whose way is taken to be that instead; then what
// the source needed to notice the vote counts twice. nullopt if the text says nothing of it.
std::optional<Blackout> MeasureBlackout(absl::string_view said, const DestinationTimes& times);

}  // namespace ferry::migration
