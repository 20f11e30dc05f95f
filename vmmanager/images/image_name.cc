#include "vmmanager/images/image_name.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "vmmanager/layers/byte_source.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::vm {
namespace {

constexpr size_t kMaxImageName = 255;
constexpr size_t kMaxTag = 128;
constexpr char kUsualTag[] = "latest";
constexpr absl::string_view kDigestWord = "sha256:";
constexpr size_t kShortId = 12;
constexpr size_t kWholeId = 64;

bool IsWordChar(char c) { return absl::ascii_islower(c) || absl::ascii_isdigit(c); }

// Begins and ends with a letter or a digit.
bool IsNamePart(absl::string_view part) {
  if (part.empty() || !IsWordChar(part.front()) || !IsWordChar(part.back())) return false;
  return std::all_of(part.begin(), part.end(),
                     [](char c) { return IsWordChar(c) || c == '.' || c == '_' || c == '-'; });
}

bool IsPort(absl::string_view text) {
  return !text.empty() && text.size() <= 5 &&
         std::all_of(text.begin(), text.end(), absl::ascii_isdigit);
}

bool IsName(absl::string_view name) {
  const std::vector<absl::string_view> parts = absl::StrSplit(name, '/');
  for (size_t i = 0; i < parts.size(); ++i) {
    absl::string_view part = parts[i];
    const size_t colon = part.find(':');
    if (i == 0 && parts.size() > 1 && colon != absl::string_view::npos) {
      if (!IsPort(part.substr(colon + 1))) return false;
      part = part.substr(0, colon);
    }
    if (!IsNamePart(part)) return false;
  }
  return true;
}

bool IsTag(absl::string_view tag) {
  if (tag.empty() || tag.size() > kMaxTag || tag.front() == '.' || tag.front() == '-') return false;
  return std::all_of(tag.begin(), tag.end(), [](char c) {
    return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-';
  });
}

bool IsHex(absl::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return absl::ascii_isdigit(c) || (c >= 'a' && c <= 'f'); });
}

}  // namespace

std::string ImageIdBegin(absl::string_view text) {
  absl::ConsumePrefix(&text, kDigestWord);
  const bool fits = text.size() >= kShortId && text.size() <= kWholeId && IsHex(text);
  return fits ? absl::StrCat(kDigestWord, text) : "";
}

absl::StatusOr<std::string> FullImageName(absl::string_view text) {
  absl::string_view name = text;
  absl::string_view tag = kUsualTag;
  const size_t colon = text.rfind(':');
  if (colon != absl::string_view::npos && text.find('/', colon) == absl::string_view::npos) {
    name = text.substr(0, colon);
    tag = text.substr(colon + 1);
  }
  std::string full = absl::StrCat(name, ":", tag);
  const bool id = layers::IsDigest(text) || layers::IsDigest(absl::StrCat(kDigestWord, name));
  if (!id && full.size() <= kMaxImageName && IsName(name) && IsTag(tag)) return full;
  return rpc::ErrorWithReason(
      absl::StatusCode::kInvalidArgument,
      absl::StrCat("\"", text.substr(0, kMaxImageName), "\" is no name for an image"),
      "bad_image_name", "Write for example web, web:1.2 or team/web:1.2, in lower case.");
}

}  // namespace ferry::vm
