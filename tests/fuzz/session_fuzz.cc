// Throws bytes at an established end of the session connection, as a hostile peer would. The first
// byte chooses the side and how the rest is cut into reads; sequence numbers are put right so that
// most inputs get past that check.
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "migration/connection/session_core.h"
#include "tests/fuzz/fuzz_target.h"

namespace {

using ferry::migration::FrameHeader;
using ferry::migration::Hello;
using ferry::migration::HelloAck;
using ferry::migration::Role;
using ferry::migration::SessionCore;
using ferry::migration::SessionEvent;
using ferry::migration::SessionLimits;

constexpr SessionCore::TimePoint kNow{std::chrono::hours(1)};

std::string Frame(ferry::migration::FrameType type, std::string_view payload, uint16_t channel = 0,
                  uint8_t flags = 0) {
  FrameHeader header;
  header.type = type;
  header.channel = channel;
  header.flags = flags;
  header.length = static_cast<uint32_t>(payload.size());
  const auto raw = ferry::migration::EncodeHeader(header);
  return std::string(raw.data(), raw.size()) + std::string(payload);
}

// Renumbers the frames of `bytes` from `sequence` on; with `tame`, their types and lengths are also
// brought near to what is valid.
void Renumber(std::string* bytes, uint64_t sequence, bool tame) {
  size_t at = 0;
  while (bytes->size() - at >= ferry::migration::kFrameHeaderSize) {
    FrameHeader header = ferry::migration::ParseHeader(
        std::string_view(*bytes).substr(at, ferry::migration::kFrameHeaderSize));
    header.sequence = sequence++;
    if (tame) {
      const size_t rest = bytes->size() - at - ferry::migration::kFrameHeaderSize;
      header.type = static_cast<ferry::migration::FrameType>(static_cast<int>(header.type) % 14);
      header.length = static_cast<uint32_t>(std::min<size_t>(header.length % 32, rest));
      header.channel %= 8;
    }
    const auto raw = ferry::migration::EncodeHeader(header);
    std::memcpy(bytes->data() + at, raw.data(), raw.size());
    at += ferry::migration::kFrameHeaderSize;
    if (header.length > bytes->size() - at) return;
    at += header.length;
  }
}

void Drain(SessionCore* core) {
  while (core->NextOutput(kNow)) core->OutputDone();
}

// False once the connection has failed.
bool Feed(SessionCore* core, std::string_view bytes, size_t chunk, uint64_t* delivered) {
  while (!bytes.empty()) {
    const auto space = core->decoder().Space();
    if (space.empty()) std::abort();
    const size_t size = std::min({bytes.size(), chunk, space.size()});
    std::memcpy(space.data(), bytes.data(), size);
    bytes.remove_prefix(size);
    core->Received(size, kNow);
    while (true) {
      auto event = core->NextEvent(kNow);
      if (!event.ok()) return false;
      if (!event->has_value()) break;
      SessionEvent& e = **event;
      if (e.kind == SessionEvent::Kind::kHello) core->Accept(e.hello, "journal");
      if (e.kind == SessionEvent::Kind::kMessage) core->MessageTaken(e.message.bytes.size());
      if (e.kind == SessionEvent::Kind::kData) *delivered += e.data.size();
      if (e.kind == SessionEvent::Kind::kData) core->Consumed(e.channel, e.data.size() / 2);
    }
    Drain(core);
  }
  return true;
}

}  // namespace

namespace ferry::fuzz {

std::vector<std::string> Seeds() {
  using ferry::migration::FrameType;
  const std::string eight(8, '\1');
  ferry::migration::StreamHasher hasher;
  hasher.Update("memory");
  const ferry::migration::StreamDigest digest = hasher.Digest();
  std::string close;
  for (const uint64_t number : {digest.bytes, digest.low, digest.high}) {
    ferry::migration::AppendInt(&close, number, 8);
  }
  std::vector<std::string> seeds;
  for (const char side : {2, 3}) {
    const uint16_t channel = side == 2 ? 2 : 1;
    std::string bytes = Frame(FrameType::kOpen, std::string(1, '\0'), channel);
    bytes += Frame(FrameType::kData, "memory", channel);
    bytes += Frame(FrameType::kCredit, eight, channel);
    bytes += Frame(FrameType::kClose, close, channel);
    bytes += Frame(FrameType::kPing, eight) + Frame(FrameType::kPong, eight);
    bytes += Frame(FrameType::kMessage, "proof", 3,
                   ferry::migration::kFlagFirst | ferry::migration::kFlagLast);
    bytes += Frame(FrameType::kReset, "why", channel);
    bytes += Frame(FrameType::kGoodbye, std::string(1, '\0'));
    seeds.push_back(std::string{side, 100} + bytes);
    seeds.push_back(std::string{static_cast<char>(side | 4), 5} + bytes);
    seeds.push_back(std::string{static_cast<char>(side & 1), 100} + Frame(FrameType::kHello, {}));
  }
  seeds.push_back(std::string{0, 100} + Frame(FrameType::kHello, EncodeHello(Hello{})));
  seeds.push_back(std::string{1, 100} + Frame(FrameType::kHelloAck, EncodeHelloAck(HelloAck{})));
  ferry::migration::Refusal refusal{ferry::migration::RefusalReason::kBadToken, "no"};
  seeds.push_back(std::string{1, 100} + Frame(FrameType::kRefused, EncodeRefusal(refusal)));
  return seeds;
}

}  // namespace ferry::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const bool source = (data[0] & 1) != 0;
  const bool greeted = (data[0] & 2) != 0;
  const size_t chunk = 1 + data[1];
  std::string bytes(reinterpret_cast<const char*>(data) + 2, size - 2);
  SessionLimits limits;
  limits.window = 64 * 1024;
  limits.max_message = 4096;
  limits.max_channels = 4;
  SessionCore core(source ? Role::kSource : Role::kDestination, limits, kNow);
  if (source) core.SendHello({});
  Drain(&core);
  uint64_t delivered = 0;
  if (greeted) {
    Hello hello;
    hello.window = limits.window;
    HelloAck ack;
    ack.window = limits.window;
    const std::string greeting =
        source ? Frame(ferry::migration::FrameType::kHelloAck, EncodeHelloAck(ack))
               : Frame(ferry::migration::FrameType::kHello, EncodeHello(hello));
    if (!Feed(&core, greeting, 1000, &delivered)) std::abort();
    if (source && core.Open().ok()) Drain(&core);
  }
  Renumber(&bytes, greeted ? 1 : 0, (data[0] & 4) != 0);
  Feed(&core, bytes, chunk, &delivered);
  Drain(&core);
  if (delivered > size) std::abort();  // nothing is made up
  return 0;
}
