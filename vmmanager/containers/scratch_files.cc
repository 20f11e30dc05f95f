#include "vmmanager/containers/scratch_files.h"

#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <memory>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "bridge/protocol/container_messages.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/unique_fd.h"
#include "bridge/runtime/write_all.h"
#include "vmmanager/containers/empty_qcow2.h"
#include "vmmanager/rpc/printable.h"

namespace ferry::vm {
namespace {

constexpr milliseconds kFileTime{60'000};
constexpr size_t kMaxFolder = 1024;
constexpr size_t kProofBytes = 16;

// With its word in the name, so that each migration has its own: the end of one must not take away
// the next one's.
std::string ProofOf(const std::string& file, const std::string& proof) {
  return absl::StrCat(file, ".", proof, ".proof");
}

// As far as they can be read. A range-based loop would throw where a shared folder fails on the
// way.
std::vector<std::filesystem::path> FilesIn(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> files;
  std::error_code error;
  std::filesystem::directory_iterator entry(folder, error);
  for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    files.push_back(entry->path());
  }
  return files;
}

// Also those of daemons that died over a migration.
void RemoveProofs(const std::string& file) {
  const std::filesystem::path path(file);
  const std::string prefix = path.filename().string() + ".";
  for (const std::filesystem::path& there : FilesIn(path.parent_path())) {
    const std::string name = there.filename();
    const bool proof = absl::StartsWith(name, prefix) && absl::EndsWith(name, ".proof");
    if (proof) ::unlink(there.c_str());
  }
}

bool IsProof(const std::string& proof) {
  return proof.size() == 2 * kProofBytes &&
         proof.find_first_not_of("0123456789abcdef") == std::string::npos;
}

absl::StatusOr<ScratchSize> LookAtScratch(const std::string& file) {
  struct stat found;
  const UniqueFd opened(::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (!opened.valid() || ::fstat(opened.get(), &found) != 0 || !S_ISREG(found.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat("there is no file ", file));
  }
  std::string start(kQcow2Header, '\0');
  const ssize_t size = ::pread(opened.get(), start.data(), start.size(), 0);
  start.resize(static_cast<size_t>(std::max<ssize_t>(size, 0)));
  constexpr uint64_t kStatBlock = 512;
  const absl::Status alone = CheckStandsAlone(start);
  if (alone.ok()) {
    return ScratchSize{.bytes = DiskBytesIn(start),
                       .used_bytes = static_cast<uint64_t>(found.st_blocks) * kStatBlock};
  }
  return absl::FailedPreconditionError(absl::StrCat(file, " cannot be used: ", alone.message()));
}

// QEMU's user may pass through, and not list.
absl::Status MakeFolder(const std::string& folder, const std::optional<ProcessUser>& user) {
  if (::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot make folder ", folder));
  }
  if (!user) return absl::OkStatus();
  if (::chown(folder.c_str(), static_cast<uid_t>(-1), user->gid) == 0 &&
      ::chmod(folder.c_str(), 0710) == 0) {
    return absl::OkStatus();
  }
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot open folder ", folder, " to QEMU's user"));
}

absl::Status WriteFile(const std::string& path, const std::string& bytes,
                       const std::optional<ProcessUser>& user) {
  const UniqueFd file(
      ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  const auto failed = [&path] {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot make the scratch disk ", path));
  };
  if (!file.valid()) return failed();
  if (WriteAll(file.get(), bytes) && (!user || ::fchown(file.get(), user->uid, user->gid) == 0) &&
      ::fsync(file.get()) == 0) {
    return absl::OkStatus();
  }
  const absl::Status status = failed();
  ::unlink(path.c_str());
  return status;
}

}  // namespace

absl::Status ScratchFiles::Check(const v1::ScratchSpec& spec) {
  if (spec.size_bytes() != 0) RETURN_IF_ERROR(CheckScratchSize(spec.size_bytes()));
  const std::string& folder = spec.folder();
  const bool fits = folder.empty() || (folder[0] == '/' && folder.size() <= kMaxFolder &&
                                       folder.find('\0') == std::string::npos);
  if (fits) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "the scratch disk's folder is \"", rpc::Printable(folder, 128), "\"; use an absolute path"));
}

std::string ScratchFiles::PathOf(const std::string& container_id,
                                 const v1::ScratchSpec& spec) const {
  if (spec.folder().empty()) return OwnFolder(container_id) + "/scratch.qcow2";
  return absl::StrCat(spec.folder(), "/", container_id, ".qcow2");
}

Task<absl::Status> ScratchFiles::Make(std::string container_id, v1::ScratchSpec spec) {
  const uint64_t size = spec.size_bytes() == 0 ? kDefaultScratchDisk : spec.size_bytes();
  const std::string path = PathOf(container_id, spec);
  std::vector<std::string> folders;
  if (spec.folder().empty()) folders = {folder_, OwnFolder(container_id)};
  std::function<absl::Status()> work = [path, size, folders, user = user_]() -> absl::Status {
    for (const std::string& folder : folders) RETURN_IF_ERROR(MakeFolder(folder, user));
    return WriteFile(path, EmptyQcow2(size), user);
  };
  co_return co_await worker_.Run(kFileTime, "the scratch disk", std::move(work));
}

Task<absl::Status> ScratchFiles::Remove(std::string container_id, std::string file) {
  std::function<absl::Status()> work = [file, own = OwnFolder(container_id)]() -> absl::Status {
    if (!file.empty() && ::unlink(file.c_str()) != 0 && errno != ENOENT && errno != ENOTDIR) {
      return absl::ErrnoToStatus(errno, absl::StrCat("cannot remove the scratch disk ", file));
    }
    if (!file.empty()) RemoveProofs(file);
    ::rmdir(own.c_str());
    return absl::OkStatus();
  };
  co_return co_await worker_.Run(kFileTime, "the scratch disk", std::move(work));
}

Task<absl::StatusOr<ScratchSize>> ScratchFiles::Measure(std::string file) {
  auto size = std::make_shared<ScratchSize>();
  std::function<absl::Status()> work = [file, size]() -> absl::Status {
    ASSIGN_OR_RETURN(*size, LookAtScratch(file));
    return absl::OkStatus();
  };
  CO_RETURN_IF_ERROR(co_await worker_.Run(kFileTime, "the scratch disk", std::move(work)));
  co_return *size;
}

Task<absl::Status> ScratchFiles::MakeOwn(std::string container_id, uint64_t bytes) {
  v1::ScratchSpec spec;
  spec.set_size_bytes(bytes);
  CO_RETURN_IF_ERROR(CheckScratchSize(bytes));
  co_return co_await Make(std::move(container_id), std::move(spec));
}

Task<absl::StatusOr<std::string>> ScratchFiles::Prove(std::string file) {
  std::array<unsigned char, kProofBytes> noise;
  if (::getrandom(noise.data(), noise.size(), 0) != static_cast<ssize_t>(noise.size())) {
    co_return absl::InternalError("no random numbers for a proof");
  }
  const std::string proof = absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(noise.data()), noise.size()));
  std::function<absl::Status()> work = [path = ProofOf(file, proof), proof] {
    return WriteFile(path, proof, std::nullopt);
  };
  CO_RETURN_IF_ERROR(co_await worker_.Run(kFileTime, "the scratch disk", std::move(work)));
  co_return proof;
}

