#include "vmmanager/sandbox/real_folder.h"

#include <filesystem>
#include <functional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/rpc/printable.h"

namespace ferry::vm {
namespace {

constexpr size_t kLongestPath = 4096;
constexpr size_t kShownOfPath = 200;

absl::StatusOr<std::string> RealPath(const std::string& path, bool must_be_folder) {
  const std::string shown = rpc::Printable(path, kShownOfPath);
  std::error_code error;
  std::filesystem::path real = std::filesystem::weakly_canonical(path, error);
  if (error) {
    return absl::FailedPreconditionError(
        absl::StrCat("the folder ", shown, " cannot be looked at: ", error.message()));
  }
  // One with a slash at its end names the same folder.
  if (!real.has_filename() && real.has_relative_path()) real = real.parent_path();
  if (must_be_folder && !std::filesystem::is_directory(real, error)) {
    return absl::FailedPreconditionError(
        absl::StrCat("there is no folder ", shown, " on this host"));
  }
  return real.string();
}

Task<absl::StatusOr<std::string>> Look(FileReads* reads, std::string path, bool must_be_folder) {
  CO_RETURN_IF_ERROR(CheckFolderPath("the folder", path));
  std::function<absl::StatusOr<std::string>()> look = [path, must_be_folder] {
    return RealPath(path, must_be_folder);
  };
  absl::StatusOr<std::string> real = co_await reads->Run<std::string>(path, std::move(look));
  if (!absl::IsDeadlineExceeded(real.status())) co_return real;
  co_return absl::FailedPreconditionError(
      absl::StrCat("the folder ", rpc::Printable(path, kShownOfPath),
                   " cannot be looked at in time; see whether its file system hangs"));
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

Task<absl::StatusOr<std::string>> FindRealPath(FileReads* reads, std::string path) {
  return Look(reads, std::move(path), false);
}

Task<absl::StatusOr<std::string>> FindRealFolder(FileReads* reads, std::string path) {
  return Look(reads, std::move(path), true);
}

Task<absl::StatusOr<bool>> LiesWithin(FileReads* reads, std::string path, std::string folder) {
  CO_ASSIGN_OR_RETURN(const std::string real, co_await FindRealPath(reads, std::move(path)));
  CO_ASSIGN_OR_RETURN(const std::string own, co_await FindRealPath(reads, std::move(folder)));
  co_return real == own || absl::StartsWith(real, own + "/");
}

}  // namespace ferry::vm
