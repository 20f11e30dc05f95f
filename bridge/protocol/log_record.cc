#include "bridge/protocol/log_record.h"

#include <algorithm>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <iterator>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "bridge/protocol/json_fields.h"

namespace ferry::bridge {
namespace {

// The names that hcsshim's agent uses, by LogLevel.
constexpr const char* kNames[] = {"panic",   "fatal", "fatal", "error",
                                  "warning", "info",  "info",  "debug"};

LogLevel LevelOf(std::string_view name) {
  for (size_t level = 0; level < std::size(kNames); ++level) {
    if (name == kNames[level]) return static_cast<LogLevel>(level);
  }
  return name == "trace" ? LogLevel::kDebug : LogLevel::kInfo;
}

}  // namespace

std::string Encode(const LogRecord& record) {
  const boost::json::object line = {{"level", kNames[static_cast<size_t>(record.level)]},
                                    {"msg", record.message},
                                    {"seq", record.sequence}};
  return absl::StrCat(boost::json::serialize(line), "\n");
}

LogRecord DecodeLogLine(std::string_view line) {
  LogRecord record;
  absl::Status status;
  if (const auto object = ParseObject(line); object.ok()) {
    const FieldReader in(*object, "", &status);
    std::string level;
    in.Text("level", &level);
    in.Required("msg");
    in.Text("msg", &record.message);
    in.U64("seq", &record.sequence);
    record.level = LevelOf(level);
    if (status.ok()) return record;
  }
  record = LogRecord();
  record.message = std::string(line);
  return record;
}

std::string EncodeLogAck(uint64_t sequence) { return absl::StrCat(sequence, "\n"); }

std::optional<uint64_t> DecodeLogAck(std::string_view line) {
  uint64_t sequence = 0;
  if (!absl::SimpleAtoi(absl::string_view(line.data(), line.size()), &sequence)) {
    return std::nullopt;
  }
  return sequence;
}

void LogLines::Append(std::string_view bytes) {
  pending_.erase(0, std::exchange(begin_, 0));
  pending_.append(bytes);
}

std::optional<std::string> LogLines::Next() {
  while (true) {
    const std::string_view rest = std::string_view(pending_).substr(begin_);
    const size_t end = rest.find('\n');
    const bool whole = end != std::string_view::npos;
    if (!whole && rest.size() <= kMaxLogLine) return std::nullopt;
    const std::string line(rest.substr(0, std::min(whole ? end : rest.size(), kMaxLogLine)));
    begin_ += whole ? end + 1 : rest.size();
    if (std::exchange(skipping_, !whole)) continue;
    return line;
  }
}

}  // namespace ferry::bridge
