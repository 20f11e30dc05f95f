#include "tests/unit/migration/commit/commit_world.h"

#include "migration/commit/commit_core.h"
#include "tests/unit/migration/commit/commit_cores.h"

namespace ferry::migration::model {
namespace {

bool Over(const World& world, int s) {
  const Session& session = world.sessions[s];
  if (session.source_effect || session.destination_effect) return false;
  const auto source = static_cast<SourceRecord>(session.source_record);
  const auto destination = static_cast<DestinationRecord>(session.destination_record);
  const Copy there = world.copies[s + 1];
  if (source == SourceRecord::kReleased) {
    return destination == DestinationRecord::kRunning &&
           world.copies[session.source_copy] == Copy::kGone;
  }
  if (source != SourceRecord::kAbort && source != SourceRecord::kReclaimed) return false;
  return (destination == DestinationRecord::kRefused && there != Copy::kLoaded &&
          there != Copy::kLoading) ||
         destination == DestinationRecord::kNone;
}

int Running(const World& world) {
  int running = 0;
  for (const Copy copy : world.copies) running += copy == Copy::kRunning;
  return running;
}

// Whether the source's daemon takes a copy that lacks writes for one that may run. Only the newest
// session has a say.
bool SourceMayRunWithoutItsDisks(const World& world) {
  const int s = world.sessions[1].begun ? 1 : 0;
  const Session& session = world.sessions[s];
  if (!session.begun || world.whole[session.source_copy]) return false;
  return world.up[session.source_host] && world.copies[session.source_copy] != Copy::kGone &&
         SourceCoreOf(session, s).may_execute();
}

bool RunsWithoutItsDisks(const World& world) {
  for (size_t i = 0; i < world.copies.size(); ++i) {
    if (world.copies[i] == Copy::kRunning && !world.whole[i]) return true;
  }
  return false;
}

}  // namespace

World Beginning(Disks disks) {
  World world;
  if (disks == Disks::kShared) return world;
  world.own_disks = 1;
  world.whole = {1, 0, 0};
  return world;
}

std::string BrokenInvariant(const World& world) {
  if (Running(world) > 1) return "two copies of the VM run";
  if (RunsWithoutItsDisks(world)) return "a copy runs without all of its disks";
  if (SourceMayRunWithoutItsDisks(world)) {
    return "the source may run the VM without all of its disks";
  }
  for (const Copy copy : world.copies) {
    if (copy == Copy::kRunning || copy == Copy::kPaused || copy == Copy::kLoaded) return "";
  }
  return "no copy of the VM is left";
}

bool IsSettled(const World& world) {
  if (!world.up[0] || !world.up[1] || Running(world) != 1) return false;
  for (int s = 0; s < 2; ++s) {
    if (world.sessions[s].begun && !Over(world, s)) return false;
  }
  return true;
}

}  // namespace ferry::migration::model
