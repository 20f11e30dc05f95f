#include "vmmanager/fence/image_lock_fence.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <set>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/blocking_worker.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/fence/lock_file.h"

namespace ferry::vm {
namespace {

constexpr char kLockFolderAnswer[] = "the folder of the VMs' locks";

// The guest whose claim it is stands still until the journal's next record is on the same disk,
// which would wait for this one.
constexpr milliseconds kSyncDelay{200};

absl::Status FolderUnusable(const std::string& folder, const std::string& why) {
  return absl::FailedPreconditionError(
      absl::StrCat("VMs' locks cannot be kept in the folder ", folder, ": ", why));
}

// UNAVAILABLE where the file system itself has nobody to ask.
absl::Status FolderFails(const std::string& folder, int error) {
  if (error != EIO && error != ETIMEDOUT && error != EHOSTDOWN) {
    return FolderUnusable(folder, std::strerror(error));
  }
  return absl::UnavailableError(
      absl::StrCat("the folder of the VMs' locks, ", folder, ": ", std::strerror(error)));
}

absl::Status CheckFolder(const std::string& folder) {
  struct stat status {};
  if (::stat(folder.c_str(), &status) != 0) return FolderFails(folder, errno);
  if (!S_ISDIR(status.st_mode)) return FolderUnusable(folder, "it is no folder");
  return absl::OkStatus();
}

// What a file system cannot do shows only when it is tried.
absl::Status TryLocking(const std::string& folder) {
  RETURN_IF_ERROR(CheckFolder(folder));
  const std::string path = absl::StrCat(folder, "/.try");
  const UniqueFd file(
      ::open(path.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600));
  if (!file.valid()) return FolderFails(folder, errno);
  const int locked = ::flock(file.get(), LOCK_EX | LOCK_NB);
  const int error = errno;
  ::unlink(path.c_str());
  // Another host may be trying, too.
  if (locked == 0 || error == EWOULDBLOCK) return absl::OkStatus();
  return FolderUnusable(folder,
                        absl::StrCat("files there cannot be locked: ", std::strerror(error)));
}

// It becomes a file's name.
absl::Status CheckVmId(const std::string& id) {
  constexpr size_t kMaxId = 64;
  const bool plain =
      !id.empty() && id.size() <= kMaxId && std::all_of(id.begin(), id.end(), [](unsigned char c) {
        return absl::ascii_isalnum(c) || c == '-';
      });
  if (plain) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("'", id, "' is no VM's id"));
}

}  // namespace

// Of one VM; the worker's.
struct ImageLockFence::VmLock {
  static constexpr uint64_t kFormerDaemon = 0;  // beside the calls of this one

  explicit VmLock(std::string path) : file(std::move(path)) {}

  absl::Status Claim(LockRequest request, uint64_t call) {
    request.vmm_may_hold = !unreachable.empty();
    RETURN_IF_ERROR(file.Lock(request));
    relying.insert(call);
    return absl::OkStatus();
  }
  // Nobody waited for that claim any more.
  void Undo(uint64_t call) {
    if (relying.erase(call) > 0 && relying.empty()) file.Unlock();
  }
  void Yield() {
    relying.clear();
    file.Unlock();
  }
  void TakeBack(absl::StatusOr<UniqueFd> kept) {
    if (kept.ok()) {
      // Where it is of another file, the next claim locks the one that is there.
      const absl::Status adopted = file.Adopt(*std::move(kept));
      if (!adopted.ok()) spdlog::warn("{}: {}", file.path(), adopted.ToString());
      if (file.locked()) relying.insert(kFormerDaemon);
      return;
    }
    unreachable = std::string(kept.status().message());
    spdlog::warn(
        "{} cannot be got back from the VM's VMM: {}. It is taken to be held; another host may "
        "refuse the VM because of it",
        file.path(), unreachable);
  }
  void Release() {
    Yield();
    file.Close();
    unreachable.clear();
  }

  LockFile file;
  std::string unreachable;     // why the VMM's descriptor cannot be had; else empty
  std::set<uint64_t> relying;  // the claims that the lock is held for
};

// The same, as far as this side of the worker knows.
struct ImageLockFence::Entry {
  std::shared_ptr<VmLock> lock;
  uint64_t calls = 0;       // so far; the answer to an older one tells nothing of what is now
  uint64_t held_epoch = 0;  // 0: not held
  int descriptor = -1;
};

struct ImageLockFence::State {
  State(Executor given_executor, ImageLockOptions given)
      : executor(given_executor), options(std::move(given)), worker(std::move(given_executor)) {}

