#include "vmmanager/images/temp_folder.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::vm {
namespace {

constexpr milliseconds kTempFolderTime{60'000};

void RemoveAll(const std::string& path) {
  std::error_code ignored;
  if (!path.empty()) std::filesystem::remove_all(path, ignored);
}

}  // namespace

absl::Status TempFolder::MakeFolders(const std::string& parent,
                                     const std::optional<ProcessUser>& user, Made* made) {
  std::string path = absl::StrCat(parent, "/XXXXXX");
  if (::mkdtemp(path.data()) == nullptr) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot make a folder in ", parent));
  }
  made->path = path;
  const std::string out = path + "/out";
  if (::mkdir(out.c_str(), 0700) != 0 ||
      (user && ::chown(out.c_str(), user->uid, user->gid) != 0)) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot make the folder ", out));
  }
  made->out.Reset(::open(out.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (made->out.valid()) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot open the folder ", out));
}

Task<absl::StatusOr<std::shared_ptr<TempFolder>>> TempFolder::Make(
    Executor executor, std::string parent, std::optional<ProcessUser> user) {
  std::shared_ptr<TempFolder> folder(new TempFolder(std::move(executor)));
  std::function<absl::Status()> make = [parent = std::move(parent), user = std::move(user),
                                        made = folder->made_] {
    return MakeFolders(parent, user, made.get());
  };
  CO_RETURN_IF_ERROR(co_await folder->worker_.Run(kTempFolderTime, "the disk", std::move(make)));
  co_return folder;
}

TempFolder::~TempFolder() {
  if (removed_) return;
  worker_.Post([made = made_] { RemoveAll(made->path); });
}

Task<void> TempFolder::Remove() {
  std::function<absl::Status()> remove = [made = made_] {
    RemoveAll(made->path);
    return absl::OkStatus();
  };
  // What is slow goes on by itself, and what stays is swept at the next start.
  (void)co_await worker_.Run(kTempFolderTime, "the disk", std::move(remove));
  removed_ = true;
}

}  // namespace ferry::vm
