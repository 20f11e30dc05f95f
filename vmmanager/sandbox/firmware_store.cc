#include "vmmanager/sandbox/firmware_store.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#include <cerrno>
#include <filesystem>
#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/unique_fd.h"
#include "bridge/runtime/write_all.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::vm {
namespace {

constexpr char kSuffix[] = ".fd";
constexpr char kDraftSuffix[] = ".XXXXXX";

absl::Status Failure(const char* what, const std::string& path) {
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot ", what, " ", path));
}

absl::StatusOr<std::string> ReadWhole(const std::string& path) {
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file.valid()) return Failure("open", path);
  struct stat info {};
  if (::fstat(file.get(), &info) != 0) return Failure("look at", path);
  const auto size = static_cast<size_t>(info.st_size);
  if (!S_ISREG(info.st_mode) || size == 0 || size > kMaxStoreBytes) {
    return absl::FailedPreconditionError(absl::StrCat(
        path, " is no variable store: those are files of up to ", kMaxStoreBytes, " bytes"));
  }
  std::string bytes(size, '\0');
  size_t have = 0;
  while (have < size) {
    const ssize_t count = ::read(file.get(), bytes.data() + have, size - have);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return Failure("read", path);
    if (count == 0) return absl::DataLossError(absl::StrCat(path, " was cut while it was read"));
    have += static_cast<size_t>(count);
  }
  return bytes;
}

absl::Status SyncFolderOf(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path();
  const UniqueFd fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid() || ::fsync(fd.get()) != 0) return Failure("sync", folder);
  return absl::OkStatus();
}

absl::Status WriteDraft(int file, const std::string& draft, const std::string& bytes,
                        const FirmwareSettings& firmware) {
  const auto& owner = firmware.owner;
  if (owner && ::fchown(file, owner->first, owner->second) != 0) {
    return Failure("give QEMU's user", draft);
  }
  if (!WriteAll(file, bytes) || ::fsync(file) != 0) return Failure("write", draft);
  return absl::OkStatus();
}

absl::Status WriteWhole(const std::string& path, const std::string& bytes,
                        const FirmwareSettings& firmware) {
  // Another one may be on its way still, on a thread that was given up.
  std::string draft = path + kDraftSuffix;
  const UniqueFd file(::mkostemp(draft.data(), O_CLOEXEC));
  if (!file.valid()) return Failure("make", draft);
  absl::Status written = WriteDraft(file.get(), draft, bytes, firmware);
  if (written.ok() && ::rename(draft.c_str(), path.c_str()) != 0) {
    written = Failure("give its name to", draft);
  }
  if (written.ok()) return SyncFolderOf(path);
  ::unlink(draft.c_str());
  return written;
}

absl::Status WriteInto(const std::string& path, const std::string& bytes) {
  const UniqueFd file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!file.valid()) return Failure("open", path);
  struct stat info {};
  if (::fstat(file.get(), &info) != 0) return Failure("look at", path);
  if (static_cast<size_t>(info.st_size) != bytes.size()) {
    return absl::FailedPreconditionError(absl::StrCat(
        path, " has ", info.st_size, " bytes, and what is to be in it has ", bytes.size()));
  }
  if (!WriteAll(file.get(), bytes) || ::fsync(file.get()) != 0) return Failure("write", path);
  return absl::OkStatus();
}

// Work with a file that gives nothing but its outcome.
Task<absl::Status> RunOn(FileReads* reads, std::string path, std::function<absl::Status()> work) {
  std::function<absl::StatusOr<bool>()> run = [work = std::move(work)]() -> absl::StatusOr<bool> {
    RETURN_IF_ERROR(work());
    return true;
  };
  co_return (co_await reads->Run<bool>(std::move(path), std::move(run))).status();
}

}  // namespace

std::string StorePathOf(const FirmwareSettings& firmware, const std::string& vm_id) {
  return absl::StrCat(firmware.folder, "/", vm_id, kSuffix);
}

Task<absl::Status> CheckHasFirmware(FileReads* reads, FirmwareSettings firmware) {
  std::function<absl::Status()> look = [firmware]() -> absl::Status {
    const UniqueFd code(::open(firmware.code.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (!code.valid()) return Failure("open", firmware.code);
    return ReadWhole(firmware.variables).status();
  };
  std::string path = firmware.code;
  const absl::Status there = co_await RunOn(reads, std::move(path), std::move(look));
  if (there.ok()) co_return there;
  co_return rpc::ErrorWithReason(
      absl::StatusCode::kFailedPrecondition,
      absl::StrCat("this host has no OVMF firmware: ", there.message()), "no_firmware",
      "Install it (on Debian: apt install ovmf), or say where it is (ferryd --ovmf-code and "
      "--ovmf-vars); or make the VM without --firmware ovmf.");
}

Task<absl::StatusOr<std::string>> ReadStore(FileReads* reads, std::string path) {
  std::function<absl::StatusOr<std::string>()> read = [path]() -> absl::StatusOr<std::string> {
    ASSIGN_OR_RETURN(const std::string bytes, ReadWhole(path));
    return PackStore(bytes);
  };
  co_return co_await reads->Run<std::string>(path, std::move(read));
}

Task<absl::Status> MakeStore(FileReads* reads, FirmwareSettings firmware, std::string path,
                             std::string packed) {
  std::function<absl::Status()> make = [firmware, path, packed]() -> absl::Status {
    ASSIGN_OR_RETURN(const std::string bytes,
                     packed.empty() ? ReadWhole(firmware.variables) : UnpackStore(packed));
    return WriteWhole(path, bytes, firmware);
  };
  co_return co_await RunOn(reads, path, std::move(make));
}

Task<absl::Status> RewriteStore(FileReads* reads, std::string path, std::string packed) {
  std::function<absl::Status()> rewrite = [path, packed]() -> absl::Status {
    ASSIGN_OR_RETURN(const std::string bytes, UnpackStore(packed));
    return WriteInto(path, bytes);
  };
  co_return co_await RunOn(reads, path, std::move(rewrite));
}

void RemoveStore(const std::string& path) { ::unlink(path.c_str()); }

void RemoveOtherStores(const FirmwareSettings& firmware, const std::set<std::string>& vm_ids) {
  std::set<std::string> wanted;
  for (const std::string& id : vm_ids) wanted.insert(StorePathOf(firmware, id));
  std::error_code ignored;
  for (const auto& file : std::filesystem::directory_iterator(firmware.folder, ignored)) {
    if (!wanted.contains(file.path())) std::filesystem::remove(file.path(), ignored);
  }
}

absl::StatusOr<std::string> UnpackStore(const std::string& packed) {
  // Others may have made it: nothing is believed but what comes out.
  std::string bytes(kMaxStoreBytes, '\0');
  const size_t size = ZSTD_decompress(bytes.data(), bytes.size(), packed.data(), packed.size());
  if (ZSTD_isError(size) != 0 || size == 0) {
    return absl::InvalidArgumentError("what is to be in the firmware's variable store is damaged");
  }
  bytes.resize(size);
  return bytes;
}

std::string PackStore(const std::string& bytes) {
  std::string packed(ZSTD_compressBound(bytes.size()), '\0');
  packed.resize(ZSTD_compress(packed.data(), packed.size(), bytes.data(), bytes.size(), 1));
  return packed;
}

}  // namespace ferry::vm
