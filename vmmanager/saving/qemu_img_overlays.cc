#include "vmmanager/saving/qemu_img_overlays.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/unique_fd.h"
#include "vmmanager/images/durable_file.h"
#include "vmmanager/saving/qemu_img_output.h"

namespace ferry::vm {
namespace {

constexpr milliseconds kOverlayLimit{60'000};
// Of the tables of a disk.
constexpr milliseconds kMeasureLimit{600'000};
// As long as the disks take.
constexpr milliseconds kToolLimit{std::chrono::hours(24)};
constexpr int kMostNumbers = 1000;
constexpr int kToolFile = 3;  // number of the file in the tool
constexpr size_t kMostPrinted = size_t{1} << 20;

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

absl::StatusOr<std::shared_ptr<UniqueFd>> TakeNewName(const NewDisk& disk) {
  auto made = std::make_shared<UniqueFd>(
      ::open(disk.file.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!made->valid() && errno == EEXIST) {
    return absl::AlreadyExistsError(absl::StrCat(disk.file, " exists already"));
  }
  if (!made->valid()) return absl::ErrnoToStatus(errno, absl::StrCat("cannot make ", disk.file));
  if (!disk.owner || ::fchown(made->get(), disk.owner->first, disk.owner->second) == 0) return made;
  const absl::Status failed =
      absl::ErrnoToStatus(errno, absl::StrCat("cannot give ", disk.file, " to VMs' user"));
  ::unlink(disk.file.c_str());
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
absl::StatusOr<std::string> BelowInHead(int fd, const std::string& file) {
  constexpr size_t kOffsetAt = 8;
  constexpr size_t kSizeAt = 16;
  constexpr uint64_t kMaxName = 1023;
  std::array<unsigned char, kSizeAt + sizeof(uint32_t)> head{};
  const ssize_t got = ::pread(fd, head.data(), head.size(), 0);
  if (got < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", file));
  uint64_t offset = 0;
  uint64_t size = 0;
  for (size_t i = kOffsetAt; i < kSizeAt; ++i) offset = offset << 8 | head[i];
  for (size_t i = kSizeAt; i < head.size(); ++i) size = size << 8 | head[i];
  if (got < static_cast<ssize_t>(head.size()) || size > kMaxName) return std::string();
  std::string below(size, '\0');
  const ssize_t read = ::pread(fd, below.data(), size, static_cast<off_t>(offset));
  return read == static_cast<ssize_t>(size) ? below : std::string();
}

bool IsReserved(const struct stat& found, uint64_t inode) {
  return S_ISREG(found.st_mode) && found.st_ino == inode;
}

absl::Status RemoveIfDraft(const OverlayWish& wish) {
  struct stat found {};
  if (::lstat(wish.file.c_str(), &found) != 0) {
    if (errno == ENOENT || errno == ENOTDIR) return absl::OkStatus();
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot look at ", wish.file));
  }
  const bool is_begun = S_ISREG(found.st_mode) && found.st_size == 0;
  // A copy is over nothing, as other people's files are.
  bool is_ours = wish.inode == 0 ? is_begun : IsReserved(found, wish.inode);
  if (!is_ours && !wish.below.empty()) {
    const UniqueFd fd(::open(wish.file.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
    if (!fd.valid()) return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", wish.file));
    ASSIGN_OR_RETURN(const std::string below, BelowInHead(fd.get(), wish.file));
    is_ours = below == wish.below;
  }
  return is_ours ? RemoveDurably(wish.file) : absl::OkStatus();
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

// Others may do something when they are merely opened.
absl::Status CheckIsDisk(const std::string& file) {
  struct stat found {};
  if (::stat(file.c_str(), &found) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot look at ", file));
  }
  if (S_ISREG(found.st_mode) || S_ISBLK(found.st_mode)) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(file, " is neither a file nor a block device"));
}

// Only what was reserved is written to.
absl::StatusOr<std::shared_ptr<UniqueFd>> OpenReserved(const std::string& file, uint64_t inode) {
  auto opened = std::make_shared<UniqueFd>(
      ::open(file.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  struct stat found {};
  if (!opened->valid() || ::fstat(opened->get(), &found) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", file));
  }
  if (IsReserved(found, inode)) return opened;
  return absl::AbortedError(absl::StrCat(file, " is another file now"));
}

// Whether nothing was written to a qcow2 file: then its first-level table names nothing.
absl::StatusOr<bool> IsEmpty(const std::string& file) {
  const UniqueFd fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  std::string start(kQcow2TableHead, '\0');
  if (!fd.valid() || ::pread(fd.get(), start.data(), start.size(), 0) < 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", file));
  }
  ASSIGN_OR_RETURN(const Qcow2Table table, ParseQcow2Table(start));
  constexpr size_t kPiece = size_t{64} << 10;
  std::vector<char> piece(kPiece);
  uint64_t left = table.entries * sizeof(uint64_t);
  uint64_t at = table.offset;
  while (left > 0) {
    const size_t wanted = std::min<uint64_t>(left, kPiece);
    const ssize_t got = ::pread(fd.get(), piece.data(), wanted, static_cast<off_t>(at));
    if (got <= 0) return absl::FailedPreconditionError(absl::StrCat(file, " is cut short"));
    const auto end = piece.begin() + got;
    if (std::any_of(piece.begin(), end, [](char byte) { return byte != 0; })) return false;
    left -= static_cast<uint64_t>(got);
    at += static_cast<uint64_t>(got);
  }
  return !table.has_snapshots;
}

absl::Status ExplainTool(const std::string& doing, const ToolEnd& end) {
  const std::string words = WithoutProgress(end.last_words);
  const std::string text = absl::StrCat(doing, " failed: ", words);
  if (absl::StrContains(words, "No space left")) return absl::ResourceExhaustedError(text);
  return absl::InternalError(text);
}

// `option` is what names the file below a new one.
void AddBelow(const std::string& below, const std::string& format, const std::string& option,
              std::vector<std::string>* arguments) {
  if (below.empty()) return;
  for (const std::string& one : {option, below, std::string("-F"), format}) {
    arguments->push_back(one);
  }
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

Task<absl::Status> QemuImgOverlays::CheckIsThere(std::string file) {
  FileWork look = [file] { return IsThere(file); };
  co_return co_await files_.Run(kOverlayLimit, "looking at a disk", std::move(look));
}

Task<absl::Status> QemuImgOverlays::Create(NewDisk disk) {
  auto taken = std::make_shared<std::shared_ptr<UniqueFd>>();
  FileWork take = [disk, taken]() -> absl::Status {
    ASSIGN_OR_RETURN(*taken, TakeNewName(disk));
    return absl::OkStatus();
  };
  CO_RETURN_IF_ERROR(co_await files_.Run(kOverlayLimit, "making a disk", std::move(take)));
  std::vector<std::string> arguments = {"create", "-q", "-f", disk.format};
  AddBelow(disk.below, disk.below_format, "-b", &arguments);
  for (const std::string& last :
       {std::string("--"), absl::StrCat("/dev/fd/", kToolFile), absl::StrCat(disk.bytes)}) {
    arguments.push_back(last);
  }
  ToolCommand create = CommandOf(std::move(arguments));
  create.descriptors[kToolFile] = (*taken)->get();
  create.holds = *taken;
  absl::Status made = co_await RunTool(tools_, std::move(create));
  FileWork sync = [taken, file = disk.file] { return Sync((*taken)->get(), file); };
  if (made.ok()) made = co_await files_.Run(kOverlayLimit, "making a disk", std::move(sync));
  if (!made.ok()) (void)co_await Remove(disk.file);
  co_return made;
}

Task<absl::Status> QemuImgOverlays::Shape(DiskShape shape) {
  std::string name = shape.file;
  CO_ASSIGN_OR_RETURN(const std::shared_ptr<UniqueFd> file,
                      co_await OpenReservedFile(std::move(name), shape.inode));
  std::vector<std::string> arguments = {"create", "-q", "-f", shape.format};
  AddBelow(shape.below, shape.below_format, "-b", &arguments);
  for (const std::string& last :
       {std::string("--"), absl::StrCat("/dev/fd/", kToolFile), absl::StrCat(shape.bytes)}) {
    arguments.push_back(last);
  }
  ToolCommand create = CommandOf(std::move(arguments));
  create.descriptors[kToolFile] = file->get();
  create.holds = file;
  CO_RETURN_IF_ERROR(co_await RunTool(tools_, std::move(create)));
  FileWork sync = [file, path = shape.file] { return Sync(file->get(), path); };
  co_return co_await files_.Run(kOverlayLimit, "making a disk", std::move(sync));
}

Task<absl::Status> QemuImgOverlays::Resize(std::string file, std::string format, uint64_t bytes) {
  std::vector<std::string> resize = {"resize", "-q", "-f", format, "--", file, absl::StrCat(bytes)};
  co_return co_await Run(std::move(resize));
}

Task<absl::Status> QemuImgOverlays::Merge(std::string overlay) {
  CO_RETURN_IF_ERROR(co_await CheckIsThere(overlay));
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
    // As a VMM opens it, also by a link.
    const UniqueFd file(::open(overlay.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (!file.valid()) return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", overlay));
    RETURN_IF_ERROR(Sync(file.get(), overlay));
    ASSIGN_OR_RETURN(const std::string now, BelowInHead(file.get(), overlay));
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

Task<absl::StatusOr<uint64_t>> QemuImgOverlays::Reserve(std::string file, std::string like) {
  auto inode = std::make_shared<uint64_t>(0);
  FileWork take = [file, like, inode]() -> absl::Status {
    ASSIGN_OR_RETURN(const std::shared_ptr<UniqueFd> taken, TakeName(file, like));
    struct stat found {};
    if (::fstat(taken->get(), &found) != 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("cannot look at ", file));
    }
    *inode = found.st_ino;
    return Sync(taken->get(), file);
  };
  CO_RETURN_IF_ERROR(co_await files_.Run(kOverlayLimit, "making a file", std::move(take)));
  co_return *inode;
}

Task<absl::Status> QemuImgOverlays::CheckReserved(std::string file, uint64_t inode) {
  FileWork look = [file, inode]() -> absl::Status {
    struct stat found {};
    if (::lstat(file.c_str(), &found) == 0 && IsReserved(found, inode)) return absl::OkStatus();
    return absl::AbortedError(absl::StrCat(file, " is another file now, or gone"));
  };
  co_return co_await files_.Run(kOverlayLimit, "looking at a disk", std::move(look));
}

Task<absl::Status> QemuImgOverlays::BringToDisk(std::string file, uint64_t inode) {
  FileWork bring = [file, inode]() -> absl::Status {
    ASSIGN_OR_RETURN(const std::shared_ptr<UniqueFd> opened, OpenReserved(file, inode));
    return Sync(opened->get(), file);
  };
  // That may take long, and nobody else is to wait for it.
  CO_ASSIGN_OR_RETURN(const std::unique_ptr<BlockingWorker> own, BlockingWorker::Start(executor_));
  co_return co_await own->Run(kToolLimit, "bringing a disk to its storage", std::move(bring));
}

Task<absl::StatusOr<uint64_t>> QemuImgOverlays::Measure(std::string file, std::string format) {
  ToolCommand measure =
      CommandOf({"measure", "-U", "--output=json", "-O", "qcow2", "-f", format, "--", file});
  measure.deadline = kMeasureLimit;
  CO_ASSIGN_OR_RETURN(const std::string printed, co_await Ask(std::move(measure)));
  co_return ParseMeasured(printed);
}

Task<absl::StatusOr<Room>> QemuImgOverlays::RoomFor(std::string file) {
  auto room = std::make_shared<Room>();
  FileWork look = [folder = std::filesystem::path(file).parent_path().string(),
                   room]() -> absl::Status {
    struct stat found {};
    struct statvfs all {};
    if (::stat(folder.c_str(), &found) != 0 || ::statvfs(folder.c_str(), &all) != 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("cannot look at ", folder));
    }
    *room = {.device = found.st_dev, .bytes = uint64_t{all.f_bavail} * all.f_frsize};
    return absl::OkStatus();
  };
  CO_RETURN_IF_ERROR(co_await files_.Run(kOverlayLimit, "looking at a disk", std::move(look)));
  co_return *room;
}

// What the tool prints; FAILED_PRECONDITION with its last words if it fails.
Task<absl::StatusOr<std::string>> QemuImgOverlays::Ask(ToolCommand command) {
  auto printed = std::make_shared<std::string>();
  command.output = [printed](absl::string_view bytes) {
    if (printed->size() < kMostPrinted) printed->append(bytes.data(), bytes.size());
  };
  CO_ASSIGN_OR_RETURN(const ToolEnd end, co_await tools_.Run(std::move(command)));
  if (end.exit_code == 0) co_return *std::move(printed);
  co_return absl::FailedPreconditionError(WithoutProgress(end.last_words));
}

Task<absl::StatusOr<std::shared_ptr<UniqueFd>>> QemuImgOverlays::OpenReservedFile(std::string file,
                                                                                  uint64_t inode) {
  auto opened = std::make_shared<std::shared_ptr<UniqueFd>>();
  FileWork open = [file, inode, opened]() -> absl::Status {
    ASSIGN_OR_RETURN(*opened, OpenReserved(file, inode));
    return absl::OkStatus();
  };
  CO_RETURN_IF_ERROR(co_await files_.Run(kOverlayLimit, "opening a disk", std::move(open)));
  co_return *opened;
}

Task<absl::Status> QemuImgOverlays::Copy(DiskCopy copy) {
  std::string name = copy.to;
  CO_ASSIGN_OR_RETURN(const std::shared_ptr<UniqueFd> file,
                      co_await OpenReservedFile(std::move(name), copy.inode));
  // The tool brings it to the disk itself, as far as it can: that can be called off.
  std::vector<std::string> arguments = {"convert", "-p",        "-t", "writeback",
                                        "-f",      copy.format, "-O", copy.to_format};
  AddBelow(copy.below, copy.below_format, "-B", &arguments);
  for (const std::string& last :
       {std::string("--"), copy.from, absl::StrCat("/dev/fd/", kToolFile)}) {
    arguments.push_back(last);
  }
  ToolCommand convert = CommandOf(std::move(arguments));
  convert.descriptors[kToolFile] = file->get();
  convert.holds = file;
  if (copy.progress) {
    convert.output = [progress = copy.progress](absl::string_view printed) {
      if (const auto done = ParseConvertProgress(printed)) progress(*done);
    };
  }
  CO_ASSIGN_OR_RETURN(const ToolEnd end, co_await tools_.Run(std::move(convert)));
  if (end.exit_code != 0) co_return ExplainTool(absl::StrCat("copying ", copy.from), end);
  FileWork sync = [file, to = copy.to] { return Sync(file->get(), to); };
  // That may take long, and nobody else is to wait for it.
  CO_ASSIGN_OR_RETURN(const std::unique_ptr<BlockingWorker> own, BlockingWorker::Start(executor_));
  co_return co_await own->Run(kToolLimit, "copying a disk", std::move(sync));
}

Task<absl::StatusOr<DiskImage>> QemuImgOverlays::Examine(std::string file, std::string format) {
  FileWork look = [file] { return CheckIsDisk(file); };
  CO_RETURN_IF_ERROR(co_await files_.Run(kOverlayLimit, "looking at a disk", std::move(look)));
  // A VMM may have it.
  ToolCommand info = CommandOf({"info", "-U", "--output=json", "-f", format, "--", file});
  info.deadline = kOverlayLimit;
  CO_ASSIGN_OR_RETURN(const std::string printed, co_await Ask(std::move(info)));
  auto image = std::make_shared<DiskImage>();
  const auto parsed = ParseImageInfo(printed);
  if (!parsed.ok()) {
    co_return absl::Status(parsed.status().code(),
                           absl::StrCat(file, ": ", parsed.status().message()));
  }
  *image = *parsed;
  if (format != "qcow2") co_return *image;
  FileWork read = [file, image]() -> absl::Status {
    ASSIGN_OR_RETURN(image->empty, IsEmpty(file));
    return absl::OkStatus();
  };
  CO_RETURN_IF_ERROR(co_await files_.Run(kOverlayLimit, "looking at a disk", std::move(read)));
  co_return *image;
}

}  // namespace ferry::vm
