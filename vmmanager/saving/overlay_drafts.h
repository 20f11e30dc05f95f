#pragma once

#include <functional>
#include <memory>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "ferry/state/v1/checkpoint.pb.h"
#include "vmmanager/sandbox/overlay_files.h"
#include "vmmanager/saving/kept_files.h"

namespace ferry::vm {

// Makes the overlays of a checkpoint, so that none is left if the daemon dies before a VM has them:
// a note beside the VM's own files says what is about to be made. Thread: the executor's only.
class OverlayDrafts {
 public:
  using Record = state::v1::CheckpointRecord;

  // Both must outlive it.
  OverlayDrafts(KeptFiles& files, OverlayFiles& overlays) : files_(files), overlays_(overlays) {}

  // Makes those that the record names, and writes into it where they are: beside that, if the name
  // is taken and `is_named` says that nobody has chosen it. `to_go` has others that no VM will have
  // then. Returns the note, to be forgotten once the store knows what became of them. None is left
  // after an error.
  Task<absl::StatusOr<std::string>> Make(std::string vm_id, std::shared_ptr<Record> record,
                                         std::function<bool(const std::string& disk)> is_named,
                                         Record to_go);
  // Takes the names of copies, as Make does of overlays: of what is in `file` of each disk, under
  // its `overlay`. Their inodes are in `generation` then, and in the note.
  Task<absl::StatusOr<std::string>> Reserve(std::string vm_id, std::shared_ptr<Record> record,
                                            std::function<bool(const std::string& disk)> is_named);
  // Notes others that no VM will have; returns the note.
  Task<absl::StatusOr<std::string>> Note(std::string vm_id, Record to_go);
  Task<void> Forget(std::string note);
  // Of overlays that no VM has; and forgets the note, unless one could not be removed. Those that
  // are their user's stay.
  Task<void> Remove(Record record, std::string note);
  // The same of copies whose names are reserved. What is another file by now stays.
  Task<void> RemoveCopies(Record record, std::string note);
  // What a former daemon made and no VM has in `used`. Notes in folders that are `unclear` stay. In
  // those that are no `known` VM's only copies are looked for: a VM that is gone may be on another
  // host, and have its overlays there.
  Task<void> Sweep(std::set<std::string> used, std::set<std::string> known,
                   std::set<std::string> unclear);

 private:
  Task<absl::Status> Choose(std::shared_ptr<Record> record,
                            std::function<bool(const std::string&)> is_named);
  Task<absl::StatusOr<std::string>> NewNote(std::string vm_id);
  Task<absl::Status> Write(std::string note, Record drafts);

  KeptFiles& files_;
  OverlayFiles& overlays_;
};

}  // namespace ferry::vm
