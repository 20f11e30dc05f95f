#include "vmmanager/sandbox/real_folder.h"

#include <filesystem>
#include <functional>
#include <memory>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/blocking_worker.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/rpc/printable.h"

namespace ferry::vm {
namespace {

constexpr milliseconds kLookLimit{10'000};
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

Task<absl::StatusOr<std::string>> Look(std::string path, bool must_be_folder) {
  CO_RETURN_IF_ERROR(CheckFolderPath("the folder", path));
  auto found = std::make_shared<absl::StatusOr<std::string>>("");
  std::function<absl::Status()> look = [found, path, must_be_folder] {
    *found = RealPath(path, must_be_folder);
    return found->status();
  };
  BlockingWorker worker(co_await asio::this_coro::executor);
  const absl::Status looked = co_await worker.Run(kLookLimit, "the file system", std::move(look));
  if (absl::IsDeadlineExceeded(looked)) {
    co_return absl::FailedPreconditionError(absl::StrCat(
        "the folder ", path, " cannot be looked at in time; see whether its file system hangs"));
  }
  CO_RETURN_IF_ERROR(looked);
  co_return *found;
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

Task<absl::StatusOr<std::string>> FindRealPath(std::string path) {
  return Look(std::move(path), false);
}

Task<absl::StatusOr<std::string>> FindRealFolder(std::string path) {
  return Look(std::move(path), true);
}

}  // namespace ferry::vm
