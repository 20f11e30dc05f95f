#include "migration/controller/blackout.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"

namespace ferry::migration {
namespace {

constexpr double kMostMs = 1e12;

}  // namespace

std::optional<std::vector<double>> TimesIn(absl::string_view text, size_t count) {
  std::vector<double> times;
  for (const absl::string_view word : absl::StrSplit(text, ' ')) {
    if (times.size() == count) break;
    double time = 0;
    const bool good = absl::SimpleAtod(word, &time) && time >= 0 && time <= kMostMs;
    if (!good) return std::nullopt;
    times.push_back(time);
  }
  if (times.size() != count) return std::nullopt;
  return times;
}

std::optional<Blackout> MeasureBlackout(absl::string_view said, const DestinationTimes& times) {
  const auto source = TimesIn(said, 3);
  if (!source) return std::nullopt;
  Blackout blackout;
  blackout.device = (*source)[1];
  blackout.commit = (*source)[2];
  const double before_go = (*source)[0];
  blackout.total = before_go + times.one_way + times.since_go;
  if (times.since_vote) {
    // Never less than what each host has seen for itself.
    blackout.total = std::max(before_go, blackout.device - times.one_way + *times.since_vote);
  }
  blackout.resume = std::max(0.0, blackout.total - before_go);
  return blackout;
}

}  // namespace ferry::migration
