#include "bridge/stream/stream_receiver.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace ferry::bridge {

StreamReceiver::StreamReceiver(uint32_t generation, uint64_t start, size_t window)
    : generation_(generation), window_(window), received_(start), taken_(start) {}

StreamHello StreamReceiver::MakeHello() const {
  return {.generation = generation_, .offset = received_, .end = 0, .ended = false};
}

absl::Status StreamReceiver::OnPeerHello(const StreamHello& hello) {
  if (hello.generation != generation_) {
    return absl::FailedPreconditionError(absl::StrCat("stream: the sender is at generation ",
                                                      hello.generation, ", the receiver at ",
                                                      generation_));
  }
  // A sender that ends below what came is fine: it took over from one that had sent more.
  if (hello.offset > received_) {
    return absl::OutOfRangeError(absl::StrCat("stream: offset ", received_,
                                              " is wanted, the sender keeps only ", hello.offset,
                                              " to ", hello.end));
  }
  connected_ = true;
  ack_due_ = true;
  return absl::OkStatus();
}

absl::StatusOr<std::string_view> StreamReceiver::OnData(uint64_t offset, std::string_view bytes) {
  if (offset > received_) {
    return absl::OutOfRangeError(
        absl::StrCat("stream: data at offset ", offset, ", expected ", received_));
  }
  const uint64_t known = received_ - offset;
  if (known >= bytes.size()) return std::string_view();
  bytes.remove_prefix(known);
  if (ended_) {
    return absl::OutOfRangeError(
        absl::StrCat("stream: data at offset ", received_, " after the end"));
  }
  if (received_ - taken_ + bytes.size() > window_) {
    return absl::ResourceExhaustedError(absl::StrCat("stream: ", received_ - taken_ + bytes.size(),
                                                     " bytes not taken, the window is ", window_));
  }
  received_ += bytes.size();
  return bytes;
}

absl::Status StreamReceiver::OnEof(uint64_t offset) {
  if (offset != received_) {
    return absl::OutOfRangeError(
        absl::StrCat("stream: end at offset ", offset, ", expected ", received_));
  }
  ended_ = true;
  // An end that comes again says that the acknowledgement was lost.
  ack_due_ = ack_due_ || eof_taken_;
  return absl::OkStatus();
}

void StreamReceiver::Taken(size_t count) {
  if (count == 0) return;
  taken_ = std::min(taken_ + count, received_);
  ack_due_ = true;
}

void StreamReceiver::EofTaken() {
  if (eof_taken_ || !ended_ || taken_ != received_) return;
  eof_taken_ = true;
  ack_due_ = true;
}

std::optional<StreamReceiver::Ack> StreamReceiver::NextAck() {
  if (!connected_ || !ack_due_) return std::nullopt;
  ack_due_ = false;
  return Ack{taken_, eof_taken_};
}

}  // namespace ferry::bridge
