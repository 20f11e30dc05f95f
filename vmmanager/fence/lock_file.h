#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/unique_fd.h"
#include "vmmanager/fence/fence.h"
#include "vmmanager/fence/lock_record.h"

namespace ferry::vm {

// What is locked for whom.
struct LockRequest {
  LockRecord own;       // becomes the file's record
  std::string vm_name;  // for people
  // Our own VMM has the lock, or had it, in a descriptor that cannot be got back from it. A lock
  // whose record names this host is taken for that one.
  bool vmm_may_hold = false;
};

// A VM's lock: a file that is locked by flock as long as somebody can run the VM. The lock is that
// of one open file description, which ferryd and the VM's VMM share: it lives as long as one of
// them, and each can undo it. Calls block as long as the file system does. Not thread-safe.
class LockFile {
 public:
  explicit LockFile(std::string path) : path_(std::move(path)) {}

  const std::string& path() const { return path_; }
  // What a VMM inherits; -1 before Open.
  int descriptor() const { return file_.get(); }
  // Whether the description is locked, whoever did it.
  bool locked() const { return locked_; }

  // Makes it if there is none. Does not lock it.
  absl::Status Open();

  // Takes over the description that the VM's VMM has kept, locked or not. FAILED_PRECONDITION if
  // that is of another file.
  absl::Status Adopt(UniqueFd kept);

  // FAILED_PRECONDITION "fence_held", with who holds it as far as that is known, or "fence_stale"
  // if another host has locked it with a higher epoch since. What is locked already stays so.
  absl::Status Lock(const LockRequest& request);

  // Whoever shares the description has no lock any more.
  void Unlock();

  // Makes the record durable, which Lock does not.
  void Sync() const;

  // Whoever shares the description keeps it as it is.
  void Close();

  // Closes it, and removes the file if it is this object's making or `also_if_found`: but not if
  // somebody else has it locked, or another host than `host_id` had it last.
  void Remove(const std::string& host_id, bool also_if_found);

  // Whether it is locked, by whomever. FAILED_PRECONDITION "fence_held" unless by the host
  // `holder`, and "fence_stale" as in Lock. Makes and changes nothing.
  absl::StatusOr<FenceSight> Look(const LockRequest& request, const std::string& holder) const;

 private:
  // Whether `file` is what has this path now.
  bool IsCurrent(int file) const;
  // It is locked, if it was not before by this call.
  absl::Status Take(const LockRequest& request);
  absl::Status CheckFresh(const LockRequest& request, const std::optional<LockRecord>& last) const;
  absl::Status Held(const LockRequest& request, int file,
                    const std::optional<LockRecord>& last) const;

  const std::string path_;
  UniqueFd file_;
  bool locked_ = false;
  bool made_ = false;  // by this object
};

}  // namespace ferry::vm
