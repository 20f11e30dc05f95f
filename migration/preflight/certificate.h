#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace ferry::migration {

// Until when the first certificate of a PEM file is valid, in Unix milliseconds.
absl::StatusOr<int64_t> CertificateExpiry(const std::string& path);

}  // namespace ferry::migration
