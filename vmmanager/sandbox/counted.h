#pragma once

#include <cstddef>

namespace ferry::vm {

// One more of what `count` counts, as long as it lives.
class Counted {
 public:
  explicit Counted(size_t* count) : count_(count) { ++*count_; }
  ~Counted() { --*count_; }
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;

 private:
  size_t* const count_;
};

}  // namespace ferry::vm
