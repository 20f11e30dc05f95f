#pragma once

#include <sys/resource.h>

// How many files this process may have open. Synchronous.
namespace ferry::bridge {

// The limit that this process was started with; what it starts gets the same.
const struct rlimit& InheritedOpenFiles();

// Raises this process's own limit as far as it is allowed to, up to what an agent can ever need:
// each process of a container costs it a handful of descriptors. Call it before threads are
// started.
void AllowManyOpenFiles();

}  // namespace ferry::bridge
