#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "bridge/mux/frame.h"
#include "bridge/mux/mux_core.h"

namespace ferry::bridge {

// Two cores and the wires between them, which the test can hold, cut and damage.
class MuxCoreTest : public testing::Test {
 protected:
  using Kind = MuxEvent::Kind;

  MuxCoreTest()
      : host(MuxRole::kHost, [this] { return next_epoch++; }),
        guest(MuxRole::kGuest, [] { return 0u; }) {}

  static std::string Drain(MuxCore& core) {
    std::string bytes(core.output());
    core.ConsumeOutput(bytes.size());
    return bytes;
  }

  // Carries bytes both ways until nothing moves.
  void Carry() {
    while (!host.output().empty() || !guest.output().empty()) {
      guest.Receive(Drain(host));
      host.Receive(Drain(guest));
    }
  }

  void Establish() {
    host.StartEpoch();
    Carry();
    ASSERT_TRUE(host.established());
    ASSERT_TRUE(guest.established());
    host.TakeEvents();
    guest.TakeEvents();
  }

  // Dials `port`, accepts it and returns its number.
  uint32_t Open(uint32_t port) {
    uint32_t id = guest.Connect(port).value();
    Carry();
    host.Accept(id);
    Carry();
    return id;
  }

  static std::vector<Kind> Kinds(MuxCore& core) {
    std::vector<Kind> kinds;
    for (const MuxEvent& event : core.TakeEvents()) kinds.push_back(event.kind);
    return kinds;
  }

  static std::string ReadAll(MuxCore& core, uint32_t id) {
    std::string all;
    char buffer[10000];
    for (;;) {
      MuxCore::ReadResult result = core.Read(id, buffer);
      if (result.size == 0) return all;
      all.append(buffer, result.size);
    }
  }

  std::string GuestFrame(MuxFrameType type, uint32_t sequence, uint32_t connection,
                         std::string_view payload) {
    std::string out;
    MuxFrame frame{.type = type,
                   .epoch = host.epoch(),
                   .sequence = sequence,
                   .connection = connection,
                   .payload = payload};
    AppendMuxFrame(frame, out);
    return out;
  }

  uint32_t next_epoch = 100;
  MuxCore host;
  MuxCore guest;
};

}  // namespace ferry::bridge
