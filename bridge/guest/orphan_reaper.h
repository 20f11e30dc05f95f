#pragma once

#include <functional>
#include <vector>

#include "bridge/runtime/async.h"

namespace ferry::bridge {

// The duty of process 1: collects every child that ends and that nobody is going to ask for.
// `owned(pid)` says which children's statuses are still owed to somebody. Runs until cancelled.
Task<void> ReapOrphans(std::function<bool(uint32_t pid)> owned);

// This process's children, living and dead.
std::vector<pid_t> ListChildren();

}  // namespace ferry::bridge
