#include "vmmanager/images/scratch_disk.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/images/durable_file.h"

namespace ferry::vm {
namespace {

constexpr uint64_t kScratchUnit = uint64_t{1} << 20;
constexpr milliseconds kScratchTime{120'000};
constexpr int kScratchFolder = 4;

// The tools' user cannot pass through the store's folders, only use a descriptor that it is given.
std::string Within(const std::string& name) {
  return absl::StrCat("/proc/self/fd/", kScratchFolder, "/", name);
}

absl::Status MakeRawFile(const std::string& folder, uint64_t size,
                         const std::optional<ProcessUser>& user) {
  const UniqueFd raw(::open(absl::StrCat(folder, "/raw").c_str(),
                            O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!raw.valid() || ::ftruncate(raw.get(), static_cast<off_t>(size)) != 0 ||
      (user && ::fchown(raw.get(), user->uid, user->gid) != 0)) {
    return absl::ErrnoToStatus(errno, "cannot make a scratch disk");
  }
  return absl::OkStatus();
}

absl::Status KeepScratch(const std::string& folder, const std::string& path,
                         const std::optional<ProcessUser>& user) {
  const std::string file = folder + "/scratch.qcow2";
  const UniqueFd disk(::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  const uid_t owner = user ? user->uid : ::geteuid();
  const gid_t group = user ? user->gid : ::getegid();
  if (!disk.valid() || ::fchown(disk.get(), owner, group) != 0 || ::fchmod(disk.get(), 0600) != 0 ||
      ::fsync(disk.get()) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot keep the scratch disk ", path));
  }
  return RenameToNewDurably(file, path);
}

ToolCommand ScratchTool(const std::string& program, const std::string& package,
                        const std::shared_ptr<TempFolder>& folder,
                        std::vector<std::string> arguments) {
  ToolCommand command;
  command.program = program;
  command.package = package;
  command.arguments = std::move(arguments);
  command.descriptors = {{kScratchFolder, folder->out_fd()}};
  command.deadline = kScratchTime;
  command.holds = folder;
  return command;
}

Task<absl::Status> Make(ToolRunner& runner, std::shared_ptr<TempFolder> folder, std::string path,
                        uint64_t size, std::optional<ProcessUser> tools,
                        std::optional<ProcessUser> user) {
  std::function<absl::Status()> prepare = [out = folder->out_path(), path, size, tools] {
    if (::access(path.c_str(), F_OK) == 0) {
      return absl::AlreadyExistsError(absl::StrCat(path, " exists"));
    }
    return MakeRawFile(out, size, tools);
  };
  CO_RETURN_IF_ERROR(co_await folder->worker().Run(kScratchTime, "the disk", std::move(prepare)));
  // Nobody owns anything in it yet, so no part of it is kept for root.
  ToolCommand format = ScratchTool("/usr/sbin/mkfs.ext4", "e2fsprogs", folder,
                                   {"-q", "-F", "-m", "0", "-L", "scratch", Within("raw")});
  CO_RETURN_IF_ERROR(co_await RunTool(runner, std::move(format)));
  ToolCommand convert = ScratchTool(
      "/usr/bin/qemu-img", "qemu-utils", folder,
      {"convert", "-q", "-f", "raw", "-O", "qcow2", Within("raw"), Within("scratch.qcow2")});
  CO_RETURN_IF_ERROR(co_await RunTool(runner, std::move(convert)));
  std::function<absl::Status()> keep = [out = folder->out_path(), path, user] {
    return KeepScratch(out, path, user);
  };
  co_return co_await folder->worker().Run(kScratchTime, "the disk", std::move(keep));
}

}  // namespace

Task<absl::Status> MakeScratchDisk(ImageStore& store, ToolRunner& runner, std::string path,
                                   uint64_t size, std::optional<ProcessUser> user) {
  if (size < kMinScratch || size > kMaxScratch || size % kScratchUnit != 0) {
    co_return absl::InvalidArgumentError(absl::StrCat(
        "a scratch disk cannot have ", size, " bytes: it takes whole MiB, from 16 MiB to 8 TiB"));
  }
  CO_ASSIGN_OR_RETURN(const std::optional<ProcessUser> tools, runner.user());
  CO_ASSIGN_OR_RETURN(const std::shared_ptr<TempFolder> folder,
                      co_await store.MakeTempFolder(tools));
  Task<absl::Status> making = Make(runner, folder, std::move(path), size, tools, user);
  const absl::Status made = co_await std::move(making);
  co_await folder->Remove();
  co_return made;
}

}  // namespace ferry::vm
