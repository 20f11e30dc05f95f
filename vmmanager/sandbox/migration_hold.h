#pragma once

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

// Gets the notices of one VM for as long as it is registered (UtilityVm::AddObserver).
class MoveObserver {
 public:
  virtual ~MoveObserver() = default;
  virtual void OnNotice(const MigrationNotice& notice) = 0;
};

}  // namespace ferry::vm
