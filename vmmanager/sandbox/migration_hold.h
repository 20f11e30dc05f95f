#pragma once

#include <cstdint>
#include <string>

namespace ferry::vm {

// What attached clients are told about a migration of their VM.
struct MigrationNotice {
  enum class Kind {
    kOpened,  // a session opened; the VM may move to `destination`
    kMoved,   // the VM leaves for `destination`
    kClosed,  // called off; the VM goes on here
  };
  Kind kind = Kind::kOpened;
  std::string session_id;
  std::string destination;
};

// What a VM is to a migration that was under way when the former daemon process died.
struct AdoptionClaim {
  enum class Kind {
    kOwner,         // nothing: the VM is this host's, and may be used
    kMigratingOut,  // still this host's; the session will be called off
    kInDoubt,       // was given away; the destination's word decides
    kIncoming,      // comes from another host, which has not given it away yet
    kStale,         // another host was forced to run it: the session ends what is here
  };
  Kind kind = Kind::kOwner;
  std::string session_id;
  std::string destination;       // of what goes out
  bool may_have_left = false;    // by the session, unless the VMM shows that it has not
  bool guest_is_loaded = false;  // of what comes in: the guest's state is there
  uint64_t stale_epoch = 0;      // of what is stale: its highest; what is above it came later
};

// Is told what becomes of one VM for as long as it is registered (UtilityVm::AddObserver).
class MoveObserver {
 public:
  virtual ~MoveObserver() = default;
  virtual void OnNotice(const MigrationNotice& notice) = 0;
  // It does not run here any more, and its guest is gone.
  virtual void OnEnded() {}
  // It was saved: its guest is gone, and comes back as it was.
  virtual void OnSaved() {}
};

}  // namespace ferry::vm
