#pragma once

#include <boost/json/object.hpp>
#include <string>

#include "absl/status/status.h"
#include "ferry/v1/container.pb.h"

// What a container may take of its VM. No I/O.
namespace ferry::vm {

// INVALID_ARGUMENT, naming the limit and its range.
absl::Status CheckLimits(const v1::ContainerLimits& limits);

// `changes` over `limits`: what is not set in it stays.
v1::ContainerLimits MergeLimits(const v1::ContainerLimits& limits,
                                const v1::ContainerLimits& changes);

// OCI's LinuxResources, with what is set alone.
boost::json::object LimitsToResources(const v1::ContainerLimits& limits);

}  // namespace ferry::vm
