#include "guestmanager/spool.h"

#include <algorithm>

namespace ferry::guest {

bool Spool::HasRoom(uint64_t keep_from) const {
  return keep_from >= end() || end() - std::max(keep_from, start_) < capacity_;
}

void Spool::SetCapacity(size_t capacity, uint64_t keep_from) {
  capacity_ = capacity;
  Append("", keep_from);
}

void Spool::Append(std::string_view data, uint64_t keep_from) {
  bytes_.append(data);
  if (bytes_.size() <= capacity_) return;
  const uint64_t unprotected = keep_from > start_ ? keep_from - start_ : 0;
  const uint64_t drop = std::min<uint64_t>(bytes_.size() - capacity_, unprotected);
  bytes_.erase(0, drop);
  start_ += drop;
}

std::string_view Spool::Read(uint64_t offset, size_t limit) const {
  if (offset < start_ || offset >= end()) return {};
  return std::string_view(bytes_).substr(offset - start_, limit);
}

}  // namespace ferry::guest
