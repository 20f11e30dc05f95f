#include "bridge/guest/kernel_record.h"

#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"

namespace ferry::bridge {

std::optional<KernelRecord> ParseKernelRecord(std::string_view text) {
  // "priority,number,microseconds,flags[,more];text\n", then lines of " KEY=value".
  const size_t head_end = text.find(';');
  if (head_end == std::string_view::npos) return std::nullopt;
  const std::vector<std::string> head =
      absl::StrSplit(absl::string_view(text.data(), head_end), ',');
  uint32_t priority = 0;
  uint64_t number = 0;
  if (head.size() < 3 || !absl::SimpleAtoi(head[0], &priority) ||
      !absl::SimpleAtoi(head[1], &number)) {
    return std::nullopt;
  }
  std::string_view message = text.substr(head_end + 1);
  message = message.substr(0, message.find('\n'));
  // A priority is a level and, above its three bits, a facility; the kernel's own is 0.
  KernelRecord parsed;
  parsed.from_kernel = (priority >> 3) == 0;
  parsed.record = {.sequence = number + 1,
                   .level = static_cast<LogLevel>(priority & 7),
                   .message = std::string(message)};
  return parsed;
}

bool WorthTelling(const KernelRecord& record) {
  return !record.from_kernel || record.record.level <= LogLevel::kWarning;
}

}  // namespace ferry::bridge
