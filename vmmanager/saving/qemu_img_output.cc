#include "vmmanager/saving/qemu_img_output.h"

#include <algorithm>
#include <boost/json/parse.hpp>
#include <boost/json/value.hpp>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace ferry::vm {
namespace {

namespace json = boost::json;

constexpr uint32_t kQcow2Magic = 0x514649fb;
// As many as QEMU takes.
constexpr uint64_t kMostEntries = (uint64_t{32} << 20) / sizeof(uint64_t);
constexpr char kOfAll[] = "/100%)";

std::string TextOf(const json::object& object, const char* key) {
  const json::value* value = object.if_contains(key);
  const json::string* text = value == nullptr ? nullptr : value->if_string();
  return text == nullptr ? "" : std::string(text->data(), text->size());
}

bool IsTrue(const json::object& object, const char* key) {
  const json::value* value = object.if_contains(key);
  return value != nullptr && value->is_bool() && value->get_bool();
}

uint64_t BigEndian(absl::string_view bytes, size_t offset, size_t size) {
  uint64_t number = 0;
  for (const char byte : bytes.substr(offset, size)) {
    number = number << 8 | static_cast<unsigned char>(byte);
  }
  return number;
}

absl::Status CheckPlain(const json::object& info) {
  const json::value* specific = info.if_contains("format-specific");
  const json::object* outer = specific == nullptr ? nullptr : specific->if_object();
  const json::value* data = outer == nullptr ? nullptr : outer->if_contains("data");
  const json::object* its = data == nullptr ? nullptr : data->if_object();
  if (IsTrue(info, "encrypted")) return absl::FailedPreconditionError("it is encrypted");
  if (its != nullptr && IsTrue(*its, "corrupt")) {
    return absl::FailedPreconditionError("it is damaged");
  }
  if (its != nullptr && its->contains("data-file")) {
    return absl::FailedPreconditionError("its data are in another file");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<DiskImage> ParseImageInfo(const std::string& text) {
  boost::system::error_code error;
  const json::value parsed = json::parse(text, error);
  const json::object* info = error ? nullptr : parsed.if_object();
  if (info == nullptr) return absl::InternalError("what qemu-img says of it cannot be read");
  if (const absl::Status plain = CheckPlain(*info); !plain.ok()) return plain;
  DiskImage image;
  image.format = TextOf(*info, "format");
  const json::value* size = info->if_contains("virtual-size");
  if (size != nullptr && size->is_number()) image.bytes = size->to_number<uint64_t>(error);
  const json::value* used = info->if_contains("actual-size");
  if (used != nullptr && used->is_number()) image.used_bytes = used->to_number<uint64_t>(error);
  const json::value* snapshots = info->if_contains("snapshots");
  image.has_snapshots =
      snapshots != nullptr && snapshots->is_array() && !snapshots->get_array().empty();
  const bool has_below = info->contains("backing-filename");
  image.below = TextOf(*info, "full-backing-filename");
  if (image.below.empty()) image.below = TextOf(*info, "backing-filename");
  image.below_format = TextOf(*info, "backing-filename-format");
  if (has_below && !absl::StartsWith(image.below, "/")) {
    return absl::FailedPreconditionError(
        absl::StrCat("it is over ", image.below, ", which is no file of this host"));
  }
  return image;
}

absl::StatusOr<uint64_t> ParseMeasured(const std::string& text) {
  boost::system::error_code error;
  const json::value parsed = json::parse(text, error);
  const json::object* sizes = error ? nullptr : parsed.if_object();
  const json::value* required = sizes == nullptr ? nullptr : sizes->if_contains("required");
  uint64_t bytes = 0;
  if (required != nullptr && required->is_number()) bytes = required->to_number<uint64_t>(error);
  if (required != nullptr && required->is_number() && !error) return bytes;
  return absl::InternalError("what qemu-img says of its size cannot be read");
}

std::optional<double> ParseConvertProgress(absl::string_view printed) {
  const size_t end = printed.rfind(kOfAll);
  if (end == absl::string_view::npos) return std::nullopt;
  const size_t begin = printed.rfind('(', end);
  double percent = 0;
  if (begin == absl::string_view::npos ||
      !absl::SimpleAtod(printed.substr(begin + 1, end - begin - 1), &percent)) {
    return std::nullopt;
  }
  constexpr double kAll = 100;
  return std::clamp(percent / kAll, 0.0, 1.0);
}

std::string WithoutProgress(absl::string_view printed) {
  std::vector<std::string> words;
  for (const absl::string_view line : absl::StrSplit(printed, absl::ByAnyChar("\r\n"))) {
    const absl::string_view text = absl::StripAsciiWhitespace(line);
    const size_t end = text.rfind(kOfAll);
    const bool is_progress =
        absl::StartsWith(text, "(") && end != absl::string_view::npos && end + 6 == text.size();
    if (!text.empty() && !is_progress) words.emplace_back(text);
  }
  return words.empty() ? "" : words.back();
}

absl::StatusOr<Qcow2Table> ParseQcow2Table(absl::string_view start) {
  if (start.size() < kQcow2TableHead || BigEndian(start, 0, 4) != kQcow2Magic) {
    return absl::FailedPreconditionError("it is no qcow2 file");
  }
  Qcow2Table table;
  table.entries = BigEndian(start, 36, 4);
  table.offset = BigEndian(start, 40, 8);
  table.has_snapshots = BigEndian(start, 60, 4) != 0;
  if (table.entries > kMostEntries || table.offset > (uint64_t{1} << 62)) {
    return absl::FailedPreconditionError("it is damaged");
  }
  return table;
}

}  // namespace ferry::vm
