#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "tests/unit/migration/commit/commit_steps.h"

// The search through all worlds that the steps lead to.
namespace ferry::migration::model {

// All of a world but the faults that were spent on the way to it, and those faults.
uint64_t Situation(const World& world);
uint16_t Spent(const World& world);
World Unpack(uint64_t situation, uint16_t spent);

struct Verdict {
  std::string violation;           // empty: none
  std::vector<std::string> trace;  // the steps that lead to it
  size_t worlds = 0;               // that were looked at
};

// Looks at every world that can be reached, and that each can still be settled once nothing fails
// any more.
Verdict Check(const Faults& faults, Mistake mistake);

}  // namespace ferry::migration::model
