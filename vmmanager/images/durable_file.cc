#include "vmmanager/images/durable_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/unique_fd.h"
#include "bridge/runtime/write_all.h"

namespace ferry::vm {
namespace {

std::string FolderOf(const std::string& path) {
  return std::filesystem::path(path).parent_path().string();
}

absl::Status WriteAndSync(int fd, const std::string& text) {
  if (!WriteAll(fd, text)) return absl::ErrnoToStatus(errno, "cannot write");
  return ::fsync(fd) == 0 ? absl::OkStatus() : absl::ErrnoToStatus(errno, "cannot sync");
}

}  // namespace

absl::Status SyncFolder(const std::string& path) {
  const UniqueFd folder(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.valid() && ::fsync(folder.get()) == 0) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot sync the folder ", path));
}

absl::Status RenameDurably(const std::string& from, const std::string& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot make ", to));
  }
  return SyncFolder(FolderOf(to));
}

absl::Status RenameToNewDurably(const std::string& from, const std::string& to) {
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) != 0) {
    if (errno == EEXIST) return absl::AlreadyExistsError(absl::StrCat(to, " exists"));
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot make ", to));
  }
  return SyncFolder(FolderOf(to));
}

absl::Status WriteDurably(const std::string& path, const std::string& text,
                          const std::string& temporary) {
  std::string draft = absl::StrCat(temporary, "/XXXXXX");
  const UniqueFd file(::mkostemp(draft.data(), O_CLOEXEC));
  if (!file.valid()) return absl::ErrnoToStatus(errno, absl::StrCat("cannot write ", path));
  absl::Status written = WriteAndSync(file.get(), text);
  if (written.ok()) written = RenameDurably(draft, path);
  if (!written.ok()) ::unlink(draft.c_str());
  return written;
}

absl::Status RemoveDurably(const std::string& path) {
  if (::unlink(path.c_str()) != 0) {
    if (errno == ENOENT) return absl::OkStatus();
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot remove ", path));
  }
  return SyncFolder(FolderOf(path));
}

absl::StatusOr<std::string> ReadWhole(const std::string& path, size_t max) {
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  struct stat info {};
  if (!file.valid() || ::fstat(file.get(), &info) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", path));
  }
  if (!S_ISREG(info.st_mode)) return absl::InvalidArgumentError(absl::StrCat(path, " is no file"));
  std::string text(max + 1, '\0');
  size_t size = 0;
  while (size < text.size()) {
    const ssize_t count = ::read(file.get(), text.data() + size, text.size() - size);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", path));
    if (count == 0) break;
    size += static_cast<size_t>(count);
  }
  if (size > max) return absl::ResourceExhaustedError(absl::StrCat(path, " is too large"));
  text.resize(size);
  return text;
}

}  // namespace ferry::vm
