#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "tests/unit/migration/commit/commit_world.h"

// What can happen next in a modelled world: the steps of both sides, and everything that may go
// wrong: daemons that crash between any two steps, messages that get lost, come twice or out of
// order, and journals that lose their newest record, or are put back to an earlier state. Both
// sides are SourceCommit and DestinationCommit themselves; what is modelled is the world around
// them.
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
  kVoteWithoutDisks,       // the destination takes disks for received that it has not got
  kSealBeforeStop,         // the source seals the mirrors while the guest still writes
  kDropDisksWithGo,        // the source removes its disks without waiting for DONE
};

struct Faults {
  int crashes_per_host = 0;
  int lost_messages = 0;
  int doubled_messages = 0;
  int damaged_journals = 0;
  int restored_journals = 0;  // to an earlier state, which nobody notices
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

}  // namespace ferry::migration::model
