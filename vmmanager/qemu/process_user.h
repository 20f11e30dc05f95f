#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace ferry::vm {

// A user that a process may be given, with all groups that it would have after a login.
struct ProcessUser {
  std::string name;
  uid_t uid = 0;
  gid_t gid = 0;
  std::vector<gid_t> groups;
};

// INVALID_ARGUMENT if there is no such user; FAILED_PRECONDITION if this process may not become
// another user, or if it is root that was asked for.
absl::StatusOr<ProcessUser> FindProcessUser(const std::string& name);

// Whether the file's owner and mode let the user read and write it. Access lists are not looked at.
bool MayReadAndWrite(const ProcessUser& user, const std::string& path);

}  // namespace ferry::vm