Task<absl::Status> ScratchFiles::CheckProof(std::string file, std::string proof) {
  std::function<absl::Status()> work = [file, proof]() -> absl::Status {
    RETURN_IF_ERROR(LookAtScratch(file).status());
    const bool proper = IsProof(proof);
    const UniqueFd written(proper ? ::open(ProofOf(file, proof).c_str(),
                                           O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)
                                  : -1);
    std::string text(2 * kProofBytes + 1, '\0');
    const ssize_t size = written.valid() ? ::read(written.get(), text.data(), text.size()) : -1;
    text.resize(static_cast<size_t>(std::max<ssize_t>(size, 0)));
    if (proper && text == proof) return absl::OkStatus();
    return absl::FailedPreconditionError(
        absl::StrCat(file, " is another file than the one that the source has"));
  };
  co_return co_await worker_.Run(kFileTime, "the scratch disk", std::move(work));
}

Task<void> ScratchFiles::RemoveProof(std::string file, std::string proof) {
  std::function<absl::Status()> work = [path = ProofOf(file, proof)] {
    ::unlink(path.c_str());
    return absl::OkStatus();
  };
  const absl::Status ignored = co_await worker_.Run(kFileTime, "the scratch disk", std::move(work));
}

Task<absl::Status> ScratchFiles::RemoveOthers(std::vector<std::string> keep) {
  std::function<absl::Status()> work = [folder = folder_, keep = std::move(keep)] {
    std::error_code ignored;
    for (const std::filesystem::path& there : FilesIn(folder)) {
      const std::string name = there.filename();
      if (!bridge::IsContainerId(name) || std::find(keep.begin(), keep.end(), name) != keep.end()) {
        continue;
      }
      std::filesystem::remove_all(there, ignored);
    }
    return absl::OkStatus();
  };
  co_return co_await worker_.Run(kFileTime, "the scratch disks", std::move(work));
}

}  // namespace ferry::vm
