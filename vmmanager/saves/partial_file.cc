#include "vmmanager/saves/partial_file.h"

#include <fcntl.h>
#include <openssl/rand.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <utility>

#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/str_cat.h"
#include "vmmanager/state/envelope.h"

namespace ferry::vm {
namespace {

constexpr size_t kAlignment = 4096;  // of direct writes: no disk has larger blocks
constexpr size_t kBufferBytes = 1024ull * 1024;

absl::StatusOr<std::string> DraftName(const std::string& path) {
  std::array<char, 8> random;
  if (RAND_bytes(reinterpret_cast<unsigned char*>(random.data()), random.size()) != 1) {
    return absl::InternalError("OpenSSL has no random bytes");
  }
  return path + ".partial-" + ToHex({random.data(), random.size()});
}

UniqueFd CreateNew(const std::string& path, int more_flags) {
  return UniqueFd(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | more_flags, 0600));
}

std::string NameOfDescriptor(int fd) { return StrCat("/proc/self/fd/", fd); }

// One that goes away with its descriptor, whatever ends us. Not valid where that cannot be had.
UniqueFd CreateNameless(const std::string& folder, int more_flags) {
  UniqueFd file(::open(folder.c_str(), O_WRONLY | O_TMPFILE | O_CLOEXEC | more_flags, 0600));
  // By that it gets its name.
  if (file.valid() && ::access(NameOfDescriptor(file.get()).c_str(), F_OK) != 0) file.Reset();
  return file;
}

std::optional<uint64_t> FreeBytes(const std::string& folder) {
  struct statvfs info {};
  if (::statvfs(folder.c_str(), &info) != 0) return std::nullopt;
  return uint64_t{info.f_bavail} * info.f_frsize;
}

absl::Status NameTaken(const std::string& path) {
  return absl::AlreadyExistsError(StrCat(path, " exists; remove it, or choose another name"));
}

// Never another file's. Returns the error's number, or 0.
int GiveName(int fd, const std::string& draft, const std::string& path) {
  if (draft.empty()) {
    const std::string file = NameOfDescriptor(fd);
    const int linked = ::linkat(AT_FDCWD, file.c_str(), AT_FDCWD, path.c_str(), AT_SYMLINK_FOLLOW);
    return linked == 0 ? 0 : errno;
  }
  if (::renameat2(AT_FDCWD, draft.c_str(), AT_FDCWD, path.c_str(), RENAME_NOREPLACE) == 0) return 0;
  if (errno != EINVAL) return errno;
  // NFS, for one, knows no such renaming.
  if (::link(draft.c_str(), path.c_str()) != 0) return errno;
  ::unlink(draft.c_str());
  return 0;
}

}  // namespace

absl::StatusOr<std::unique_ptr<PartialFile>> PartialFile::Create(std::string path,
                                                                 const Options& options) {
  // Said before all of it is written.
  if (::access(path.c_str(), F_OK) == 0) return NameTaken(path);
  const bool bypass_cache = options.bypass_cache;
  Buffer buffer(static_cast<char*>(std::aligned_alloc(kAlignment, kBufferBytes)));
  if (buffer == nullptr) return absl::ResourceExhaustedError("no memory to write a file with");
  UniqueFd nameless = CreateNameless(SaveFolderOf(path), bypass_cache ? O_DIRECT : 0);
  bool bypasses = bypass_cache;
  if (!nameless.valid() && bypass_cache) {
    // It may be that alone which the file system does not know.
    nameless = CreateNameless(SaveFolderOf(path), 0);
    bypasses = false;
  }
  if (nameless.valid()) {
    return std::unique_ptr<PartialFile>(
        new PartialFile(std::move(path), "", std::move(nameless), bypasses, std::move(buffer)));
  }
  ASSIGN_OR_RETURN(std::string draft, DraftName(path));
  UniqueFd file = CreateNew(draft, bypass_cache ? O_DIRECT : 0);
  const bool cannot_bypass = bypass_cache && !file.valid() && errno == EINVAL;
  if (cannot_bypass) {
    // Some kernels make the file before they see that its file system cannot do that.
    ::unlink(draft.c_str());
    file = CreateNew(draft, 0);
  }
  if (!file.valid()) {
    const std::string folder = SaveFolderOf(path);
    return SaveWriteFailure(errno, folder, 0, FreeBytes(folder));
  }
  return std::unique_ptr<PartialFile>(
      new PartialFile(std::move(path), std::move(draft), std::move(file),
                      bypass_cache && !cannot_bypass, std::move(buffer)));
}

