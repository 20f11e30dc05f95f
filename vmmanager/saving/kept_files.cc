#include "vmmanager/saving/kept_files.h"

#include <spdlog/spdlog.h>

#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/images/durable_file.h"
#include "vmmanager/sandbox/real_folder.h"
#include "vmmanager/sandbox/vm_inventory.h"

namespace ferry::vm {
namespace {

constexpr milliseconds kFolderLimit{60'000};
constexpr char kOwnSuffix[] = ".ferry";

}  // namespace

Task<absl::Status> KeptFiles::Run(const char* what, Work work) {
  co_return co_await worker_.Run(kFolderLimit, what, std::move(work));
}

Task<absl::StatusOr<std::string>> KeptFiles::New(std::string vm_id) {
  const std::string folder = FolderOf(vm_id);
  Work make = [folder, above = folder_] {
    std::error_code error;
    std::filesystem::create_directories(folder, error);
    if (!error) return SyncFolder(above);
    return absl::UnavailableError(absl::StrCat("cannot make ", folder, ": ", error.message()));
  };
  CO_RETURN_IF_ERROR(co_await Run("making a folder", std::move(make)));
  co_return absl::StrCat(folder, "/", VmInventory::NewId(), kOwnSuffix);
}

Task<absl::Status> KeptFiles::CheckUsers(std::string file, std::string field) const {
  if (file.empty() || file[0] != '/') {
    co_return absl::InvalidArgumentError(
        absl::StrCat(field, " must be an absolute path on the VM's host"));
  }
  const std::string folder = std::filesystem::path(file).parent_path();
  CO_ASSIGN_OR_RETURN(const bool ours, co_await LiesWithin(&reads_, folder, state_folder_));
  if (!ours) co_return absl::OkStatus();
  co_return absl::InvalidArgumentError(
      absl::StrCat(field, " must not be in ", state_folder_, ", which is ferryd's own"));
}

Task<void> KeptFiles::Remove(std::string file) {
  Work remove = [file] { return RemoveDurably(file); };
  const absl::Status removed = co_await Run("removing a file", std::move(remove));
  if (!removed.ok()) spdlog::warn("{}: {}", file, removed.ToString());
}

void KeptFiles::RemoveFolderOf(const std::string& vm_id) {
  worker_.Post([folder = FolderOf(vm_id)] {
    std::error_code ignored;
    std::filesystem::remove_all(folder, ignored);
  });
}

void KeptFiles::RemoveEmptyFolderOf(const std::string& vm_id) {
  worker_.Post([folder = FolderOf(vm_id)] {
    std::error_code ignored;
    std::filesystem::remove(folder, ignored);
  });
}

void RemoveOthers(const std::string& folder, const std::set<std::string>& known,
                  const std::set<std::string>& unclear,
                  const std::function<bool(const std::string&)>& is_wanted) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  for (const auto& of_vm : fs::directory_iterator(folder, ignored)) {
    if (unclear.contains(of_vm.path())) continue;
    if (!known.contains(of_vm.path())) {
      fs::remove_all(of_vm.path(), ignored);
      continue;
    }
    for (const auto& file : fs::directory_iterator(of_vm.path(), ignored)) {
      if (!is_wanted(file.path())) fs::remove(file.path(), ignored);
    }
  }
}

}  // namespace ferry::vm
