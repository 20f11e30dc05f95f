#include "vmmanager/sandbox/real_folder.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <functional>
#include <system_error>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/unique_fd.h"
#include "vmmanager/rpc/printable.h"

namespace ferry::vm {
namespace {

constexpr size_t kLongestPath = 4096;
constexpr size_t kShownOfPath = 200;

// By the kernel where it is there, because links in /proc do not lead to where they read.
std::filesystem::path Resolve(const std::string& path, std::error_code& error) {
  const UniqueFd there(::open(path.c_str(), O_PATH | O_CLOEXEC));
  if (!there.valid()) {
    error.assign(errno, std::generic_category());
    if (errno != ENOENT && errno != ENOTDIR) return path;
    return std::filesystem::weakly_canonical(path, error);
  }
  return std::filesystem::read_symlink(absl::StrCat("/proc/self/fd/", there.get()), error);
}

// One with a slash at its end names the same folder.
std::filesystem::path WithoutSlash(std::filesystem::path path) {
  return !path.has_filename() && path.has_relative_path() ? path.parent_path() : path;
}

absl::StatusOr<std::string> RealPath(const std::string& path, bool must_be_folder) {
  const std::string shown = rpc::Printable(path, kShownOfPath);
  std::error_code error;
  const std::filesystem::path real = WithoutSlash(Resolve(path, error));
  if (error) {
    return absl::FailedPreconditionError(
        absl::StrCat("the folder ", shown, " cannot be looked at: ", error.message()));
  }
  if (must_be_folder && !std::filesystem::is_directory(real, error)) {
    return absl::FailedPreconditionError(
        absl::StrCat("there is no folder ", shown, " on this host"));
  }
  return real.string();
}

// Where the links that a folder holds lead to. One that is not there holds none.
absl::StatusOr<std::vector<std::string>> LinkedFrom(const std::string& folder) {
  std::vector<std::string> led_to;
  std::error_code error;
  std::filesystem::directory_iterator entry(folder, error);
  if (error == std::errc::no_such_file_or_directory) return led_to;
  for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    std::error_code gone;
    if (!entry->is_symlink(gone)) continue;
    ASSIGN_OR_RETURN(std::string real, RealPath(entry->path(), false));
    led_to.push_back(std::move(real));
  }
  if (!error) return led_to;
  return absl::FailedPreconditionError(
      absl::StrCat("the folder ", folder, " cannot be looked into: ", error.message()));
}

absl::StatusOr<bool> IsWithin(const std::string& path, const std::string& folder) {
  const auto name_of = [](const std::string& named) {
    return WithoutSlash(std::filesystem::path(named).lexically_normal()).string();
  };
  if (LiesIn(name_of(path), name_of(folder))) return true;
  ASSIGN_OR_RETURN(const std::string real, RealPath(path, false));
  ASSIGN_OR_RETURN(const std::string own, RealPath(folder, false));
  ASSIGN_OR_RETURN(const std::vector<std::string> linked, LinkedFrom(own));
  return LiesIn(real, own) || std::any_of(linked.begin(), linked.end(),
                                          [&](const auto& led_to) { return LiesIn(real, led_to); });
}

template <typename T>
Task<absl::StatusOr<T>> Look(FileReads* reads, std::string path,
                             std::function<absl::StatusOr<T>()> look) {
  CO_RETURN_IF_ERROR(CheckFolderPath("the folder", path));
  absl::StatusOr<T> seen = co_await reads->Run<T>(path, std::move(look));
  if (!absl::IsDeadlineExceeded(seen.status())) co_return seen;
  co_return absl::FailedPreconditionError(
      absl::StrCat("the folder ", rpc::Printable(path, kShownOfPath),
                   " cannot be looked at in time; see whether its file system hangs"));
}

Task<absl::StatusOr<std::string>> Find(FileReads* reads, std::string path, bool must_be_folder) {
  std::function<absl::StatusOr<std::string>()> look = [path, must_be_folder] {
    return RealPath(path, must_be_folder);
  };
  co_return co_await Look<std::string>(reads, std::move(path), std::move(look));
}

}  // namespace

absl::Status CheckFolderPath(const std::string& member, const std::string& path) {
  if (!path.empty() && path[0] == '/' && path.size() <= kLongestPath &&
      path.find('\0') == std::string::npos) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      member, " is \"", rpc::Printable(path, kShownOfPath), "\"; give an absolute path"));
}

bool LiesIn(const std::string& path, const std::string& folder) {
  return path == folder || folder == "/" || absl::StartsWith(path, folder + "/");
}

Task<absl::StatusOr<std::string>> FindRealPath(FileReads* reads, std::string path) {
  return Find(reads, std::move(path), false);
}

Task<absl::StatusOr<std::string>> FindRealFolder(FileReads* reads, std::string path) {
  return Find(reads, std::move(path), true);
}

Task<absl::StatusOr<bool>> LiesWithin(FileReads* reads, std::string path, std::string folder) {
  CO_RETURN_IF_ERROR(CheckFolderPath("the folder", folder));
  std::function<absl::StatusOr<bool>()> look = [path, folder] { return IsWithin(path, folder); };
  co_return co_await Look<bool>(reads, std::move(path), std::move(look));
}

}  // namespace ferry::vm
