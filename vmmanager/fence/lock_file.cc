#include "vmmanager/fence/lock_file.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/fence/lock_holders.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::vm {
namespace {

// How often the file may be removed or replaced between being opened and being locked.
constexpr int kLockAttempts = 3;

// Others may write into the folder: what is there need not be a file, and must not be followed or
// waited for. For writing, because NFS has no exclusive lock of a file that is open for reading.
constexpr int kLockOpenFlags = O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;

bool IsRegularFile(int file) {
  struct stat status {};
  return ::fstat(file, &status) == 0 && S_ISREG(status.st_mode);
}

bool IsEmpty(int file) {
  struct stat status {};
  return ::fstat(file, &status) == 0 && status.st_size == 0;
}

std::optional<LockRecord> RecordIn(int file) {
  std::array<char, kLockRecordBytes> text{};
  const ssize_t count = ::pread(file, text.data(), text.size(), 0);
  if (count <= 0) return std::nullopt;
  return DecodeLockRecord({text.data(), static_cast<size_t>(count)});
}

bool IsOf(const std::optional<LockRecord>& record, const std::string& host_id) {
  return record && !host_id.empty() && record->host_id == host_id;
}

// Best effort: the lock is what counts.
void Write(int file, LockRecord record, const std::optional<LockRecord>& last) {
  if (last) record.epoch = std::max(record.epoch, last->epoch);
  const std::string text = EncodeLockRecord(record);
  const ssize_t ignored = ::pwrite(file, text.data(), text.size(), 0);
  static_cast<void>(ignored);
}

absl::Status OtherThanFile(const std::string& path) {
  return absl::FailedPreconditionError(
      absl::StrCat(path, " is no file of ferryd's; look who put it there, and remove it"));
}

}  // namespace

absl::Status LockFile::Open() {
  if (file_.valid()) return absl::OkStatus();
  UniqueFd file(::open(path_.c_str(), kLockOpenFlags | O_CREAT | O_EXCL, 0600));
  const bool made = file.valid();
  if (!made && errno == EEXIST) file.Reset(::open(path_.c_str(), kLockOpenFlags | O_CREAT, 0600));
  if (!file.valid() && (errno == ELOOP || errno == EISDIR || errno == ENXIO)) {
    return OtherThanFile(path_);
  }
  if (!file.valid()) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot open the lock file ", path_));
  }
  if (!IsRegularFile(file.get())) return OtherThanFile(path_);
  file_ = std::move(file);
  locked_ = false;
  made_ = made_ || made;
  return absl::OkStatus();
}

absl::Status LockFile::Adopt(UniqueFd kept) {
  if (!IsRegularFile(kept.get()) || !IsCurrent(kept.get())) {
    return absl::FailedPreconditionError(
        absl::StrCat("what the VM's process has open is not ", path_));
  }
  file_ = std::move(kept);
  locked_ = IsFlocked(file_.get());
  return absl::OkStatus();
}

bool LockFile::IsCurrent(int file) const {
  struct stat opened {};
  struct stat named {};
  return ::fstat(file, &opened) == 0 && ::lstat(path_.c_str(), &named) == 0 &&
         opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
}

absl::Status LockFile::Lock(const LockRequest& request) {
  for (int attempt = 0; attempt < kLockAttempts; ++attempt) {
    RETURN_IF_ERROR(Open());
    const bool locked = ::flock(file_.get(), LOCK_EX | LOCK_NB) == 0;
    if (!locked && errno != EWOULDBLOCK) {
      return absl::ErrnoToStatus(errno, absl::StrCat("cannot lock ", path_));
    }
    if (IsCurrent(file_.get())) {
      return locked ? Take(request) : Held(request, file_.get(), RecordIn(file_.get()));
    }
    // Whoever opens it now sees another file.
    spdlog::warn(
        "the lock file {} was removed or replaced; a VMM that has the former one does not keep the "
        "new one locked",
        path_);
    Close();
  }
  return absl::UnavailableError(
      absl::StrCat("the lock file ", path_, " is replaced again and again; look who does that"));
}

