#include "tools/ferryctl/units.h"

#include <csignal>
#include <ctime>
#include <limits>
#include <map>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"

namespace ferry::ctl {
namespace {

// Digits at the start of `text`, which is moved past them. False without any or on overflow.
bool TakeNumber(absl::string_view* text, uint64_t* value) {
  size_t digits = 0;
  while (digits < text->size() && absl::ascii_isdigit((*text)[digits])) ++digits;
  if (!absl::SimpleAtoi(text->substr(0, digits), value)) return false;
  text->remove_prefix(digits);
  return true;
}

const std::map<std::string, uint32_t>& SignalNames() {
  static const std::map<std::string, uint32_t> names = {
      {"HUP", SIGHUP},   {"INT", SIGINT},    {"QUIT", SIGQUIT}, {"ABRT", SIGABRT},
      {"KILL", SIGKILL}, {"USR1", SIGUSR1},  {"USR2", SIGUSR2}, {"PIPE", SIGPIPE},
      {"ALRM", SIGALRM}, {"TERM", SIGTERM},  {"CONT", SIGCONT}, {"STOP", SIGSTOP},
      {"TSTP", SIGTSTP}, {"WINCH", SIGWINCH}};
  return names;
}

}  // namespace

absl::StatusOr<uint64_t> ParseSize(absl::string_view text) {
  absl::string_view rest = text;
  uint64_t value = 0;
  int shift = 0;
  bool good = TakeNumber(&rest, &value);
  if (rest == "K") {
    shift = 10;
  } else if (rest == "M") {
    shift = 20;
  } else if (rest == "G") {
    shift = 30;
  } else if (rest == "T") {
    shift = 40;
  } else if (!rest.empty()) {
    good = false;
  }
  if (!good || value > (std::numeric_limits<uint64_t>::max() >> shift)) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", text, "\" is not a size; write for example 256M or 1G"));
  }
  return value << shift;
}

absl::StatusOr<uint64_t> ParseMemory(absl::string_view text) {
  constexpr uint64_t kMiB = 1 << 20;
  const absl::StatusOr<uint64_t> bytes = ParseSize(text);
  if (!bytes.ok()) return bytes.status();
  if (*bytes >= kMiB && *bytes % kMiB == 0) return *bytes / kMiB;
  return absl::InvalidArgumentError("must be whole MiB");
}

absl::StatusOr<uint32_t> ParseDurationMs(absl::string_view text) {
  absl::string_view rest = text;
  uint64_t value = 0;
  uint64_t factor = 0;
  if (TakeNumber(&rest, &value)) {
    if (rest == "ms") factor = 1;
    if (rest == "s") factor = 1000;
    if (rest == "m") factor = 60000;
  }
  if (factor == 0 || value > std::numeric_limits<uint32_t>::max() / factor) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", text, "\" is not a duration; write for example 10ms or 1s"));
  }
  return static_cast<uint32_t>(value * factor);
}

absl::StatusOr<uint32_t> ParseSignal(absl::string_view text) {
  uint32_t number = 0;
  if (absl::SimpleAtoi(text, &number) && number >= 1 && number <= 64) return number;
  const std::string upper = absl::AsciiStrToUpper(text);
  const auto found = SignalNames().find(std::string(absl::StripPrefix(upper, "SIG")));
  if (found != SignalNames().end()) return found->second;
  return absl::InvalidArgumentError(
      absl::StrCat("\"", text, "\" is not a signal; write for example TERM or 15"));
}

std::string FormatSize(uint64_t bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024 && unit < 6) {
    value /= 1024;
    ++unit;
  }
  if (unit == 0 || value >= 100) return absl::StrFormat("%.0f %s", value, kUnits[unit]);
  return absl::StrFormat("%.1f %s", value, kUnits[unit]);
}

std::string FormatMs(double ms) {
  if (ms < 10) return absl::StrFormat("%.1f ms", ms);
  if (ms < 1000) return absl::StrFormat("%.0f ms", ms);
  if (ms < 60000) return absl::StrFormat("%.1f s", ms / 1000);
  const uint64_t seconds = static_cast<uint64_t>(ms / 1000);
  return absl::StrFormat("%d min %d s", seconds / 60, seconds % 60);
}

std::string FormatAge(uint64_t ms) {
  const uint64_t seconds = ms / 1000;
  auto say = [](uint64_t n, const char* unit) {
    return absl::StrCat(n, " ", unit, n == 1 ? "" : "s");
  };
  if (seconds < 60) return say(seconds, "second");
  if (seconds < 3600) return say(seconds / 60, "minute");
  if (seconds < 86400) return say(seconds / 3600, "hour");
  return say(seconds / 86400, "day");
}

std::string FormatTime(uint64_t unix_ms) {
  if (unix_ms == 0) return "-";
  const std::time_t seconds = static_cast<std::time_t>(unix_ms / 1000);
  std::tm utc{};
  ::gmtime_r(&seconds, &utc);
  char text[32];
  std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text;
}

}  // namespace ferry::ctl
