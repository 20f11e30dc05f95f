#include "bridge/stream/stream_sender.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace ferry::bridge {
namespace {

// Small writes are gathered in chunks of this capacity; a chunk never grows beyond it, so views
// into it stay where they are.
constexpr size_t kChunkCapacity = 64 * 1024;

}  // namespace

StreamSender::StreamSender(uint32_t generation, size_t window, uint64_t start)
    : generation_(generation),
      window_(window),
      base_(start),
      cursor_(start),
      sent_(start),
      end_(start) {}

size_t StreamSender::WritableSpace() const {
  if (finished_) return 0;
  const size_t kept = end_ - base_;
  return kept >= window_ ? 0 : window_ - kept;
}

absl::Status StreamSender::Append(std::string_view bytes) {
  if (bytes.empty()) return absl::OkStatus();
  if (finished_) return absl::FailedPreconditionError("stream: bytes after the end was announced");
  if (bytes.size() > WritableSpace()) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "stream: ", bytes.size(), " bytes do not fit, the window has room for ", WritableSpace()));
  }
  while (!bytes.empty()) {
    if (chunks_.empty() || chunks_.back().bytes->size() == kChunkCapacity) {
      auto chunk = std::make_shared<std::string>();
      chunk->reserve(kChunkCapacity);
      chunks_.push_back({end_, std::move(chunk)});
    }
    std::string& last = *chunks_.back().bytes;
    const std::string_view part = bytes.substr(0, kChunkCapacity - last.size());
    last.append(part);
    end_ += part.size();
    bytes.remove_prefix(part.size());
  }
  return absl::OkStatus();
}

void StreamSender::Finish() { finished_ = true; }

void StreamSender::SkipTo(uint64_t offset) {
  if (offset <= end_ || finished_) return;
  chunks_.clear();
  base_ = cursor_ = sent_ = end_ = offset;
}

StreamHello StreamSender::MakeHello() const {
  return {.generation = generation_, .offset = base_, .end = end_, .ended = finished_};
}

absl::Status StreamSender::OnPeerHello(const StreamHello& hello) {
  if (hello.generation != generation_) {
    return absl::FailedPreconditionError(absl::StrCat("stream: the receiver is at generation ",
                                                      hello.generation, ", the sender at ",
                                                      generation_));
  }
  if (hello.offset < base_ || hello.offset > end_) {
    return absl::OutOfRangeError(absl::StrCat("stream: the receiver wants offset ", hello.offset,
                                              ", the sender keeps ", base_, " to ", end_));
  }
  connected_ = true;
  cursor_ = hello.offset;
  // The receiver may hold bytes that an earlier sender's driver gave out.
  sent_ = std::max(sent_, cursor_);
  eof_sent_ = false;
  return absl::OkStatus();
}

void StreamSender::OnDisconnect() {
  connected_ = false;
  eof_sent_ = false;
}

absl::Status StreamSender::OnAck(uint64_t offset, bool eof_taken) {
  if (offset > sent_) {
    return absl::OutOfRangeError(
        absl::StrCat("stream: offset ", offset, " acknowledged, only ", sent_, " was sent"));
  }
  if (eof_taken && (!finished_ || offset != end_)) {
    return absl::OutOfRangeError(
        absl::StrCat("stream: end acknowledged at offset ", offset,
                     finished_ ? ", it lies at " : ", it is still open at ", end_));
  }
  base_ = std::max(base_, offset);
  cursor_ = std::max(cursor_, base_);
  eof_taken_ = eof_taken_ || eof_taken;
  while (!chunks_.empty() && chunks_.front().offset + chunks_.front().bytes->size() <= base_) {
    // A chunk that is still being written out stays alive through its OutgoingFrame.
    chunks_.pop_front();
  }
  return absl::OkStatus();
}

std::optional<OutgoingFrame> StreamSender::NextFrame(size_t max_payload) {
  if (!connected_) return std::nullopt;
  if (cursor_ == end_) {
    if (!finished_ || eof_sent_ || eof_taken_) return std::nullopt;
    eof_sent_ = true;
    return OutgoingFrame{EncodeEof(end_), {}, nullptr};
  }
  const auto chunk = std::find_if(chunks_.begin(), chunks_.end(), [this](const Chunk& candidate) {
    return cursor_ < candidate.offset + candidate.bytes->size();
  });
  const size_t skip = cursor_ - chunk->offset;
  const std::string_view payload =
      std::string_view(*chunk->bytes).substr(skip, std::min(max_payload, kMaxStreamPayload));
  OutgoingFrame frame{EncodeDataHeader(cursor_, payload.size()), payload, chunk->bytes};
  cursor_ += payload.size();
  sent_ = std::max(sent_, cursor_);
  return frame;
}

}  // namespace ferry::bridge
