#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// Sizes, durations and times as people write and read them.
namespace ferry::ctl {

// "256M", "1G", "64K", "4096": powers of 1024, nothing else.
absl::StatusOr<uint64_t> ParseSize(absl::string_view text);
// The same of a VM's memory, in MiB.
absl::StatusOr<uint64_t> ParseMemory(absl::string_view text);

// "10ms", "2s", "1m" in milliseconds; the unit is required.
absl::StatusOr<uint32_t> ParseDurationMs(absl::string_view text);

// A signal's number or name, with or without "SIG".
absl::StatusOr<uint32_t> ParseSignal(absl::string_view text);

// "1.5 GiB".
std::string FormatSize(uint64_t bytes);
// "850 ms", "12.3 s", "4 min 5 s".
std::string FormatMs(double ms);
// "3 hours".
std::string FormatAge(uint64_t ms);
// "2026-01-31T12:00:00Z"; "-" for 0.
std::string FormatTime(uint64_t unix_ms);

}  // namespace ferry::ctl