  std::string PathOf(const std::string& vm_id) const {
    return absl::StrCat(options.folder, "/", vm_id, ".lock");
  }

  absl::StatusOr<std::shared_ptr<Entry>> EntryOf(const std::string& vm_id) {
    RETURN_IF_ERROR(CheckVmId(vm_id));
    std::shared_ptr<Entry>& entry = entries[vm_id];
    if (entry == nullptr) {
      entry = std::make_shared<Entry>();
      entry->lock = std::make_shared<VmLock>(PathOf(vm_id));
    }
    return entry;
  }

  LockRequest RequestFor(const FenceClaim& claim) const {
    LockRequest request;
    request.own = {claim.epoch, options.host_id, options.address};
    request.vm_name = claim.vm_name;
    return request;
  }

  // UNAVAILABLE if it comes too late; it has its effect all the same.
  Task<absl::Status> Work(std::function<absl::Status()> work) {
    const std::string folder = options.folder;
    std::function<absl::Status()> job = [before = options.before_work, work = std::move(work)] {
      before();
      return work();
    };
    absl::Status done = co_await worker.Run(options.limit, kLockFolderAnswer, std::move(job));
    if (!absl::IsDeadlineExceeded(done)) co_return done;
    co_return absl::UnavailableError(
        absl::StrCat("whether another copy of the VM may run cannot be told: ", done.message(),
                     "; look at the file system of ", folder, " and try again"));
  }

  // What is given up is so for us at once, and in the end, however late.
  Task<void> GiveUp(std::shared_ptr<Entry> entry, std::function<void()> work) {
    ++entry->calls;
    entry->held_epoch = 0;
    std::function<absl::Status()> job = [work = std::move(work)] {
      work();
      return absl::OkStatus();
    };
    const std::string path = entry->lock->file.path();
    const absl::Status done = co_await Work(std::move(job));
    if (!done.ok()) spdlog::warn("{} is given up late: {}", path, done.ToString());
  }

  // Makes durable what a claim wrote into the file.
  static Task<void> SyncLater(std::weak_ptr<State> weak, std::weak_ptr<VmLock> claimed) {
    co_await Delay(kSyncDelay);
    const std::shared_ptr<State> state = weak.lock();
    if (state == nullptr) co_return;
    state->worker.Post([claimed] {
      if (const std::shared_ptr<VmLock> lock = claimed.lock()) lock->file.Sync();
    });
  }

  const Executor executor;
  const ImageLockOptions options;
  BlockingWorker worker;
  std::map<std::string, std::shared_ptr<Entry>> entries;
};

Task<absl::StatusOr<std::unique_ptr<ImageLockFence>>> ImageLockFence::Open(
    Executor executor, ImageLockOptions options) {
  std::function<absl::Status()> attempt = [folder = options.folder] { return TryLocking(folder); };
  std::unique_ptr<ImageLockFence> fence(
      new ImageLockFence(std::move(executor), std::move(options)));
  absl::Status usable = co_await fence->state_->Work(std::move(attempt));
  if (absl::IsUnavailable(usable)) {
    spdlog::error("until that is well again, no VM starts here, arrives, or comes back: {}",
                  usable.ToString());
  } else if (!usable.ok()) {
    co_return usable;
  }
  co_return absl::StatusOr<std::unique_ptr<ImageLockFence>>(std::move(fence));
}

ImageLockFence::ImageLockFence(Executor executor, ImageLockOptions options)
    : state_(std::make_shared<State>(std::move(executor), std::move(options))) {}

ImageLockFence::~ImageLockFence() {
  // Closing a file may block, too.
  state_->worker.Post([entries = std::move(state_->entries)] {});
  state_->worker.Close(state_->options.patience);
}

std::string ImageLockFence::level() const {
  return state_->options.shared ? kImageLock : kHostLock;
}

Task<absl::Status> ImageLockFence::Prepare(std::string vm_id) {
  std::shared_ptr<State> state = state_;
  CO_ASSIGN_OR_RETURN(std::shared_ptr<Entry> entry, state->EntryOf(vm_id));
  const uint64_t call = ++entry->calls;
  auto descriptor = std::make_shared<int>(-1);
  std::function<absl::Status()> open = [lock = entry->lock, descriptor] {
    // What a former VMM had went with it.
    lock->unreachable.clear();
    RETURN_IF_ERROR(lock->file.Open());
    *descriptor = lock->file.descriptor();
    return absl::OkStatus();
  };
  absl::Status opened = co_await state->Work(std::move(open));
  if (opened.ok() && entry->calls == call) entry->descriptor = *descriptor;
  co_return opened;
}

