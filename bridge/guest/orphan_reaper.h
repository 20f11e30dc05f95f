#pragma once

#include <functional>
#include <vector>

#include "bridge/runtime/async.h"

namespace ferry::bridge {

// Whether a child's status is still owed to somebody.
using IsOwned = std::function<bool(uint32_t pid)>;

// The duty of process 1: collects every child that ends and that nobody is going to ask for. Runs
// until cancelled.
Task<void> ReapOrphans(IsOwned owned);

// Collects those that have ended by now.
void CollectOrphans(const IsOwned& owned);

// This process's children, living and dead.
std::vector<pid_t> ListChildren();

}  // namespace ferry::bridge
