// A hostile agent at the host's ends of resumable stdio streams: the reading end of an output and
// the sending end of stdin, over connections that break at any moment.

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "bridge/stream/stream_receiver.h"
#include "bridge/stream/stream_sender.h"
#include "bridge/stream/wire.h"
#include "tests/fuzz/fuzz_target.h"

namespace ferry::fuzz {
namespace {

using bridge::StreamDecoder;
using bridge::StreamFrame;
using bridge::StreamFrameType;
using bridge::StreamHello;
using bridge::StreamReceiver;
using bridge::StreamSender;

constexpr size_t kWindow = 256;

// A frame near to what is valid.
std::string Frame(Input& input) {
  const uint8_t kind = input.Byte();
  const uint64_t offset = (kind & 128) != 0 ? UINT64_MAX - input.Byte() : input.Byte();
  switch (kind % 4) {
    case 0:
      return bridge::EncodeHello({.generation = static_cast<uint32_t>(input.Byte() % 8 == 0),
                                  .offset = offset,
                                  .end = input.Byte(),
                                  .ended = (kind & 64) != 0});
    case 1: {
      const std::string_view payload = input.Take(input.Byte());
      return bridge::EncodeDataHeader(offset, payload.size()) + std::string(payload);
    }
    case 2:
      return bridge::EncodeAck(offset, (kind & 64) != 0);
    default:
      return bridge::EncodeEof(offset);
  }
}

class OutputEnd {
 public:
  void Disconnect() {
    decoder_ = StreamDecoder();
    receiver_.OnDisconnect();
  }

  void Take(size_t count) {
    count = std::min<size_t>(count, receiver_.received() - receiver_.taken());
    receiver_.Taken(count);
    if (receiver_.ended()) receiver_.EofTaken();
    while (const auto ack = receiver_.NextAck()) Check(ack->offset <= delivered_);
  }

  void Receive(std::string_view bytes) {
    decoder_.Append(bytes);
    while (true) {
      const auto frame = decoder_.Next();
      if (!frame.ok()) return Disconnect();
      if (!frame->has_value()) return;
      if (!Handle(**frame).ok()) return Disconnect();
      // Never more than the window, and never a byte that did not come.
      Check(receiver_.received() - receiver_.taken() <= kWindow);
      Check(receiver_.received() == delivered_);
      Check(receiver_.taken() <= receiver_.received());
    }
  }

 private:
  absl::Status Handle(const StreamFrame& frame) {
    if (frame.type == StreamFrameType::kHello) return receiver_.OnPeerHello(frame.hello);
    if (frame.type == StreamFrameType::kEof) return receiver_.OnEof(frame.offset);
    if (frame.type != StreamFrameType::kData) return absl::InvalidArgumentError("not a sender's");
    const auto fresh = receiver_.OnData(frame.offset, frame.payload);
    if (!fresh.ok()) return fresh.status();
    delivered_ += fresh->size();
    return absl::OkStatus();
  }

  StreamDecoder decoder_;
  StreamReceiver receiver_{0, 0, kWindow};
  uint64_t delivered_ = 0;
};

class InputEnd {
 public:
  void Disconnect() {
    decoder_ = StreamDecoder();
    sender_.OnDisconnect();
  }

  void Append(std::string_view bytes) {
    if (!sender_.Append(bytes).ok()) sender_.Finish();
  }

  void Receive(std::string_view bytes) {
    decoder_.Append(bytes);
    while (true) {
      const auto frame = decoder_.Next();
      if (!frame.ok()) return Disconnect();
      if (!frame->has_value()) break;
      if (!Handle(**frame).ok()) return Disconnect();
    }
    while (const auto out = sender_.NextFrame(7)) Check(out->payload.size() <= 7);
    Check(sender_.base() <= sender_.end() && sender_.end() - sender_.base() <= kWindow);
  }

 private:
  absl::Status Handle(const StreamFrame& frame) {
    if (frame.type == StreamFrameType::kHello) return sender_.OnPeerHello(frame.hello);
    if (frame.type == StreamFrameType::kAck) {
      return sender_.OnAck(frame.offset, (frame.flags & bridge::kFlagEofTaken) != 0);
    }
    return absl::InvalidArgumentError("not a receiver's");
  }

  StreamDecoder decoder_;
  StreamSender sender_{0, kWindow};
};

}  // namespace

std::vector<std::string> Seeds() {
  // A hello, data, its end; then all of it again after a cut.
  std::string output;
  for (int round = 0; round < 2; ++round) {
    output += {0, 0, 0, 1, 9};
    output += {0, 1, 0, 3, 'a', 'b', 'c', 0, 1, 3, 1, 'd', 4, 9, 0, 3, 4, 4, 1, 2};
  }
  // Data to send, a hello that wants it, acknowledgements.
  const std::string sent = Part(5, "input") + std::string({1, 0, 0, 1, 0, 1, 2, 3, 1, 66, 5, 3});
  const std::string raw = bridge::EncodeHello({}) + bridge::EncodeDataHeader(0, 2) + "xy" +
                          bridge::EncodeEof(2) + bridge::EncodeAck(2, true);
  return {output, sent, Part(6, raw), Part(7, raw)};
}

}  // namespace ferry::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace ferry::fuzz;  // NOLINT: the entry point must be global
  Input input(data, size);
  OutputEnd output;
  InputEnd sent;
  while (!input.empty()) {
    switch (input.Byte() % 8) {
      case 0:
        output.Receive(Frame(input));
        break;
      case 1:
        sent.Receive(Frame(input));
        break;
      case 2:
        output.Disconnect();
        break;
      case 3:
        sent.Disconnect();
        break;
      case 4:
        output.Take(input.Byte());
        break;
      case 5:
        sent.Append(input.Take(input.Byte()));
        break;
      case 6:
        output.Receive(input.Take(input.Byte()));
        break;
      default:
        sent.Receive(input.Take(input.Byte()));
        break;
    }
  }
  return 0;
}
