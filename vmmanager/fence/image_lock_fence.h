#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "bridge/runtime/unique_fd.h"
#include "vmmanager/fence/fence.h"

namespace ferry::vm {

struct ImageLockOptions {
  std::string folder;                         // of the locks, "<VM's id>.lock" each
  bool shared = false;                        // other hosts keep theirs there, too
  std::string host_id;                        // written into the files: of this host's journal
  std::string address;                        // likewise: where clients and peers reach this host
  milliseconds limit{5'000};                  // for each call; the folder's file system may hang
  milliseconds patience{1'000};               // with calls that are under way when the daemon ends
  std::function<void()> before_work = [] {};  // on the thread that asks the file system
};

// A lock file for each VM. In a folder of this host's own it keeps a VMM off that was left over
// there; in one that hosts share, on a file system that carries flock between them, other hosts,
// too.
class ImageLockFence final : public Fence {
 public:
  // FAILED_PRECONDITION if the folder is missing, or files in it cannot be locked. Where the
  // folder gives no answer, the fence is there, and its claims fail as long as that is so.
  static Task<absl::StatusOr<std::unique_ptr<ImageLockFence>>> Open(Executor executor,
                                                                    ImageLockOptions options);
  // Lets go of the locks without undoing them: running VMMs keep them.
  ~ImageLockFence() override;

  // kImageLock where hosts share the folder, else kHostLock.
  std::string level() const override;
  Task<absl::Status> Prepare(std::string vm_id) override;
  Task<absl::Status> Claim(FenceClaim claim) override;
  Task<absl::StatusOr<FenceSight>> Look(FenceClaim claim, std::string holder) override;
  Task<void> Yield(std::string vm_id) override;
  Task<void> Release(std::string vm_id) override;
  Task<void> Forget(std::string vm_id, FenceFate fate) override;

  // What the VM's VMM has to inherit, after Prepare or Claim; -1 if there is none.
  int Descriptor(const std::string& vm_id) const;
  // The same, as a VMM had it that a former daemon process left running; or why the kernel does not
  // give it out. Then the lock is taken to be held as it is, and cannot be given up.
  void TakeBack(const std::string& vm_id, absl::StatusOr<UniqueFd> kept);

 private:
  struct VmLock;
  struct Entry;
  struct State;

  ImageLockFence(Executor executor, ImageLockOptions options);

  std::shared_ptr<State> state_;  // shared with the calls that are under way
};

}  // namespace ferry::vm
