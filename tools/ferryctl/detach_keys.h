#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace ferry::ctl {

// Finds the keys with which a person leaves a process in what is typed to it. The first of them
// are held back until the next key shows what they are.
class DetachKeys {
 public:
  // Ctrl-P Ctrl-Q.
  DetachKeys() : keys_("\x10\x11") {}
  // Keys with commas between them, each a character or "ctrl-" and a letter or one of @[\]^_, as in
  // "ctrl-p,ctrl-q"; nothing at all: none leaves it.
  static absl::StatusOr<DetachKeys> Parse(absl::string_view text);

  // Returns what is for the process, and sets `*left` when all of the keys have come; what is
  // behind them is for nobody.
  std::string Pass(absl::string_view typed, bool* left);

 private:
  std::string keys_;
  size_t held_ = 0;  // how many of them have come
};

}  // namespace ferry::ctl
