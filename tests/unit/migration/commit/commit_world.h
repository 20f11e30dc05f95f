#pragma once

#include <array>
#include <cstdint>
#include <string>

// Two hosts that move one VM between them, twice, as numbers: what is in their journals, in their
// memory and under way, and what became of the VM's copies and of their disks.
namespace ferry::migration::model {

enum class Copy : uint8_t { kNone, kLoading, kLoaded, kPaused, kRunning, kGone };
enum class Stream : uint8_t { kIdle, kActive, kComplete, kBroken };
// Of the VM's disks to the destination.
enum class Mirror : uint8_t { kIdle, kActive, kSealed, kReceived, kBroken };

// One migration of the VM. Messages are a set: what is sent twice arrives once, unless it is
// doubled.
struct Session {
  uint8_t begun = 0;
  uint8_t source_host = 0;
  uint8_t source_copy = 0;  // index into World::copies; the destination's is the session's own
  uint8_t source_record = 0;
  uint8_t destination_record = 0;
  uint8_t source_effect = 0;  // a durable record's effect is still to come
  uint8_t destination_effect = 0;
  uint8_t source_knows = 0;     // bits, see Knowledge
  uint8_t source_damaged = 0;   // the journal lacks a record, and it was noticed
  uint8_t source_in_doubt = 0;  // nothing but its journal says that there was no COMMIT
  uint8_t destination_damaged = 0;
  Stream stream = Stream::kIdle;
  Mirror mirror = Mirror::kIdle;
  uint8_t messages = 0;  // bits, see Message
  bool operator==(const Session&) const = default;
};

// Of a source's daemon, in memory only.
enum Knowledge : uint8_t {
  kKnowsVote = 1,
  kKnowsTransfer = 2,
};

enum Message : uint8_t {
  kImport = 1,
  kReady = 2,
  kPrepared = 4,
  kGo = 8,
  kDone = 16,
  kRefused = 32,
  kAbort = 64,
};

struct World {
  std::array<Session, 2> sessions;
  std::array<Copy, 3> copies{Copy::kRunning, Copy::kNone, Copy::kNone};
  // Each copy has disks of its own, as the hosts do not see each other's.
  uint8_t own_disks = 0;
  // Whether a copy's disks have all that a guest was told is written. That is what counts of the
  // number of writes in it: as many as there were, or fewer.
  std::array<uint8_t, 3> whole{1, 1, 1};
  std::array<uint8_t, 2> up{1, 1};
  std::array<uint8_t, 2> crashes{};
  uint8_t lost = 0;
  uint8_t doubled = 0;
  uint8_t damaged = 0;
  uint8_t restored = 0;
  bool operator==(const World&) const = default;
};

// Where all begins, on hosts that see the same disks or do not.
enum class Disks { kShared, kOwn };
World Beginning(Disks disks);

// Empty, or what is wrong with this world.
std::string BrokenInvariant(const World& world);

// Whether both sessions that were begun are over, with the VM running exactly once.
bool IsSettled(const World& world);

}  // namespace ferry::migration::model
