#include "vmmanager/saving/qemu_img_overlays.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/unique_fd.h"
#include "vmmanager/images/durable_file.h"

namespace ferry::vm {
namespace {

constexpr milliseconds kOverlayLimit{60'000};
// As long as the disks take.
constexpr milliseconds kToolLimit{std::chrono::hours(24)};
constexpr int kMostNumbers = 1000;
constexpr int kToolFile = 3;  // number of the file in the tool

// Takes the name, for whoever owns the file below, so that what is written there later is theirs.
absl::StatusOr<std::shared_ptr<UniqueFd>> TakeName(const std::string& file,
                                                   const std::string& below) {
  struct stat owner {};
  if (::stat(below.c_str(), &owner) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot look at the disk ", below));
  }
  if (!S_ISREG(owner.st_mode) && !S_ISBLK(owner.st_mode)) {
    return absl::FailedPreconditionError(
        absl::StrCat("the disk ", below, " is neither a file nor a block device"));
  }
  auto made =
      std::make_shared<UniqueFd>(::open(file.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!made->valid() && errno == EEXIST) {
    return absl::AlreadyExistsError(absl::StrCat(file, " exists already"));
  }
  if (!made->valid()) return absl::ErrnoToStatus(errno, absl::StrCat("cannot make ", file));
  constexpr mode_t kPermissions = 0666;
  if (::fchown(made->get(), owner.st_uid, owner.st_gid) == 0 &&
      ::fchmod(made->get(), owner.st_mode & kPermissions) == 0) {
    return made;
  }
  const absl::Status failed =
      absl::ErrnoToStatus(errno, absl::StrCat("cannot give ", file, " to the owner of ", below));
  ::unlink(file.c_str());
  return failed;
}

// "disk.a.qcow2", and then "disk.a-2.qcow2".
std::string Numbered(const std::string& file, int number) {
  const std::filesystem::path path(file);
  return absl::StrCat((path.parent_path() / path.stem()).string(), "-", number,
                      path.extension().string());
}

absl::StatusOr<std::string> FindFreeName(const std::string& wanted) {
  std::string file = wanted;
  for (int number = 2; number < kMostNumbers; ++number) {
    struct stat found {};
    if (::lstat(file.c_str(), &found) != 0 && errno == ENOENT) return file;
    file = Numbered(wanted, number);
  }
  return absl::AlreadyExistsError(absl::StrCat(wanted, " exists already"));
}

// The file that a qcow2 file says is below it; docs/interop/qcow2.txt of QEMU.
absl::StatusOr<std::string> BelowOf(const std::string& file) {
  constexpr size_t kOffsetAt = 8;
  constexpr size_t kSizeAt = 16;
  constexpr uint64_t kMaxName = 1023;
  const UniqueFd fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  std::array<unsigned char, kSizeAt + sizeof(uint32_t)> head{};
  const ssize_t got = fd.valid() ? ::pread(fd.get(), head.data(), head.size(), 0) : -1;
  if (got < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", file));
  uint64_t offset = 0;
  uint64_t size = 0;
  for (size_t i = kOffsetAt; i < kSizeAt; ++i) offset = offset << 8 | head[i];
  for (size_t i = kSizeAt; i < head.size(); ++i) size = size << 8 | head[i];
  if (got < static_cast<ssize_t>(head.size()) || size > kMaxName) return std::string();
  std::string below(size, '\0');
  const ssize_t read = ::pread(fd.get(), below.data(), size, static_cast<off_t>(offset));
  return read == static_cast<ssize_t>(size) ? below : std::string();
}

absl::Status RemoveIfDraft(const OverlayWish& wish) {
  struct stat found {};
  if (::lstat(wish.file.c_str(), &found) != 0 && errno == ENOENT) return absl::OkStatus();
  const bool is_begun = S_ISREG(found.st_mode) && found.st_size == 0;
  ASSIGN_OR_RETURN(const std::string below, BelowOf(wish.file));
  return is_begun || below == wish.below ? RemoveDurably(wish.file) : absl::OkStatus();
}

absl::Status Sync(int fd, const std::string& file) {
  if (::fsync(fd) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot bring ", file, " to the disk"));
  }
  return SyncFolder(std::filesystem::path(file).parent_path());
}

absl::Status IsThere(const std::string& file) {
  struct stat found {};
  if (::stat(file.c_str(), &found) == 0) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot look at ", file));
}

using FileWork = std::function<absl::Status()>;

}  // namespace

ToolCommand QemuImgOverlays::CommandOf(std::vector<std::string> arguments) {
  ToolCommand command;
  command.program = "/usr/bin/qemu-img";
  command.package = "qemu-utils";
  command.arguments = std::move(arguments);
  command.deadline = kToolLimit;
  return command;
}

Task<absl::Status> QemuImgOverlays::Run(std::vector<std::string> arguments) {
  ToolCommand command = CommandOf(std::move(arguments));
  co_return co_await RunTool(tools_, std::move(command));
}

Task<absl::StatusOr<std::string>> QemuImgOverlays::FreeName(std::string file) {
  auto free = std::make_shared<std::string>();
  FileWork find = [file, free]() -> absl::Status {
    ASSIGN_OR_RETURN(*free, FindFreeName(file));
    return absl::OkStatus();
  };
  CO_RETURN_IF_ERROR(co_await files_.Run(kOverlayLimit, "naming an overlay", std::move(find)));
  co_return *free;
}

Task<absl::Status> QemuImgOverlays::Make(OverlayWish wish) {
  auto taken = std::make_shared<std::shared_ptr<UniqueFd>>();
  FileWork take = [wish, taken]() -> absl::Status {
    ASSIGN_OR_RETURN(*taken, TakeName(wish.file, wish.below));
    return absl::OkStatus();
  };
  CO_RETURN_IF_ERROR(co_await files_.Run(kOverlayLimit, "making an overlay", std::move(take)));
  // By its descriptor: whoever owns the folder may have put another file under the name.
  ToolCommand create = CommandOf({"create", "-q", "-f", "qcow2", "-F", wish.format, "-b",
                                  wish.below, "--", absl::StrCat("/dev/fd/", kToolFile)});
  create.descriptors[kToolFile] = (*taken)->get();
  create.holds = *taken;
  absl::Status made = co_await RunTool(tools_, std::move(create));
  FileWork sync = [taken, file = wish.file] { return Sync((*taken)->get(), file); };
  if (made.ok()) made = co_await files_.Run(kOverlayLimit, "making an overlay", std::move(sync));
  if (!made.ok()) (void)co_await Remove(wish.file);
  co_return made;
}

Task<absl::Status> QemuImgOverlays::Merge(std::string overlay) {
  FileWork look = [overlay] { return IsThere(overlay); };
  CO_RETURN_IF_ERROR(co_await files_.Run(kOverlayLimit, "merging a disk", std::move(look)));
  std::vector<std::string> commit = {"commit", "-q", "-d", "-f", "qcow2", "--", overlay};
  co_return co_await Run(std::move(commit));
}

Task<absl::Status> QemuImgOverlays::PutOver(std::string overlay, std::string below,
                                            std::string format) {
  std::vector<std::string> rebase = {"rebase", "-q", "-u",  "-f", "qcow2", "-F",
                                     format,   "-b", below, "--", overlay};
  co_return co_await Run(std::move(rebase));
}

Task<absl::Status> QemuImgOverlays::CheckLiesOver(std::string overlay, std::string below) {
  FileWork look = [overlay, below]() -> absl::Status {
    const UniqueFd file(::open(overlay.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
    if (!file.valid()) return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", overlay));
    RETURN_IF_ERROR(Sync(file.get(), overlay));
    ASSIGN_OR_RETURN(const std::string now, BelowOf(overlay));
    if (now == below) return absl::OkStatus();
    return absl::AbortedError(
        absl::StrCat(overlay, " still says that it lies over ", now, ", not over ", below));
  };
  co_return co_await files_.Run(kOverlayLimit, "looking at an overlay", std::move(look));
}

Task<absl::Status> QemuImgOverlays::RemoveDraft(OverlayWish wish) {
  FileWork remove = [wish] { return RemoveIfDraft(wish); };
  co_return co_await files_.Run(kOverlayLimit, "removing a file", std::move(remove));
}

Task<absl::Status> QemuImgOverlays::Remove(std::string file) {
  FileWork remove = [file] { return RemoveDurably(file); };
  co_return co_await files_.Run(kOverlayLimit, "removing a file", std::move(remove));
}

}  // namespace ferry::vm
