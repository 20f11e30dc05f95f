#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "migration/commit/commit_core.h"

// A model of two hosts that move one VM between them, twice, with everything that may go wrong:
// daemons that crash between any two steps, messages that get lost, come twice or out of order,
// and journals that lose their newest record, or are put back to an earlier state. It drives
// SourceCommit and DestinationCommit themselves; what it models is the world around them.
namespace ferry::migration::model {

// A mistake that a driver of the cores could make, to see whether the checker would find it.
enum class Mistake {
  kNone,
  kResumeAfterTimeout,     // the source gives up waiting after COMMIT and runs the VM
  kForgetCommit,           // a restarted source takes COMMIT for not committed
  kTellRefusedTooEarly,    // the destination says REFUSED before the record is durable
  kTrustDamagedJournal,    // nobody notices that a journal lost its newest record
  kTrustRestoredJournal,   // a restarted source does not ask before it trusts its journal
  kRunBeforeGrantIsKnown,  // a restarted destination runs what it had only voted for
  kOfferOnce,              // the source says GO once and then only waits
  kReleaseWithGo,          // the source ends its copy without waiting for DONE
};

struct Faults {
  int crashes_per_host = 0;
  int lost_messages = 0;
  int doubled_messages = 0;
  int damaged_journals = 0;
  int restored_journals = 0;  // to an earlier state, which nobody notices
};

enum class Copy : uint8_t { kNone, kLoading, kLoaded, kPaused, kRunning, kGone };
enum class Stream : uint8_t { kIdle, kActive, kComplete, kBroken };

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
  uint8_t source_knows = 0;     // bits: vote, transfer complete
  uint8_t source_damaged = 0;   // the journal lacks a record, and it was noticed
  uint8_t source_in_doubt = 0;  // nothing but its journal says that there was no COMMIT
  uint8_t destination_damaged = 0;
  Stream stream = Stream::kIdle;
  uint8_t messages = 0;  // bits, see Message
  bool operator==(const Session&) const = default;
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
  std::array<uint8_t, 2> up{1, 1};
  std::array<uint8_t, 2> crashes{};
  uint8_t lost = 0;
  uint8_t doubled = 0;
  uint8_t damaged = 0;
  uint8_t restored = 0;
  bool operator==(const World&) const = default;
};

struct Step {
  // For people, put together only when somebody reads it: there are millions of steps.
  struct Label {
    const char* who = "";
    int number = 0;
    const char* does = "";
    std::string_view record;
    const char* again = nullptr;  // the message that comes again
    std::string Text() const;
  };
  Label label;
  World world;
  bool fault = false;
};

// Everything that can happen next.
std::vector<Step> Successors(const World& world, const Faults& faults, Mistake mistake);

// All of a world but the faults that were spent on the way to it, and those faults.
uint64_t Situation(const World& world);
uint16_t Spent(const World& world);
World Unpack(uint64_t situation, uint16_t spent);

// Empty, or what is wrong with this world.
std::string BrokenInvariant(const World& world);

// Whether both sessions that were begun are over, with the VM running exactly once.
bool IsSettled(const World& world);

struct Verdict {
  std::string violation;           // empty: none
  std::vector<std::string> trace;  // the steps that lead to it
  size_t worlds = 0;               // that were looked at
};

// Looks at every world that can be reached, and that each can still be settled once nothing fails
// any more.
Verdict Check(const Faults& faults, Mistake mistake);

}  // namespace ferry::migration::model
