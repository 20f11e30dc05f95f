#include "vmmanager/sandbox/disk_size.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/unique_fd.h"

namespace ferry::vm {
namespace {

// A qcow2 file begins with its magic and has the disk's size, big-endian, at 24.
constexpr std::array<unsigned char, 4> kQcow2Magic = {'Q', 'F', 'I', 0xfb};
constexpr size_t kQcow2SizeAt = 24;
constexpr size_t kQcow2Head = kQcow2SizeAt + sizeof(uint64_t);

absl::StatusOr<uint64_t> Qcow2Bytes(int fd, const std::string& path) {
  std::array<unsigned char, kQcow2Head> head{};
  const ssize_t count = ::pread(fd, head.data(), head.size(), 0);
  if (count != static_cast<ssize_t>(head.size()) ||
      std::memcmp(head.data(), kQcow2Magic.data(), kQcow2Magic.size()) != 0) {
    return absl::FailedPreconditionError(absl::StrCat("disk ", path, " is not a qcow2 file"));
  }
  uint64_t bytes = 0;
  for (size_t i = kQcow2SizeAt; i < kQcow2Head; ++i) bytes = bytes << 8 | head[i];
  return bytes;
}

absl::StatusOr<uint64_t> ReadSize(const std::string& path, const std::string& format) {
  // Opening a FIFO or a terminal must not wait or take hold of it.
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  struct stat info {};
  if (fd.get() < 0 || ::fstat(fd.get(), &info) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot read disk ", path));
  }
  if (!S_ISREG(info.st_mode) && !S_ISBLK(info.st_mode)) {
    return absl::FailedPreconditionError(
        absl::StrCat("disk ", path, " is neither a regular file nor a block device"));
  }
  if (format == "qcow2") return Qcow2Bytes(fd.get(), path);
  const off_t end = ::lseek(fd.get(), 0, SEEK_END);
  if (end < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot measure disk ", path));
  return static_cast<uint64_t>(end);
}

}  // namespace

Task<absl::StatusOr<uint64_t>> DiskBytes(FileReads* reads, std::string path, std::string format) {
  std::function<absl::StatusOr<uint64_t>()> read = [path, format = std::move(format)] {
    return ReadSize(path, format);
  };
  co_return co_await reads->Run<uint64_t>(std::move(path), std::move(read));
}

}  // namespace ferry::vm
