#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

// What all fuzzers share. Each defines LLVMFuzzerTestOneInput and Seeds.
namespace ferry::fuzz {

// Inputs to start from, made with the encoders of what is tested.
std::vector<std::string> Seeds();

inline void Check(bool holds) {
  if (!holds) std::abort();
}

// Takes an input apart from its front. Beyond the end there are zeros.
class Input {
 public:
  Input(const uint8_t* data, size_t size) : rest_(reinterpret_cast<const char*>(data), size) {}

  bool empty() const { return rest_.empty(); }
  uint8_t Byte() {
    if (rest_.empty()) return 0;
    const auto byte = static_cast<uint8_t>(rest_.front());
    rest_.remove_prefix(1);
    return byte;
  }
  std::string_view Take(size_t size) {
    const std::string_view taken = rest_.substr(0, size);
    rest_.remove_prefix(taken.size());
    return taken;
  }
  std::string_view Rest() { return Take(rest_.size()); }

 private:
  std::string_view rest_;
};

// An input that Byte() and Take(Byte()) read back: a number, then a short text with its length.
inline std::string Part(int number, std::string_view text) {
  text = text.substr(0, 255);
  std::string out;
  out.push_back(static_cast<char>(number));
  out.push_back(static_cast<char>(text.size()));
  return out.append(text);
}

}  // namespace ferry::fuzz
