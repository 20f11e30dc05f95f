#include "vmmanager/sandbox/disk_marks.h"

#include <fcntl.h>
#include <openssl/rand.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <functional>
#include <memory>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::vm {
namespace {

constexpr char kLocked[] = "lock:";
// QEMU locks bytes from 100 on; no disk is as large as this.
constexpr uint64_t kFirstByte = uint64_t{1} << 56;
constexpr uint64_t kBytes = uint64_t{1} << 61;

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

// Whether a qcow2 file lies over another one; docs/interop/qcow2.txt of QEMU.
bool HasBelow(const DiskMark& mark) {
  constexpr size_t kOffsetAt = 8;
  std::array<char, kOffsetAt + sizeof(uint64_t)> head{};
  const ssize_t size = ::pread(mark.file.get(), head.data(), head.size(), 0);
  if (size != static_cast<ssize_t>(head.size()) || head[0] != 'Q' || head[1] != 'F') return false;
  return std::any_of(head.begin() + kOffsetAt, head.end(), [](char byte) { return byte != 0; });
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
    return absl::UnimplementedError(
        absl::StrCat("disk ", path, " is a device, whose locks other hosts do not see"));
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
  absl::string_view number = word;
  uint64_t offset = 0;
  if (!absl::ConsumePrefix(&number, kLocked) || !absl::SimpleAtoi(number, &offset) ||
      offset < kFirstByte || offset >= kFirstByte + kBytes) {
    return false;
  }
  // Asking takes no lock, and needs no right to write. Who has locked more than that byte is
  // somebody else.
  struct flock lock = ByteAt(offset, F_WRLCK);
  struct flock beside = ByteAt(offset + 1, F_WRLCK);
  if (::fcntl(file.get(), F_OFD_GETLK, &lock) != 0 ||
      ::fcntl(file.get(), F_OFD_GETLK, &beside) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot look at the locks of disk ", path));
  }
  return lock.l_type != F_UNLCK && beside.l_type == F_UNLCK;
}

DiskMark::~DiskMark() {
  if (!file.valid() || worker == nullptr) return;
  // A network's file system brings all of the file to its server first, and that may hang.
  auto held = std::make_shared<UniqueFd>(std::move(file));
  worker->Post([held] { held->Reset(); });
}

Task<std::vector<DiskMark>> MarkDisks(
    v1::VmSpec spec, google::protobuf::RepeatedPtrField<state::v1::DiskPayload>* disks,
    ImageDigests* digests) {
  std::vector<DiskMark> marks;
  auto worker = BlockingWorker::Start(co_await asio::this_coro::executor);
  if (!worker.ok()) co_return marks;
  const std::shared_ptr<BlockingWorker> closer = *std::move(worker);
  for (const v1::DiskSpec& own : spec.disks()) {
    const auto disk = std::find_if(disks->begin(), disks->end(), [&own](const auto& described) {
      return described.name() == own.name();
    });
    if (disk == disks->end()) continue;
    std::string path = own.file();
    // What comes when nobody waits any more is closed with this.
    std::function<absl::StatusOr<std::shared_ptr<DiskMark>>()> mark =
        [path]() -> absl::StatusOr<std::shared_ptr<DiskMark>> {
      ASSIGN_OR_RETURN(DiskMark made, MarkDisk(path));
      return std::make_shared<DiskMark>(std::move(made));
    };
    if (own.read_only()) {
      std::string file = path;
      const absl::StatusOr<std::string> content = co_await digests->Get(std::move(file));
      if (content.ok()) disk->set_sha256(*content);
      // Without that a copy could not be told from another disk.
      if (!content.ok()) continue;
    }
    auto made = co_await digests->reads().Run<std::shared_ptr<DiskMark>>(path, std::move(mark));
    if (!made.ok()) {
      spdlog::warn("it cannot be proved to others which disk {} is: {}", path,
                   made.status().ToString());
      continue;
    }
    disk->set_mark((*made)->word);
    disk->set_below(HasBelow(**made));
    marks.push_back(std::move(**made));
    marks.back().worker = closer;
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
