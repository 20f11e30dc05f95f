#include "vmmanager/sandbox/disk_marks.h"

#include <fcntl.h>
#include <openssl/rand.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <functional>
#include <memory>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/state/envelope.h"

namespace ferry::vm {
namespace {

constexpr char kLocked[] = "lock:";
constexpr char kEdges[] = "edges:";
// QEMU locks bytes from 100 on; no disk is as large as this.
constexpr uint64_t kFirstByte = uint64_t{1} << 56;
constexpr uint64_t kBytes = uint64_t{1} << 61;
// What a partition table has at either end, which no guest writes while it runs.
constexpr size_t kEdgeBytes = 4096;

absl::StatusOr<UniqueFd> Open(const std::string& path, struct stat* info) {
  UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!file.valid() || ::fstat(file.get(), info) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot read disk ", path));
  }
  if (S_ISREG(info->st_mode) || S_ISBLK(info->st_mode)) return file;
  return absl::FailedPreconditionError(
      absl::StrCat("disk ", path, " is neither a regular file nor a block device"));
}

struct flock ByteAt(uint64_t offset, short type) {
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = static_cast<off_t>(offset);
  lock.l_len = 1;
  return lock;
}

absl::StatusOr<std::string> EdgesOf(const UniqueFd& device, const std::string& path) {
  const off_t end = ::lseek(device.get(), 0, SEEK_END);
  std::string edges(2 * kEdgeBytes, '\0');
  const bool read =
      end >= static_cast<off_t>(kEdgeBytes) &&
      ::pread(device.get(), edges.data(), kEdgeBytes, 0) == static_cast<ssize_t>(kEdgeBytes) &&
      ::pread(device.get(), edges.data() + kEdgeBytes, kEdgeBytes,
              end - static_cast<off_t>(kEdgeBytes)) == static_cast<ssize_t>(kEdgeBytes);
  if (!read) return absl::FailedPreconditionError(absl::StrCat("cannot read device ", path));
  return absl::StrCat(kEdges, ToHex(Sha256(absl::StrCat(end, " ", edges))));
}

absl::StatusOr<uint64_t> RandomByte() {
  std::array<unsigned char, sizeof(uint64_t)> noise{};
  if (RAND_bytes(noise.data(), noise.size()) != 1) {
    return absl::InternalError("no random numbers for a disk's mark");
  }
  uint64_t number = 0;
  for (const unsigned char byte : noise) number = number << 8 | byte;
  return kFirstByte + number % kBytes;
}

}  // namespace

absl::StatusOr<DiskMark> MarkDisk(const std::string& path) {
  struct stat info {};
  ASSIGN_OR_RETURN(UniqueFd file, Open(path, &info));
  if (S_ISBLK(info.st_mode)) {
    ASSIGN_OR_RETURN(std::string edges, EdgesOf(file, path));
    return DiskMark{std::move(edges), UniqueFd()};
  }
  ASSIGN_OR_RETURN(const uint64_t offset, RandomByte());
  struct flock lock = ByteAt(offset, F_RDLCK);
  if (::fcntl(file.get(), F_OFD_SETLK, &lock) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot lock a byte of disk ", path));
  }
  return DiskMark{absl::StrCat(kLocked, offset), std::move(file)};
}

absl::StatusOr<bool> HasMark(const std::string& path, const std::string& word) {
  struct stat info {};
  ASSIGN_OR_RETURN(const UniqueFd file, Open(path, &info));
  if (S_ISBLK(info.st_mode)) {
    ASSIGN_OR_RETURN(const std::string edges, EdgesOf(file, path));
    return edges == word;
  }
  absl::string_view number = word;
  uint64_t offset = 0;
  if (!absl::ConsumePrefix(&number, kLocked) || !absl::SimpleAtoi(number, &offset) ||
      offset < kFirstByte || offset >= kFirstByte + kBytes) {
    return false;
  }
  // Asking takes no lock, and needs no right to write.
  struct flock lock = ByteAt(offset, F_WRLCK);
  if (::fcntl(file.get(), F_OFD_GETLK, &lock) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot look at the locks of disk ", path));
  }
  return lock.l_type != F_UNLCK;
}

Task<std::vector<DiskMark>> MarkDisks(
    v1::VmSpec spec, google::protobuf::RepeatedPtrField<state::v1::DiskPayload>* disks,
    ImageDigests* digests) {
  std::vector<DiskMark> marks;
  for (const v1::DiskSpec& own : spec.disks()) {
    const auto disk = std::find_if(disks->begin(), disks->end(), [&own](const auto& described) {
      return described.name() == own.name();
    });
    if (disk == disks->end()) continue;
    std::string path = own.file();
    // A descriptor that comes when nobody waits any more is closed with this.
    std::function<absl::StatusOr<std::shared_ptr<DiskMark>>()> mark =
        [path]() -> absl::StatusOr<std::shared_ptr<DiskMark>> {
      ASSIGN_OR_RETURN(DiskMark made, MarkDisk(path));
      return std::make_shared<DiskMark>(std::move(made));
    };
    auto made = co_await digests->reads().Run<std::shared_ptr<DiskMark>>(path, std::move(mark));
    if (made.ok()) {
      disk->set_mark((*made)->word);
      marks.push_back(std::move(**made));
    }
    if (!own.read_only()) continue;
    const absl::StatusOr<std::string> content = co_await digests->Get(std::move(path));
    if (content.ok()) disk->set_sha256(*content);
  }
  co_return marks;
}

Task<absl::StatusOr<std::string>> WhyOtherDisk(state::v1::DiskPayload disk, std::string path,
                                               ImageDigests* digests) {
  if (disk.mark().empty() && disk.sha256().empty()) co_return std::string();
  std::function<absl::StatusOr<bool>()> look = [path, word = disk.mark()] {
    return HasMark(path, word);
  };
  CO_ASSIGN_OR_RETURN(const bool same, co_await digests->reads().Run<bool>(path, std::move(look)));
  if (same) co_return std::string();
  if (disk.sha256().empty()) {
    co_return absl::StrCat(path, " is another file than the source's, or on storage that does not ",
                           "show the locks of other hosts");
  }
  // A path that a peer names must not tell it what is in the file.
  std::string file = path;
  const absl::StatusOr<std::string> content = co_await digests->Get(std::move(file));
  if (content.ok() && *content == disk.sha256()) co_return std::string();
  co_return absl::StrCat(path, " is another file than the source's, with other content");
}

}  // namespace ferry::vm
