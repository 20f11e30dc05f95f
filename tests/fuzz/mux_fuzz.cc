// Feeds the multiplexer raw bytes, and well-formed frames with hostile contents, at both ends.

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "bridge/mux/mux_core.h"
#include "tests/fuzz/fuzz_target.h"

namespace ferry::fuzz {
namespace {

using bridge::MuxCore;
using bridge::MuxEvent;
using bridge::MuxFrame;
using bridge::MuxFrameType;
using bridge::MuxRole;

// Lets the application's side answer, read, write and close as the input says.
void Act(MuxCore& core, Input& input) {
  for (const MuxEvent& event : core.TakeEvents()) {
    uint8_t what = input.Byte();
    if (event.kind == MuxEvent::Kind::kIncoming) {
      what % 4 == 0 ? core.Close(event.connection) : core.Accept(event.connection);
    } else if (event.kind == MuxEvent::Kind::kReadable) {
      char buffer[4096];
      MuxCore::ReadResult result = core.Read(event.connection, buffer);
      Check(result.size <= sizeof(buffer));
      if (what % 8 == 0) core.Close(event.connection);
    } else if (event.kind == MuxEvent::Kind::kAccepted) {
      core.Write(event.connection, std::string(what * 300u, 'x')).status().IgnoreError();
      if (what % 3 == 0) core.CloseWrite(event.connection).IgnoreError();
    }
  }
}

std::string Frame(Input& input, uint32_t epoch, uint32_t sequence) {
  MuxFrame frame;
  frame.type = static_cast<MuxFrameType>(input.Byte() % 12);
  frame.epoch = input.Byte() % 16 == 0 ? input.Byte() : epoch;
  frame.sequence = input.Byte() % 16 == 0 ? input.Byte() : sequence;
  frame.connection = input.Byte() % 4;
  frame.payload = input.Take(input.Byte() % 64);
  std::string wire;
  bridge::AppendMuxFrame(frame, wire);
  return wire;
}

}  // namespace

std::vector<std::string> Seeds() {
  // The guest enters the epoch, dials twice, and writes; then it loses a frame.
  std::string talk{3, 4, 2, 9, 2, 10, 4, 1, 1, 3, 1, 1, 4, 3, 1, 1};
  // Frames of each type that are well formed for the host.
  std::string frames{3, 4};
  for (char type = 1; type <= 9; ++type) {
    frames += std::string{5, type, 1, 1, 1};
    frames += Part(0, std::string(4, '\1')).substr(1) + "\1\1";
  }
  MuxFrame hello{.type = MuxFrameType::kHello, .epoch = 77, .payload = std::string_view("\1\0", 2)};
  std::string raw;
  AppendMuxFrame(hello, raw);
  return {talk, talk + frames, Part(1, raw), Part(0, raw)};
}

}  // namespace ferry::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace ferry::fuzz;    // NOLINT: the entry point must be global
  using namespace ferry::bridge;  // NOLINT
  Input input(data, size);
  uint32_t next_epoch = 1;
  MuxCore host(MuxRole::kHost, [&] { return next_epoch++; });
  MuxCore guest(MuxRole::kGuest, [] { return 0u; });
  host.StartEpoch();
  uint32_t epoch = 0;
  uint32_t sequence = 0;
  while (!input.empty()) {
    if (host.epoch() != epoch) sequence = 0;
    epoch = host.epoch();
    switch (input.Byte() % 8) {
      case 0:
        host.Receive(input.Take(input.Byte()));
        break;
      case 1:
        guest.Receive(input.Take(input.Byte()));
        break;
      case 2:
        guest.Connect(input.Byte()).status().IgnoreError();
        break;
      case 3: {
        std::string bytes(host.output());
        host.ConsumeOutput(bytes.size());
        guest.Receive(bytes);
        break;
      }
      case 4: {
        std::string bytes(guest.output());
        guest.ConsumeOutput(bytes.size());
        host.Receive(bytes);
        break;
      }
      default:
        host.Receive(Frame(input, epoch, sequence++));
        break;
    }
    Act(host, input);
    Act(guest, input);
    Check(host.connection_count() <= kMaxMuxConnections);
    Check(host.buffered() <= kMaxMuxBuffered);
    Check(host.epoch() != 0);
  }
  return 0;
}
