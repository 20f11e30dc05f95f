#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

struct XXH3_state_s;

namespace ferry::migration {

// Length and XXH3-128 of the bytes that went over a channel in one direction.
struct StreamDigest {
  uint64_t bytes = 0;
  uint64_t low = 0;
  uint64_t high = 0;

  std::string ToHex() const;
  friend bool operator==(const StreamDigest&, const StreamDigest&) = default;
};

// Computes a StreamDigest as bytes pass by.
class StreamHasher {
 public:
  StreamHasher();
  void Update(std::string_view bytes);
  // Of everything so far; more may follow.
  StreamDigest Digest() const;

 private:
  struct Free {
    void operator()(XXH3_state_s* state) const;
  };
  std::unique_ptr<XXH3_state_s, Free> state_;
  uint64_t bytes_ = 0;
};

}  // namespace ferry::migration