absl::Status LockFile::Take(const LockRequest& request) {
  const std::optional<LockRecord> last = RecordIn(file_.get());
  // Who has it locked need not ask what others say: a VM may run under that lock.
  const absl::Status fresh = locked_ ? absl::OkStatus() : CheckFresh(request, last);
  if (!fresh.ok()) {
    Unlock();
    return fresh;
  }
  locked_ = true;
  Write(file_.get(), request.own, last);
  return absl::OkStatus();
}

absl::Status LockFile::CheckFresh(const LockRequest& request,
                                  const std::optional<LockRecord>& last) const {
  if (!last || IsOf(last, request.own.host_id) || last->epoch <= request.own.epoch) {
    return absl::OkStatus();
  }
  return rpc::ErrorWithReason(
      absl::StatusCode::kFailedPrecondition,
      absl::StrCat("VM ", request.vm_name, " was run by ", last->address, " with epoch ",
                   last->epoch, ", says ", path_,
                   "; what this host knows of it is older, of epoch ", request.own.epoch),
      kFenceStale,
      absl::StrCat("go on at ", last->address,
                   "; if nobody has that newer VM any more, remove the lock file"));
}

absl::Status LockFile::Held(const LockRequest& request, int file,
                            const std::optional<LockRecord>& last) const {
  if (request.vmm_may_hold && IsOf(last, request.own.host_id)) return absl::OkStatus();
  const std::string holders = DescribeLockHolders(file);
  std::string message = absl::StrCat(
      "another copy of VM ", request.vm_name, " may be run: its lock ", path_, " is held by ",
      holders.empty() ? "another host, or a process that this one cannot see" : holders);
  if (last) {
    absl::StrAppend(&message, "; ", last->address, " locked it last, for epoch ", last->epoch);
  }
  const std::string next =
      holders.empty()
          ? absl::StrCat("go on at ", last ? last->address : "the host that holds it",
                         ", or end there what may run the VM, and try again")
          : "go on with that copy, or end the process that holds the lock, and try again";
  return FenceHeld(message, next);
}

void LockFile::Unlock() {
  if (file_.valid()) ::flock(file_.get(), LOCK_UN);
  locked_ = false;
}

void LockFile::Sync() const {
  if (file_.valid()) ::fdatasync(file_.get());
}

void LockFile::Close() {
  file_.Reset();
  locked_ = false;
}

void LockFile::Remove(const std::string& host_id, bool also_if_found) {
  UniqueFd file = std::move(file_);
  locked_ = false;
  // Another host's VMM may have it open, and would go on with a file that nobody sees.
  if (!made_ && !also_if_found) return;
  if (!file.valid()) file.Reset(::open(path_.c_str(), kLockOpenFlags));
  if (!file.valid() || !IsRegularFile(file.get())) return;
  if (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) return;
  const bool ours = IsOf(RecordIn(file.get()), host_id) || IsEmpty(file.get());
  if (ours && IsCurrent(file.get())) ::unlink(path_.c_str());
  ::flock(file.get(), LOCK_UN);
}

absl::StatusOr<FenceSight> LockFile::Look(const LockRequest& request,
                                          const std::string& holder) const {
  const UniqueFd file(::open(path_.c_str(), kLockOpenFlags));
  if (!file.valid() && errno == ENOENT) return FenceSight::kFree;
  if (!file.valid()) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot open the lock file ", path_));
  }
  if (!IsRegularFile(file.get())) return OtherThanFile(path_);
  const bool free = ::flock(file.get(), LOCK_SH | LOCK_NB) == 0;
  if (!free && errno != EWOULDBLOCK) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot lock ", path_));
  }
  const std::optional<LockRecord> last = RecordIn(file.get());
  if (free) {
    ::flock(file.get(), LOCK_UN);
    RETURN_IF_ERROR(CheckFresh(request, last));
    return FenceSight::kFree;
  }
  if (!IsOf(last, holder)) return Held(request, file.get(), last);
  return FenceSight::kHeld;
}

}  // namespace ferry::vm
