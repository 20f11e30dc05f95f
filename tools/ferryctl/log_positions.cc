#include "tools/ferryctl/log_positions.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace ferry::ctl {

absl::StatusOr<LogPositions> LogPositions::Parse(absl::string_view text) {
  const std::pair<absl::string_view, absl::string_view> offsets =
      absl::StrSplit(text, absl::MaxSplits(',', 1));
  const bool both = absl::string_view(text).find(',') == absl::string_view::npos;
  LogPositions positions;
  if (absl::SimpleAtoi(offsets.first, &positions.out_.next) &&
      absl::SimpleAtoi(both ? offsets.first : offsets.second, &positions.err_.next)) {
    return positions;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("\"", text, "\" is no offset; use a number of bytes, as in 4096, or one for ",
                   "stdout and one for stderr, as in 4096,0"));
}

bool LogPositions::GoesBack(const v1::ReadOutputResponse::Part& part) {
  Stream& stream = part.stream() == v1::STDIO_STREAM_STDERR ? err_ : out_;
  // What is kept of a process that is no more is of no generation.
  if (!stream.generation || part.generation() <= *stream.generation) return false;
  stream.generation = part.generation();
  // What was not read yet before that is as it was.
  stream.next = std::min(stream.next, part.went_back_at());
  stream.end = part.end();
  return true;
}

uint64_t LogPositions::Take(const v1::ReadOutputResponse::Part& part) {
  Stream& stream = part.stream() == v1::STDIO_STREAM_STDERR ? err_ : out_;
  const uint64_t missing = part.offset() - std::min(part.offset(), stream.next);
  const uint64_t behind = part.offset() + part.data().size();
  // What stands before the first byte that is wanted may not be written yet.
  const bool goes_on = !stream.generation || *stream.generation == part.generation();
  stream.next = goes_on ? std::max(stream.next, behind) : behind;
  stream.generation = part.generation();
  stream.end = part.end();
  stream.ended = part.ended();
  return missing;
}

void LogPositions::GoOnFrom(const WatchFrom& position) {
  const auto go_on = [](const std::optional<v1::AttachRequest::Position>& from, Stream* stream) {
    if (!from) return;
    stream->generation = from->generation();
    stream->next = from->offset();
  };
  go_on(position.std_out, &out_);
  go_on(position.std_err, &err_);
}

v1::AttachRequest::Position LogPositions::Stream::Rest() const {
  v1::AttachRequest::Position position;
  position.set_generation(generation.value_or(0));
  position.set_offset(next);
  return position;
}

WatchFrom LogPositions::Rest() const { return {out_.Rest(), err_.Rest()}; }

}  // namespace ferry::ctl
