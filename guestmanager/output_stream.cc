#include "guestmanager/output_stream.h"

#include "absl/strings/str_cat.h"

namespace ferry::guest {

OutputStream::OutputStream(std::shared_ptr<LinkGate> gate, Stream which, const StreamState& state)
    : which_(which),
      generation_(state.taken.generation),
      taken_(state.taken.offset),
      end_taken_(state.ended),
      next_(state.taken.offset),
      end_seen_(state.ended),
      stream_(std::make_shared<StdioStream>(std::move(gate), this)) {}

void OutputStream::SetConsumer(OutputConsumer* consumer, uint64_t offset) {
  consumer_ = consumer;
  if (consumer == nullptr) return;
  if (stream_->plain() || plain_ended_) {
    // A plain peer can't go back: the consumer gets what comes.
    stream_->Wake();
    return;
  }
  if (offset != next_ || (end_seen_ && !end_taken_)) {
    // The connection has run ahead for somebody else; a new one begins where this one stands.
    next_ = offset;
    if (!end_taken_) end_seen_ = false;
    if (stream_->up()) stream_->Restart();
  }
  stream_->Wake();
}

void OutputStream::Acknowledge(uint64_t offset, bool end_taken) {
  if (offset < taken_ || offset > next_) return;
  const bool ends = end_taken && end_seen_ && offset == next_;
  if (offset == taken_ && (!ends || end_taken_)) return;
  taken_ = offset;
  end_taken_ = end_taken_ || ends;
  if (!stream_->plain()) stream_->Send(bridge::EncodeAck(offset, end_taken_), 0);
}

void OutputStream::ForceEnd() {
  if (stream_->up() || end_seen_) return;
  if (consumer_ != nullptr) DeliverEnd();
  end_seen_ = true;
  end_taken_ = true;
}

std::optional<bridge::StreamHello> OutputStream::OwnHello() {
  if (consumer_ == nullptr && !end_taken_) return std::nullopt;
  return bridge::StreamHello{.generation = generation_, .offset = next_, .end = 0, .ended = false};
}

absl::Status OutputStream::OnPeerHello(const bridge::StreamHello& hello) {
  if (hello.generation > generation_) generation_ = hello.generation;
  if (next_ > hello.end || hello.offset > hello.end) {
    return absl::InvalidArgumentError(absl::StrCat("the guest has output up to ", hello.end,
                                                   ", but the reader stands at ", next_));
  }
  if (hello.offset > next_) {
    if (consumer_ != nullptr) consumer_->OnDropped(which_, next_, hello.offset);
    next_ = hello.offset;
  }
  // An acknowledgement may have been lost with the previous connection.
  if (end_taken_ || taken_ > hello.offset) stream_->Send(bridge::EncodeAck(taken_, end_taken_), 0);
  return absl::OkStatus();
}

absl::Status OutputStream::OnFrame(const bridge::StreamFrame& frame) {
  switch (frame.type) {
    case bridge::StreamFrameType::kData:
      if (frame.offset != next_ || end_seen_) {
        return absl::InvalidArgumentError("the guest sent output out of order");
      }
      Deliver(frame.payload);
      return absl::OkStatus();
    case bridge::StreamFrameType::kEof:
      if (frame.offset != next_) return absl::InvalidArgumentError("the output ends too early");
      if (end_taken_) {
        stream_->Send(bridge::EncodeAck(taken_, true), 0);
      } else if (!end_seen_) {
        DeliverEnd();
      }
      return absl::OkStatus();
    default:
      return absl::InvalidArgumentError("an output stream carries data to the host only");
  }
}

bool OutputStream::WantsData() const {
  return end_taken_ || (consumer_ != nullptr && consumer_->ConsumerReady(which_));
}

void OutputStream::Deliver(std::string_view data) {
  const StreamPosition position{generation_, next_};
  next_ += data.size();
  if (consumer_ != nullptr) consumer_->OnData(which_, position, data);
}

void OutputStream::DeliverEnd() {
  end_seen_ = true;
  if (consumer_ != nullptr) consumer_->OnEnd(which_, next_);
}

void OutputStream::OnPlainData(std::string_view data) { Deliver(data); }

void OutputStream::OnPlainEnd() {
  plain_ended_ = true;
  DeliverEnd();
}

void OutputStream::OnPlainLost(const absl::Status& reason) {
  if (consumer_ != nullptr) consumer_->OnLost(which_, reason);
}

}  // namespace ferry::guest
