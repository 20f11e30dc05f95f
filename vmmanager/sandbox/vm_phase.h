#pragma once

namespace ferry::vm {

// Where a UtilityVm is in its life. What its users are told (v1::VmState) follows from it, and from
// whether it is paused, saved or on its way to another host:
//
//   STOPPED -> STARTING -> RUNNING <-> PAUSED -> STOPPING -> STOPPED
//   INCOMING -> RUNNING or PAUSED          (a migration's destination)
//   RUNNING/PAUSED -> MIGRATING_OUT -> back, or IN_DOUBT -> gone   (its source)
//   RUNNING/PAUSED -> SAVING -> SAVED -> RESTORING -> RUNNING/PAUSED
//   RUNNING/PAUSED -> SAVING -> back        (into a snapshot)
//   RUNNING/PAUSED -> RESTORING -> RUNNING/PAUSED, or FAILED   (back to a snapshot)
//   RUNNING/PAUSED -> SAVING -> back        (into a checkpoint; live only for a moment)
enum class VmPhase {
  kStopped,
  kStarting,
  kUp,
  kStopping,
  kIncoming,
  kInDoubt,
  kGone,
  kFailed,
  kSaving,
  kRestoring
};

// Why a VM may stand still although nobody paused it.
inline constexpr char kSilent[] = "waits for its VMM, which does not answer";
inline constexpr char kUnwritten[] =
    "stands still until it is written down which files its disks go on in";
// A row's desired state while its VM is about to go on from a file that it was not saved in.
inline constexpr char kFromElsewhere[] = "from_file";

}  // namespace ferry::vm
