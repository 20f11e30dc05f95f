#include "vmmanager/qemu/process_user.h"

#include <grp.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace ferry::vm {

absl::StatusOr<ProcessUser> FindProcessUser(const std::string& name) {
  const passwd* entry = ::getpwnam(name.c_str());
  if (entry == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("there is no user '", name, "'"));
  }
  ProcessUser user{name, entry->pw_uid, entry->pw_gid, {}};
  if (user.uid == 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("the user '", name, "' is root; choose one without rights"));
  }
  if (::geteuid() != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("only root can give a process to the user '", name, "'"));
  }
  int count = 64;
  user.groups.resize(static_cast<size_t>(count));
  if (::getgrouplist(name.c_str(), user.gid, user.groups.data(), &count) < 0) {
    user.groups.resize(static_cast<size_t>(count));
    if (::getgrouplist(name.c_str(), user.gid, user.groups.data(), &count) < 0) {
      return absl::UnavailableError(absl::StrCat("cannot list the groups of '", name, "'"));
    }
  }
  user.groups.resize(static_cast<size_t>(count));
  return user;
}

bool MayReadAndWrite(const ProcessUser& user, const std::string& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) return false;
  const auto allows = [&info](mode_t bits) { return (info.st_mode & bits) == bits; };
  if (info.st_uid == user.uid) return allows(S_IRUSR | S_IWUSR);
  const auto member = std::find(user.groups.begin(), user.groups.end(), info.st_gid);
  if (member != user.groups.end()) return allows(S_IRGRP | S_IWGRP);
  return allows(S_IROTH | S_IWOTH);
}

}  // namespace ferry::vm
