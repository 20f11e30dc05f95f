#include "guestmanager/input_stream.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace ferry::guest {

InputStream::InputStream(std::shared_ptr<LinkGate> gate, InputObserver* observer,
                         const StreamState& state, bool restored)
    : observer_(observer),
      generation_(state.taken.generation),
      taken_(state.taken.offset),
      end_taken_(state.ended),
      sent_(state.taken.offset),
      placed_(!restored),
      stream_(std::make_shared<StdioStream>(std::move(gate), this)) {}

absl::Status InputStream::Send(uint64_t offset, std::string_view data) {
  if (end_taken_) return absl::OkStatus();
  if (offset > sent_) {
    // What the client sent before it heard of a rewind comes again.
    if (rewinding_ || !placed_) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("stdin has a gap: expected offset ", sent_, ", got ", offset));
  }
  if (offset + data.size() < offset || offset + data.size() > taken_ + bridge::kStreamWindow) {
    return absl::InvalidArgumentError(absl::StrCat("stdin runs more than ", bridge::kStreamWindow,
                                                   " bytes ahead of the process"));
  }
  rewinding_ = false;
  if (offset + data.size() <= sent_) return absl::OkStatus();
  if (end_) return absl::InvalidArgumentError("stdin goes on after its end");
  data.remove_prefix(sent_ - offset);
  const uint64_t at = sent_;
  sent_ += data.size();
  if (stream_->plain()) {
    stream_->SendToProcess(std::string(data), data.size());
  } else if (synchronised_ && stream_->up()) {
    for (size_t done = 0; done < data.size(); done += bridge::kMaxStreamPayload) {
      std::string_view part = data.substr(done, bridge::kMaxStreamPayload);
      std::string frame = bridge::EncodeDataHeader(at + done, part.size());
      frame.append(part);
      stream_->SendToProcess(std::move(frame), 0);
    }
  } else if (taken_ + before_plain_.size() == at) {
    before_plain_.append(data);
  }
  return absl::OkStatus();
}

absl::Status InputStream::End(uint64_t offset) {
  if (end_taken_ || end_) return absl::OkStatus();
  if (offset != sent_) {
    if (offset > sent_ && (rewinding_ || !placed_)) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("stdin ends at ", offset, ", but ", sent_, " bytes were sent"));
  }
  end_ = offset;
  if (stream_->plain()) {
    stream_->EndWriting();
  } else if (synchronised_ && stream_->up()) {
    stream_->SendToProcess(bridge::EncodeEof(offset), 0);
  }
  return absl::OkStatus();
}

std::optional<bridge::StreamHello> InputStream::OwnHello() {
  synchronised_ = false;
  return bridge::StreamHello{
      .generation = generation_, .offset = taken_, .end = sent_, .ended = end_.has_value()};
}

absl::Status InputStream::OnPeerHello(const bridge::StreamHello& hello) {
  if (hello.offset < taken_) {
    return absl::InvalidArgumentError(absl::StrCat("the guest wants stdin from ", hello.offset,
                                                   " again, but had taken it up to ", taken_));
  }
  synchronised_ = placed_ = true;
  before_plain_.clear();
  // The guest holds everything below hello.offset; what the process took of it comes as an ack.
  const bool moved = sent_ != hello.offset;
  if (moved) {
    sent_ = hello.offset;
    end_.reset();
    rewinding_ = true;
  }
  if (end_) stream_->SendToProcess(bridge::EncodeEof(*end_), 0);
  observer_->OnTaken(taken_, end_taken_);
  if (moved) observer_->OnRewind(hello.offset);
  return absl::OkStatus();
}

absl::Status InputStream::OnFrame(const bridge::StreamFrame& frame) {
  if (frame.type != bridge::StreamFrameType::kAck) {
    return absl::InvalidArgumentError("stdin carries acknowledgements to the host only");
  }
  if (frame.offset > sent_) {
    return absl::InvalidArgumentError(
        absl::StrCat("the guest acknowledges stdin up to ", frame.offset, " of ", sent_));
  }
  taken_ = std::max(taken_, frame.offset);
  const bool end_flag = (frame.flags & bridge::kFlagEofTaken) != 0;
  if (end_flag) end_taken_ = true;
  const bool in_order = end_flag && end_ == frame.offset;
  observer_->OnTaken(taken_, in_order);
  if (end_flag && !in_order) observer_->OnReaderGone();
  return absl::OkStatus();
}

void InputStream::OnPlainUp() {
  std::string held;
  held.swap(before_plain_);
  const size_t size = held.size();
  if (size > 0) stream_->SendToProcess(std::move(held), size);
  if (end_) stream_->EndWriting();
}

void InputStream::OnPlainWritten(size_t size) {
  taken_ += size;
  const bool ended = end_ == taken_;
  if (ended) end_taken_ = true;
  observer_->OnTaken(taken_, ended);
}

void InputStream::OnPlainLost(const absl::Status&) {
  end_taken_ = true;
  observer_->OnReaderGone();
}

}  // namespace ferry::guest
