#include "vmmanager/images/temp_folder.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::vm {
namespace {

constexpr milliseconds kRemoval{60'000};

void RemoveAll(const std::string& path) {
  std::error_code ignored;
  std::filesystem::remove_all(path, ignored);
}

}  // namespace

absl::StatusOr<std::shared_ptr<TempFolder>> TempFolder::Make(
    Executor executor, const std::string& parent, const std::optional<ProcessUser>& user) {
  std::string path = absl::StrCat(parent, "/XXXXXX");
  if (::mkdtemp(path.data()) == nullptr) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot make a folder in ", parent));
  }
  std::shared_ptr<TempFolder> folder(new TempFolder(std::move(executor), path));
  const std::string out = folder->out_path();
  if (::mkdir(out.c_str(), 0700) != 0 ||
      (user && ::chown(out.c_str(), user->uid, user->gid) != 0)) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot make the folder ", out));
  }
  folder->out_.Reset(::open(out.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder->out_.valid()) return folder;
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot open the folder ", out));
}

TempFolder::~TempFolder() {
  if (removed_) return;
  worker_.Post([path = path_] { RemoveAll(path); });
}

Task<void> TempFolder::Remove() {
  std::function<absl::Status()> remove = [path = path_] {
    RemoveAll(path);
    return absl::OkStatus();
  };
  // What is slow goes on by itself, and what stays is swept at the next start.
  (void)co_await worker_.Run(kRemoval, "the disk", std::move(remove));
  removed_ = true;
}

}  // namespace ferry::vm
