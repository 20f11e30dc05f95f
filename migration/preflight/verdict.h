#pragma once

#include <string>

#include "absl/status/status.h"
#include "ferry/v1/migration.pb.h"

// One check's outcome.
namespace ferry::migration {

v1::PreflightCheck Passed(const std::string& name, const std::string& found);
v1::PreflightCheck Warned(const std::string& name, const std::string& found,
                          const std::string& fix);
v1::PreflightCheck Failed(const std::string& name, const std::string& found,
                          const std::string& fix);
// Passed with `found` if `status` is OK, else failed with its text.
v1::PreflightCheck PassedIf(const std::string& name, const absl::Status& status,
                            const std::string& found, const std::string& fix);

}  // namespace ferry::migration