PartialFile::PartialFile(std::string path, std::string draft, UniqueFd file, bool direct,
                         Buffer buffer)
    : path_(std::move(path)),
      draft_(std::move(draft)),
      file_(std::move(file)),
      direct_(direct),
      buffer_(std::move(buffer)) {
  if (!direct_) writeback_ = Writeback::Start(file_.get(), 0);
}

PartialFile::~PartialFile() {
  if (!draft_.empty()) ::unlink(draft_.c_str());
}

absl::Status PartialFile::Append(std::string_view bytes) {
  bytes_ += bytes.size();
  // Even what is long goes through the buffer: at an odd place in the file, the kernel copies it
  // several times slower than it is copied here.
  while (!bytes.empty()) {
    const size_t count = std::min(bytes.size(), kBufferBytes - collected_);
    std::memcpy(buffer_.get() + collected_, bytes.data(), count);
    collected_ += count;
    bytes.remove_prefix(count);
    if (collected_ == kBufferBytes) RETURN_IF_ERROR(WriteBlocks());
  }
  return absl::OkStatus();
}

absl::StatusOr<std::span<char>> PartialFile::Room(size_t at_least) {
  if (kBufferBytes - collected_ < at_least) RETURN_IF_ERROR(WriteBlocks());
  return std::span(buffer_.get() + collected_, kBufferBytes - collected_);
}

void PartialFile::Took(size_t bytes) {
  collected_ += bytes;
  bytes_ += bytes;
}

absl::Status PartialFile::WriteBlocks() {
  const size_t rest = collected_ % kAlignment;
  const size_t blocks = collected_ - rest;
  RETURN_IF_ERROR(WriteOut({buffer_.get(), blocks}));
  std::memmove(buffer_.get(), buffer_.get() + blocks, rest);
  collected_ = rest;
  return absl::OkStatus();
}

absl::Status PartialFile::WriteOut(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::write(file_.get(), bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    // That it cannot bypass the cache may show only now, or after the kernel took a part.
    if (count < 0 && errno == EINVAL && direct_) {
      RETURN_IF_ERROR(StopBypass());
      writeback_ = Writeback::Start(file_.get(), written_);
      continue;
    }
    if (count < 0) return Failure(errno);
    written_ += static_cast<uint64_t>(count);
    bytes.remove_prefix(static_cast<size_t>(count));
  }
  if (writeback_) writeback_->UpTo(written_);
  return absl::OkStatus();
}

absl::Status PartialFile::StopBypass() {
  const int flags = ::fcntl(file_.get(), F_GETFL);
  if (flags < 0 || ::fcntl(file_.get(), F_SETFL, flags & ~O_DIRECT) != 0) return Failure(errno);
  direct_ = false;
  return absl::OkStatus();
}

absl::Status PartialFile::Commit() {
  // The last piece has any length.
  if (direct_) RETURN_IF_ERROR(StopBypass());
  RETURN_IF_ERROR(WriteOut({buffer_.get(), std::exchange(collected_, 0)}));
  writeback_.reset();
  if (::fsync(file_.get()) != 0) return Failure(errno);
  if (const int error = GiveName(file_.get(), draft_, path_); error != 0) {
    if (error == EEXIST) return NameTaken(path_);
    return absl::ErrnoToStatus(error, StrCat("cannot give a saved VM the name ", path_));
  }
  draft_.clear();
  const absl::Status synced = SyncFolderOf(path_);
  // Whoever is told that there is none must not find one.
  if (!synced.ok()) ::unlink(path_.c_str());
  return synced;
}

absl::Status PartialFile::Failure(int error) const {
  const std::string folder = SaveFolderOf(path_);
  return SaveWriteFailure(error, folder, written_, FreeBytes(folder));
}

std::string SaveFolderOf(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  return folder.empty() ? "." : folder;
}

absl::Status SyncFolderOf(const std::string& path) {
  const std::string name = SaveFolderOf(path);
  const UniqueFd folder(::open(name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.valid() && ::fsync(folder.get()) == 0) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, StrCat("cannot sync the folder ", name));
}

absl::Status SaveWriteFailure(int error, std::string_view folder, uint64_t bytes_written,
                              std::optional<uint64_t> bytes_free) {
  const bool full = error == ENOSPC;
  if (!full && error != EDQUOT && error != EFBIG) {
    return absl::ErrnoToStatus(error, StrCat("cannot save a VM to the folder ", folder));
  }
  const char* why = full              ? "the disk is full"
                    : error == EDQUOT ? "the disk quota is used up"
                                      : "a file may not be that large";
  return absl::ResourceExhaustedError(
      StrCat("cannot save a VM to the folder ", folder, ": ", why, "; ", bytes_written,
             " bytes were written so far",
             bytes_free ? StrCat(" and ", *bytes_free, " bytes are free") : std::string()));
}

}  // namespace ferry::vm
