#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace ferry::guest {

// The newest bytes of one output stream with their absolute offsets, bounded. What nobody protects
// (see Append) is dropped, the oldest first.
class Spool {
 public:
  explicit Spool(size_t capacity) : capacity_(capacity) {}
  Spool(size_t capacity, uint64_t start, std::string bytes)
      : capacity_(capacity), start_(start), bytes_(std::move(bytes)) {}

  size_t capacity() const { return capacity_; }
  uint64_t start() const { return start_; }
  uint64_t end() const { return start_ + bytes_.size(); }

  // Whether more may be stored while everything from `keep_from` must stay.
  bool HasRoom(uint64_t keep_from) const;

  // Stores, then drops the oldest bytes beyond the capacity, but none from `keep_from` on.
  void Append(std::string_view data, uint64_t keep_from);

  // The same with another capacity from here on.
  void SetCapacity(size_t capacity, uint64_t keep_from);

  // At most `limit` bytes from `offset`; valid until the next change. Empty outside of what is
  // kept.
  std::string_view Read(uint64_t offset, size_t limit) const;

  const std::string& bytes() const { return bytes_; }

 private:
  size_t capacity_;
  uint64_t start_ = 0;
  std::string bytes_;
};

}  // namespace ferry::guest
