#pragma once

#include <functional>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "bridge/runtime/unique_fd.h"
#include "ferry/state/v1/save_draft.pb.h"
#include "ferry/state/v1/saved_state.pb.h"
#include "ferry/v1/vm.pb.h"
#include "guestmanager/guest.h"
#include "vmmanager/backend/compute_system.h"
#include "vmmanager/schema/compute_system.h"

// What a VM and whoever keeps its file (vmmanager/saving) do together, step by step.
namespace ferry::vm {

struct SaveSteps {
  // The guest stands still, and nothing is taken from it any more. Writes down all but its memory,
  // and returns where that goes.
  std::function<Task<absl::StatusOr<UniqueFd>>(guest::GuestState)> begin;
  // All of its memory went there: makes the file whole, and returns what is to be remembered of it.
  // The VM ends then, unless it is to live on.
  std::function<Task<absl::StatusOr<state::v1::SavedRecord>>()> seal;
  // Called off: nothing of the file stays. `cause` is what the VM says; the answer is the first
  // cause that is known.
  std::function<Task<absl::Status>(absl::Status cause)> discard;
  // What is to be remembered until the VM is in the file, if a daemon that dies meanwhile would
  // leave it: a file of its user's.
  std::optional<state::v1::SaveDraftRecord> draft;
  bool live_on = false;
};

// A VM as it was saved.
struct SavedMachine {
  schema::ComputeSystem document;
  guest::GuestState guest;
  bool paused = false;
  std::string firmware_store;  // packed; empty: it has none
  MigrationEndpoint endpoint;  // where its memory is taken from
  std::string sha256;          // of the file that was read
  // Of that file, if it is not the one that the VM is saved in.
  std::optional<state::v1::SavedRecord> record;
};

v1::SavedState ToProto(const state::v1::SavedRecord& record);

struct RestoreSteps {
  // Somebody listens at the endpoint: begins to send the memory there.
  std::function<void()> send;
  // Returns when all of it was sent, to everybody who asks. Nothing runs unless it was whole.
  std::function<Task<absl::Status>()> sent;
  // All of it is there, and nothing has run: the last chance to refuse.
  std::function<Task<absl::Status>()> before_run;
  // It did not run after all, whatever before_run has done.
  std::function<Task<void>()> put_back;
};

}  // namespace ferry::vm
