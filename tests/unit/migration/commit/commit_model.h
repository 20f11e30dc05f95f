#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "tests/unit/migration/commit/commit_steps.h"

// The search through all worlds that the steps lead to.
namespace ferry::migration::model {

// All of a world but the faults that were spent on the way to it, as numbers.
struct Situation {
  uint64_t sessions = 0;
  uint64_t rest = 0;
  bool operator==(const Situation&) const = default;
};
Situation SituationOf(const World& world);
// And those faults.
uint16_t Spent(const World& world);
World Unpack(const Situation& situation, uint16_t spent);

struct Verdict {
  std::string violation;           // empty: none
  std::vector<std::string> trace;  // the steps that lead to it
  size_t worlds = 0;               // that were looked at
};

// Looks at every world that can be reached, and that each can still be settled once nothing fails
// any more.
Verdict Check(const Faults& faults, Mistake mistake, Disks disks = Disks::kShared);

}  // namespace ferry::migration::model
