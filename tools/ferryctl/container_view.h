#pragma once

#include <optional>
#include <string>
#include <vector>

#include "ferry/v1/container.pb.h"

// How containers look.
namespace ferry::ctl {

std::string ContainerTable(const v1::ListContainersResponse& response);
std::string ContainerDetails(const v1::Container& container);
// "web running".
std::string ContainerLine(const v1::Container& container);
// "running", "stopped" and so on.
std::string ContainerStateName(v1::ContainerState state);

// A container's numbers, and those of a moment before if there are any.
struct StatsSample {
  std::string name, vm;
  std::optional<v1::ContainerStats> before;
  v1::ContainerStats now;
};

// Of one CPU, between the two; nullopt if they tell nothing.
std::optional<double> CpuPercent(const v1::ContainerStats& before, const v1::ContainerStats& now);
std::string StatsTable(const std::vector<StatsSample>& samples);

}  // namespace ferry::ctl
