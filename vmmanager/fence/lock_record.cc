#include "vmmanager/fence/lock_record.h"

#include <algorithm>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace ferry::vm {
namespace {

constexpr char kLockMagic[] = "ferry-lock 1 ";
constexpr size_t kMaxHostId = 64;

bool IsGraph(unsigned char c) { return absl::ascii_isgraph(c); }

bool IsWord(absl::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), IsGraph);
}

// What would not be read back.
std::string AsWord(std::string text) {
  if (text.empty()) return "-";
  std::replace_if(
      text.begin(), text.end(), [](unsigned char c) { return !IsGraph(c); }, '?');
  return text;
}

}  // namespace

std::string EncodeLockRecord(const LockRecord& record) {
  std::string text =
      absl::StrCat(kLockMagic, record.epoch, " ", AsWord(record.host_id.substr(0, kMaxHostId)), " ",
                   AsWord(record.address));
  text.resize(kLockRecordBytes - 1, ' ');
  return text + "\n";
}

std::optional<LockRecord> DecodeLockRecord(std::string_view text) {
  text = text.substr(0, kLockRecordBytes);
  if (!text.starts_with(kLockMagic)) return std::nullopt;
  text.remove_prefix(std::string_view(kLockMagic).size());
  const absl::string_view rest =
      absl::StripAsciiWhitespace(absl::string_view(text.data(), text.size()));
  const std::vector<absl::string_view> words = absl::StrSplit(rest, ' ');
  LockRecord record;
  if (words.size() != 3 || !absl::SimpleAtoi(words[0], &record.epoch) || !IsWord(words[1]) ||
      words[1].size() > kMaxHostId || !IsWord(words[2])) {
    return std::nullopt;
  }
  record.host_id = std::string(words[1]);
  record.address = std::string(words[2]);
  return record;
}

}  // namespace ferry::vm
