#pragma once

#include <boost/json/value.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "vmmanager/backend/backend_info.h"

namespace ferry::vm {

// The CPU models of a QEMU binary under one accelerator, each with what this host lacks of it.
Task<absl::StatusOr<std::vector<CpuModel>>> ProbeCpuModels(std::string binary,
                                                           std::string accelerator);

// From QMP's answers to query-cpu-definitions and query-cpu-model-expansion ("static").
std::vector<CpuModel> CpuModelsFrom(const boost::json::value& definitions);
std::vector<std::string> FeaturesFrom(const boost::json::value& expansion);

// Models that mean another thing on each host.
bool IsHostDependent(const std::string& cpu_model);

}  // namespace ferry::vm
