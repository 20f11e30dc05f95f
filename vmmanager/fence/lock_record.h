#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace ferry::vm {

// What a lock file says of who locked it last: a hint for people and for a host whose own record is
// outdated. Whoever may write there may have written it.
struct LockRecord {
  uint64_t epoch = 0;
  std::string host_id;  // of the host's journal, so of its state folder; printable, without spaces
  std::string address;  // for people; hosts may share one
  bool operator==(const LockRecord&) const = default;
};

// A record has the same length always, so that a newer one covers all of an older one. An address
// that is too long is cut.
inline constexpr size_t kLockRecordBytes = 256;

std::string EncodeLockRecord(const LockRecord& record);

// nullopt if it is none.
std::optional<LockRecord> DecodeLockRecord(std::string_view text);

}  // namespace ferry::vm
