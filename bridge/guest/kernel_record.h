#pragma once

#include <optional>
#include <string_view>

#include "bridge/protocol/log_record.h"

namespace ferry::bridge {

// One read of /dev/kmsg (Linux: Documentation/ABI/testing/dev-kmsg).
struct KernelRecord {
  LogRecord record;
  bool from_kernel = false;  // otherwise a process wrote it
};

// nullopt if it is none. The record's number is the kernel's plus one, because ours begin with 1.
std::optional<KernelRecord> ParseKernelRecord(std::string_view text);

// What the host is told of: warnings of the kernel and worse, and all that processes write there.
bool WorthTelling(const KernelRecord& record);

}  // namespace ferry::bridge
