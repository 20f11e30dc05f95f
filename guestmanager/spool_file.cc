#include "guestmanager/spool_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::guest {
namespace {

// The header: a name with the format's version, the first byte's offset (little-endian), whether
// the stream ends behind the last byte, and room.
constexpr std::string_view kMagic = "ferrysp1";
constexpr size_t kStartAt = kMagic.size();
constexpr size_t kEndedAt = kStartAt + sizeof(uint64_t);
constexpr size_t kHeaderSize = 24;

// Far beyond any spool that a daemon writes.
constexpr off_t kMaxFileSize = 64 * 1024 * 1024;

std::string Header(uint64_t start, bool ended) {
  std::string header(kMagic);
  for (size_t i = 0; i < sizeof(start); ++i) header.push_back(static_cast<char>(start >> (8 * i)));
  header.push_back(ended ? 1 : 0);
  header.resize(kHeaderSize);
  return header;
}

absl::Status Failed(const char* what, const std::string& path) {
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot ", what, " ", path));
}

// Writes all of `bytes` at `at`; `*written` says how far it came.
absl::Status WriteAt(int fd, std::string_view bytes, off_t at, const std::string& path,
                     size_t* written) {
  *written = 0;
  while (*written < bytes.size()) {
    const std::string_view rest = bytes.substr(*written);
    const ssize_t count = ::pwrite(fd, rest.data(), rest.size(), at + static_cast<off_t>(*written));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return Failed("write", path);
    *written += static_cast<size_t>(count);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadWhole(int fd, const std::string& path) {
  struct stat about {};
  if (::fstat(fd, &about) != 0) return Failed("read", path);
  if (!S_ISREG(about.st_mode) || about.st_size > kMaxFileSize) {
    return absl::DataLossError(absl::StrCat(path, " is no spool"));
  }
  std::string bytes(static_cast<size_t>(about.st_size), '\0');
  size_t have = 0;
  while (have < bytes.size()) {
    const ssize_t count =
        ::pread(fd, bytes.data() + have, bytes.size() - have, static_cast<off_t>(have));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return Failed("read", path);
    if (count == 0) break;
    have += static_cast<size_t>(count);
  }
  bytes.resize(have);
  return bytes;
}

}  // namespace

std::string SpoolSettings::PathOf(uint32_t port) const {
  return folder.empty() ? std::string() : absl::StrCat(folder, "/", port);
}

absl::StatusOr<SpoolFile::Content> SpoolFile::Read(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!fd.valid()) return Failed("open", path);
  ASSIGN_OR_RETURN(const std::string bytes, ReadWhole(fd.get(), path));
  if (bytes.size() < kHeaderSize || !std::string_view(bytes).starts_with(kMagic)) {
    return absl::DataLossError(absl::StrCat(path, " is no spool"));
  }
  Content content;
  for (size_t i = sizeof(content.start); i-- > 0;) {
    content.start = content.start << 8 | static_cast<uint8_t>(bytes[kStartAt + i]);
  }
  content.ended = bytes[kEndedAt] != 0;
  content.bytes = bytes.substr(kHeaderSize);
  if (content.start > UINT64_MAX - content.bytes.size()) {
    return absl::DataLossError(absl::StrCat(path, " is a spool beyond the end of its stream"));
  }
  return content;
}

absl::Status SpoolFile::Update(const Spool& spool, bool ended) {
  if (path_.empty()) return absl::OkStatus();
  const bool fits = fd_.valid() && spool.start() <= end_ && spool.end() >= end_ &&
                    spool.end() - start_ <= 2 * capacity_;
  if (!fits) return Replace(spool, ended);
  RETURN_IF_ERROR(Append(spool));
  if (ended == ended_) return absl::OkStatus();
  // The mark comes last, so that it never stands behind bytes that are missing.
  size_t ignored = 0;
  const char mark = ended ? 1 : 0;
  RETURN_IF_ERROR(WriteAt(fd_.get(), std::string_view(&mark, 1), kEndedAt, path_, &ignored));
  ended_ = ended;
  return absl::OkStatus();
}

absl::Status SpoolFile::Append(const Spool& spool) {
  while (end_ < spool.end()) {
    const std::string_view chunk = spool.Read(end_, SIZE_MAX);
    size_t written = 0;
    const off_t at = static_cast<off_t>(kHeaderSize + (end_ - start_));
    const absl::Status status = WriteAt(fd_.get(), chunk, at, path_, &written);
    end_ += written;
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status SpoolFile::Replace(const Spool& spool, bool ended) {
  const std::string fresh = path_ + ".new";
  UniqueFd fd(::open(fresh.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd.valid()) return Failed("make", fresh);
  size_t written = 0;
  absl::Status status =
      WriteAt(fd.get(), Header(spool.start(), ended) + spool.bytes(), 0, fresh, &written);
  if (status.ok() && ::rename(fresh.c_str(), path_.c_str()) != 0) status = Failed("make", path_);
  if (!status.ok()) {
    ::unlink(fresh.c_str());
    return status;
  }
  fd_ = std::move(fd);
  start_ = spool.start();
  end_ = spool.end();
  ended_ = ended;
  return absl::OkStatus();
}

void SpoolFile::Remove() {
  if (path_.empty()) return;
  ::unlink(path_.c_str());
  fd_.Reset();
  path_.clear();
}

}  // namespace ferry::guest
