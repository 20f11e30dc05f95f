#include "vmmanager/containers/vm_shares.h"

#include <filesystem>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/backend/shares.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/rpc/printable.h"
#include "vmmanager/sandbox/real_folder.h"

namespace ferry::vm {
namespace {

constexpr int kMaxMounts = 32;
constexpr size_t kShownPath = 200;
// What a runtime or the kernel has in a container.
constexpr const char* kOwnFolders[] = {"/proc", "/sys", "/dev"};

absl::Status CheckPlaceInContainer(const std::string& path) {
  const auto refuse = [&path](absl::string_view why) {
    return absl::InvalidArgumentError(
        absl::StrCat("a folder cannot be mounted in the container at \"",
                     rpc::Printable(path, kShownPath), "\": ", why));
  };
  const absl::Status plain = bridge::CheckGuestPath("it", path);
  if (!plain.ok()) {
    return refuse("give an absolute path without \".\", \"..\", commas, colons and backslashes");
  }
  for (const char* own : kOwnFolders) {
    if (LiesIn(path, own)) return refuse(absl::StrCat(own, " is the container's own"));
  }
  return absl::OkStatus();
}

std::string NamesOf(const std::map<std::string, schema::SharedFolder>& shares) {
  std::vector<std::string> names;
  for (const auto& [number, share] : shares) {
    names.push_back(absl::StrCat(share.path, share.read_only ? " (read-only)" : ""));
  }
  return names.empty() ? "none" : absl::StrJoin(names, ", ");
}

}  // namespace

std::string SharePlace(const std::string& number) { return absl::StrCat("/run/gcs/s/", number); }

absl::Status CheckMounts(const v1::ContainerSpec& spec) {
  if (spec.mounts_size() > kMaxMounts) {
    return absl::InvalidArgumentError(absl::StrCat("the container has ", spec.mounts_size(),
                                                   " folders of the host; it may have ",
                                                   kMaxMounts));
  }
  std::set<std::string> places;
  for (const v1::ContainerMount& mount : spec.mounts()) {
    RETURN_IF_ERROR(CheckFolderPath("host_path", mount.host_path()));
    RETURN_IF_ERROR(CheckPlaceInContainer(mount.path()));
    if (!places.insert(mount.path()).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("two folders are to be mounted in the container at ", mount.path(),
                       "; give each its own"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<SharedMount> FindShare(const v1::ContainerMount& mount, const std::string& folder,
                                      const std::map<std::string, schema::SharedFolder>& shares) {
  const std::string* number = nullptr;
  const schema::SharedFolder* best = nullptr;
  bool only_to_read = false;
  for (const auto& [its_number, share] : shares) {
    if (!LiesIn(folder, share.path)) continue;
    only_to_read = only_to_read || share.read_only;
    if (share.read_only && !mount.read_only()) continue;
    if (best != nullptr && best->path.size() >= share.path.size()) continue;
    number = &its_number;
    best = &share;
  }
  if (best == nullptr) {
    return rpc::ErrorWithReason(
        absl::StatusCode::kFailedPrecondition,
        absl::StrCat("the folder ", rpc::Printable(mount.host_path(), kShownPath), " lies in no ",
                     only_to_read ? "share of the VM that may be written to" : "share of the VM",
                     "; its shares are: ", NamesOf(shares)),
        only_to_read ? "share_read_only" : "folder_not_shared",
        only_to_read ? "Mount it read-only: -v HOSTDIR:DIR:ro"
                     : "Shares are said when a VM is made: ferryctl vm create --stays --share "
                       "HOSTDIR");
  }
  SharedMount found;
  found.share = *number;
  found.share_is_read_only = best->read_only;
  found.source = SharePlace(*number);
  const size_t skipped = best->path == "/" ? 0 : best->path.size();
  if (folder.size() > skipped && folder != "/") found.source += folder.substr(skipped);
  found.path = mount.path();
  found.read_only = mount.read_only();
  return found;
}

Task<absl::StatusOr<std::vector<SharedMount>>> FindMounts(std::shared_ptr<UtilityVm> vm,
                                                          v1::ContainerSpec spec,
                                                          FileReads* reads) {
  std::vector<SharedMount> mounts;
  if (spec.mounts().empty()) co_return mounts;
  if (!vm->spec().stays()) {
    co_return rpc::ErrorWithReason(
        absl::StatusCode::kFailedPrecondition,
        absl::StrCat("VM ", vm->name(),
                     " may move to another host, and a folder of this host could not move with it"),
        "vm_may_move", "Use a VM that stays: ferryctl vm create NAME --stays --share HOSTDIR");
  }
  const std::map<std::string, schema::SharedFolder> shares =
      vm->document().virtual_machine.devices.shares;
  for (const v1::ContainerMount& mount : spec.mounts()) {
    // Nothing of the host is looked at for a VM that has no share.
    if (shares.empty()) co_return FindShare(mount, mount.host_path(), shares).status();
    CO_ASSIGN_OR_RETURN(const std::string folder, co_await FindRealPath(reads, mount.host_path()));
    CO_ASSIGN_OR_RETURN(SharedMount found, FindShare(mount, folder, shares));
    // Whether it is there is told only of what is shared, and of that whatever links lead to now.
    CO_RETURN_IF_ERROR((co_await FindRealFolder(reads, folder)).status());
    mounts.push_back(std::move(found));
  }
  co_return mounts;
}

Task<absl::Status> VmShares::Bring(std::vector<SharedMount> mounts) {
  const AsyncMutex::Guard turn = co_await turn_.Lock();
  for (const SharedMount& mount : mounts) {
    bridge::MappedDirectory directory;
    directory.mount_path = SharePlace(mount.share);
    directory.share_name = ShareTag(mount.share);
    directory.read_only = mount.share_is_read_only;
    const absl::Status mounted = co_await machine_.MountDirectory(std::move(directory));
    if (!absl::IsAlreadyExists(mounted)) CO_RETURN_IF_ERROR(mounted);
  }
  co_return absl::OkStatus();
}

}  // namespace ferry::vm
