#include "tools/ferryctl/folder_archive.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <locale.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <map>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::ctl {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxXattrs = 65536;
constexpr size_t kFilePiece = 256 * 1024;

using ArchivePtr = std::unique_ptr<struct archive, decltype(&archive_write_free)>;
using EntryPtr = std::unique_ptr<struct archive_entry, decltype(&archive_entry_free)>;

class FolderWriter {
 public:
  FolderWriter(std::string folder, int out)
      : folder_(std::move(folder)), out_(out), archive_(archive_write_new(), &archive_write_free) {}

  absl::Status Write() {
    archive_write_set_format_pax_restricted(archive_.get());
    archive_write_set_options(archive_.get(), "hdrcharset=UTF-8");
    archive_write_set_bytes_in_last_block(archive_.get(), 1);
    if (archive_write_open_fd(archive_.get(), out_) != ARCHIVE_OK) return Failed(folder_);
    RETURN_IF_ERROR(Add(folder_, "."));
    return archive_write_close(archive_.get()) == ARCHIVE_OK ? absl::OkStatus() : Failed(folder_);
  }

 private:
  absl::Status Failed(const std::string& path) {
    const char* text = archive_error_string(archive_.get());
    return absl::UnknownError(
        absl::StrCat("cannot archive ", path, ": ", text == nullptr ? "no reason" : text));
  }

  // The file at `path`, under this name, and what is in it if it is a folder.
  absl::Status Add(const std::string& path, const std::string& name) {
    struct stat info {};
    if (::lstat(path.c_str(), &info) != 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", path));
    }
    if (S_ISSOCK(info.st_mode)) return absl::OkStatus();
    const EntryPtr entry(archive_entry_new(), &archive_entry_free);
    archive_entry_copy_stat(entry.get(), &info);
    archive_entry_unset_atime(entry.get());
    archive_entry_unset_ctime(entry.get());
    archive_entry_unset_birthtime(entry.get());
    archive_entry_set_dev(entry.get(), 0);
    archive_entry_set_ino(entry.get(), 0);
    archive_entry_set_nlink(entry.get(), 1);
    archive_entry_copy_pathname(entry.get(), name.c_str());
    if (!S_ISREG(info.st_mode)) archive_entry_set_size(entry.get(), 0);
    CopyXattrs(path, entry.get());
    bool linked = false;
    if (S_ISLNK(info.st_mode)) {
      std::error_code error;
      const std::string target = fs::read_symlink(path, error).string();
      if (error) return absl::UnknownError(absl::StrCat("cannot read ", path));
      archive_entry_copy_symlink(entry.get(), target.c_str());
    } else if (S_ISREG(info.st_mode) && info.st_nlink > 1) {
      const auto [first, fresh] = linked_.try_emplace({info.st_dev, info.st_ino}, name);
      linked = !fresh;
      if (linked) {
        archive_entry_copy_hardlink(entry.get(), first->second.c_str());
        archive_entry_set_size(entry.get(), 0);
      }
    }
    const int written = archive_write_header(archive_.get(), entry.get());
    if (written != ARCHIVE_OK && written != ARCHIVE_WARN) return Failed(path);
    if (S_ISREG(info.st_mode) && !linked) {
      return AddData(path, static_cast<uint64_t>(info.st_size));
    }
    return S_ISDIR(info.st_mode) ? AddChildren(path, name) : absl::OkStatus();
  }

  absl::Status AddChildren(const std::string& path, const std::string& name) {
    std::vector<std::string> children;
    std::error_code error;
    fs::directory_iterator entry(path, error);
    // Its operator++ would throw.
    while (!error && entry != fs::directory_iterator()) {
      children.push_back(entry->path().filename().string());
      entry.increment(error);
    }
    if (error) return absl::UnknownError(absl::StrCat("cannot read ", path, ": ", error.message()));
    std::sort(children.begin(), children.end());
    for (const std::string& child : children) {
      RETURN_IF_ERROR(Add(absl::StrCat(path, "/", child), absl::StrCat(name, "/", child)));
    }
    return absl::OkStatus();
  }

  absl::Status AddData(const std::string& path, uint64_t size) {
    const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    if (!file.valid()) return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", path));
    std::vector<char> piece(kFilePiece);
    while (size > 0) {
      const size_t wanted = static_cast<size_t>(std::min<uint64_t>(size, piece.size()));
      const ssize_t count = ::read(file.get(), piece.data(), wanted);
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", path));
      if (count == 0) {
        return absl::UnknownError(absl::StrCat(path, " became shorter while it was read"));
      }
      if (archive_write_data(archive_.get(), piece.data(), static_cast<size_t>(count)) < 0) {
        return Failed(path);
      }
      size -= static_cast<uint64_t>(count);
    }
    return absl::OkStatus();
  }

  // Those that a layer may keep.
  static void CopyXattrs(const std::string& path, struct archive_entry* entry) {
    std::vector<char> names(kMaxXattrs);
    std::vector<char> value(kMaxXattrs);
    const ssize_t size = ::llistxattr(path.c_str(), names.data(), names.size());
    for (ssize_t at = 0; at < size;) {
      const std::string name(names.data() + at);
      at += static_cast<ssize_t>(name.size()) + 1;
      if (!absl::StartsWith(name, "user.") && name != "security.capability") continue;
      const ssize_t count = ::lgetxattr(path.c_str(), name.c_str(), value.data(), value.size());
      if (count < 0) continue;
      archive_entry_xattr_add_entry(entry, name.c_str(), value.data(), static_cast<size_t>(count));
    }
  }

  const std::string folder_;
  const int out_;
  const ArchivePtr archive_;
  std::map<std::pair<dev_t, ino_t>, std::string> linked_;  // to the name that came first
};

}  // namespace

absl::StatusOr<std::unique_ptr<FolderArchive>> FolderArchive::Open(const std::string& folder) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "cannot make a pipe");
  std::unique_ptr<FolderArchive> archive(new FolderArchive(UniqueFd(ends[0])));
  archive->thread_ = std::thread([raw = archive.get(), folder, out = ends[1]] {
    const UniqueFd end(out);
    // libarchive takes names for text in the thread's language; theirs is UTF-8.
    const std::unique_ptr<std::remove_pointer_t<locale_t>, decltype(&::freelocale)> utf8(
        ::newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr), &::freelocale);
    ::uselocale(utf8.get());
    FolderWriter writer(folder, out);
    raw->status_ = writer.Write();
    ::uselocale(LC_GLOBAL_LOCALE);
  });
  return archive;
}

FolderArchive::~FolderArchive() {
  pipe_.Reset();
  if (thread_.joinable()) thread_.join();
}

absl::Status FolderArchive::Finish() {
  if (thread_.joinable()) thread_.join();
  return status_;
}

}  // namespace ferry::ctl
