#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "ferry/v1/vm.pb.h"

// What a VM's state does not allow, and what a person can do about it.
namespace ferry::vm {

// A VM as whoever is refused knows it.
struct VmInState {
  absl::string_view name;
  v1::VmState state = v1::VM_STATE_UNSPECIFIED;
  absl::string_view session;  // the migration that holds it, if one does
};

// The state's name for people, e.g. "MIGRATING_OUT".
std::string StateName(v1::VmState state);

// A sentence for whoever wants the VM to be `operation` ("paused"); empty if nothing would help.
std::string NextStep(const VmInState& vm, absl::string_view operation);

// FAILED_PRECONDITION "wrong_state" with that next step.
absl::Status WrongState(const VmInState& vm, absl::string_view operation,
                        absl::string_view message);

}  // namespace ferry::vm
