#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "migration/connection/handshake.h"
#include "migration/connection/session_core.h"
#include "tests/unit/migration/connection/test_params.h"

namespace ferry::migration {

// Two ends of a connection, with wires between them that the test can hold, cut and damage.
class SessionCoreTest : public testing::Test {
 public:
  using Kind = SessionEvent::Kind;

  static std::string RandomBytes(size_t size, uint32_t seed) {
    std::mt19937_64 random(seed);
    std::string bytes(size, '\0');
    for (size_t i = 0; i < size; i += 8) {
      const uint64_t word = random();
      std::memcpy(&bytes[i], &word, std::min<size_t>(8, size - i));
    }
    return bytes;
  }

  // One end with everything that happened to it.
  struct End {
    End(Role r, const SessionLimits& limits, SessionCore::TimePoint now)
        : role(r), core(r, limits, now) {}

    Role role;
    SessionCore core;
    std::string wire;  // written, not yet received by the other end
    std::map<uint16_t, std::string> received;
    std::vector<SessionMessage> messages;
    std::vector<SessionEvent> events;  // without data and messages
    std::vector<FrameType> sent_types;
    bool consume = true;  // takes channel bytes at once
    VersionRange versions;
    absl::Status status;

    const SessionEvent* Find(Kind kind) const {
      for (const auto& event : events) {
        if (event.kind == kind) return &event;
      }
      return nullptr;
    }
  };

  void Connect(SessionLimits limits = {}) {
    source_ = std::make_unique<End>(Role::kSource, limits, now_);
    destination_ = std::make_unique<End>(Role::kDestination, limits, now_);
    source_->core.SendHello(TestParams(Role::kSource));
    Run();
    ASSERT_TRUE(source_->core.established());
    ASSERT_TRUE(destination_->core.established());
  }

  // Takes at most `limit` frames of output.
  size_t Write(End* end, size_t limit = SIZE_MAX) {
    size_t count = 0;
    while (count < limit) {
      const auto frame = end->core.NextOutput(now_);
      if (!frame) break;
      ++count;
      end->wire.append(frame->header.data(), frame->header.size());
      end->wire.append(frame->payload);
      end->sent_types.push_back(static_cast<FrameType>(frame->header[4]));
      end->core.OutputDone();
    }
    return count;
  }

  // Gives up to `limit` bytes of `from` to `to`.
  void Deliver(End* from, End* to, size_t limit = SIZE_MAX) {
    while (limit > 0 && !from->wire.empty() && to->status.ok()) {
      const std::span<char> space = to->core.decoder().Space();
      const size_t size = std::min({limit, from->wire.size(), space.size()});
      std::memcpy(space.data(), from->wire.data(), size);
      from->wire.erase(0, size);
      limit -= size;
      to->core.Received(size, now_);
      Take(to);
    }
  }

  void Take(End* to) {
    while (true) {
      auto event = to->core.NextEvent(now_);
      if (!event.ok()) {
        to->status = event.status();
        return;
      }
      if (!event->has_value()) return;
      OnEvent(to, std::move(**event));
    }
  }

  void OnEvent(End* to, SessionEvent event) {
    if (event.kind == Kind::kHello) {
      const auto refusal = CheckHello(event.hello, TestParams(Role::kDestination), to->versions);
      if (refusal) {
        to->core.Refuse(*refusal);
      } else {
        to->core.Accept(event.hello, "destination-journal");
      }
    } else if (event.kind == Kind::kData) {
      to->received[event.channel].append(event.data);
      if (to->consume) to->core.Consumed(event.channel, event.data.size());
      return;
    } else if (event.kind == Kind::kMessage) {
      to->core.MessageTaken(event.message.bytes.size());
      to->messages.push_back(std::move(event.message));
      return;
    }
    event.data = {};
    to->events.push_back(std::move(event));
  }

  void Run() {
    for (bool moved = true; moved;) {
      moved = Write(source_.get()) + Write(destination_.get()) > 0;
      Deliver(source_.get(), destination_.get());
      Deliver(destination_.get(), source_.get());
    }
  }

  uint16_t OpenChannel() {
    const auto channel = source_->core.Open();
    EXPECT_TRUE(channel.ok()) << channel.status();
    Run();
    return *channel;
  }

  SessionCore::TimePoint now_{std::chrono::hours(1)};
  std::unique_ptr<End> source_;
  std::unique_ptr<End> destination_;
};

}  // namespace ferry::migration
