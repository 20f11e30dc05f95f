#include "tools/ferryctl/detach_keys.h"

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace ferry::ctl {
namespace {

constexpr absl::string_view kControl = "ctrl-";

// The byte that a terminal sends for the key; -1 if that is no key's name.
int KeyOf(absl::string_view name) {
  if (name.size() == 1 && absl::ascii_isprint(name[0])) return name[0];
  if (name.size() != kControl.size() + 1 || !absl::StartsWithIgnoreCase(name, kControl)) return -1;
  const char key = absl::ascii_toupper(name.back());
  return key >= '@' && key <= '_' ? key - '@' : -1;
}

}  // namespace

absl::StatusOr<DetachKeys> DetachKeys::Parse(absl::string_view text) {
  DetachKeys keys;
  keys.keys_.clear();
  if (text.empty()) return keys;
  for (const absl::string_view name : absl::StrSplit(text, ',')) {
    const int key = KeyOf(name);
    if (key < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", name, "\" is no key; use characters, or ctrl- and a letter, as in ",
                       "ctrl-p,ctrl-q"));
    }
    keys.keys_.push_back(static_cast<char>(key));
  }
  return keys;
}

std::string DetachKeys::Pass(absl::string_view typed, bool* left) {
  *left = false;
  std::string passed;
  if (keys_.empty()) return std::string(typed);
  for (const char key : typed) {
    if (key == keys_[held_]) {
      if (++held_ < keys_.size()) continue;
      held_ = 0;
      *left = true;
      return passed;
    }
    // What was held back was meant for the process, but for a new beginning in its end.
    std::string held = keys_.substr(0, held_) + key;
    held_ = 0;
    size_t skip = 1;
    while (skip < held.size() &&
           held.compare(skip, std::string::npos, keys_, 0, held.size() - skip) != 0) {
      ++skip;
    }
    held_ = held.size() - skip;
    passed.append(held, 0, skip);
  }
  return passed;
}

}  // namespace ferry::ctl