Task<absl::Status> ImageLockFence::Claim(FenceClaim claim) {
  std::shared_ptr<State> state = state_;
  CO_ASSIGN_OR_RETURN(std::shared_ptr<Entry> entry, state->EntryOf(claim.vm_id));
  if (entry->held_epoch != 0 && claim.epoch <= entry->held_epoch) co_return absl::OkStatus();
  const uint64_t call = ++entry->calls;
  auto descriptor = std::make_shared<int>(-1);
  std::function<absl::Status()> take = [lock = entry->lock, descriptor, call,
                                        request = state->RequestFor(claim)] {
    absl::Status taken = lock->Claim(request, call);
    *descriptor = lock->file.descriptor();
    return taken;
  };
  // Where nobody waits for it any more, it is not ours after all.
  absl::Cleanup undo = [state, lock = entry->lock, call] {
    state->worker.Post([lock, call] { lock->Undo(call); });
  };
  absl::Status claimed = co_await state->Work(std::move(take));
  if (entry->calls == call) entry->held_epoch = claimed.ok() ? claim.epoch : 0;
  if (!claimed.ok()) co_return claimed;
  std::move(undo).Cancel();
  if (entry->calls == call) entry->descriptor = *descriptor;
  Spawn(state->executor, State::SyncLater(state, entry->lock));
  co_return claimed;
}

Task<absl::StatusOr<FenceSight>> ImageLockFence::Look(FenceClaim claim, std::string holder) {
  std::shared_ptr<State> state = state_;
  CO_RETURN_IF_ERROR(CheckVmId(claim.vm_id));
  auto sight = std::make_shared<FenceSight>(FenceSight::kFree);
  std::function<absl::Status()> look = [folder = state->options.folder,
                                        path = state->PathOf(claim.vm_id), holder, sight,
                                        request = state->RequestFor(claim)] {
    RETURN_IF_ERROR(CheckFolder(folder));
    const LockFile file(path);
    ASSIGN_OR_RETURN(*sight, file.Look(request, holder));
    return absl::OkStatus();
  };
  CO_RETURN_IF_ERROR(co_await state->Work(std::move(look)));
  co_return *sight;
}

Task<void> ImageLockFence::Yield(std::string vm_id) {
  std::shared_ptr<State> state = state_;
  const auto found = state->entries.find(vm_id);
  if (found == state->entries.end()) co_return;
  std::shared_ptr<Entry> entry = found->second;
  std::function<void()> unlock = [lock = entry->lock] { lock->Yield(); };
  co_await state->GiveUp(std::move(entry), std::move(unlock));
}

Task<void> ImageLockFence::Release(std::string vm_id) {
  std::shared_ptr<State> state = state_;
  const auto found = state->entries.find(vm_id);
  if (found == state->entries.end()) co_return;
  std::shared_ptr<Entry> entry = found->second;
  entry->descriptor = -1;
  std::function<void()> release = [lock = entry->lock] { lock->Release(); };
  co_await state->GiveUp(std::move(entry), std::move(release));
}

Task<void> ImageLockFence::Forget(std::string vm_id, FenceFate fate) {
  std::shared_ptr<State> state = state_;
  absl::StatusOr<std::shared_ptr<Entry>> found = state->EntryOf(vm_id);
  if (!found.ok()) co_return;
  std::shared_ptr<Entry> entry = *std::move(found);
  // In a folder of its own no other host can come to miss it.
  const bool also_if_found = fate == FenceFate::kDeleted || !state->options.shared;
  std::function<void()> remove = [lock = entry->lock, host_id = state->options.host_id,
                                  also_if_found] {
    lock->Yield();
    lock->file.Remove(host_id, also_if_found);
  };
  state->entries.erase(vm_id);
  co_await state->GiveUp(std::move(entry), std::move(remove));
}

int ImageLockFence::Descriptor(const std::string& vm_id) const {
  const auto entry = state_->entries.find(vm_id);
  return entry == state_->entries.end() ? -1 : entry->second->descriptor;
}

void ImageLockFence::TakeBack(const std::string& vm_id, absl::StatusOr<UniqueFd> kept) {
  const absl::StatusOr<std::shared_ptr<Entry>> entry = state_->EntryOf(vm_id);
  if (!entry.ok()) return;
  ++(*entry)->calls;
  (*entry)->held_epoch = 0;
  auto given = std::make_shared<absl::StatusOr<UniqueFd>>(std::move(kept));
  state_->worker.Post([lock = (*entry)->lock, given] { lock->TakeBack(std::move(*given)); });
}

}  // namespace ferry::vm
