#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

// Users by their names, as a container's own files have them. No I/O.
namespace ferry::bridge {

// A file of users or groups that is larger is refused.
inline constexpr size_t kMaxUserFile = size_t{1} << 20;

// The texts of a container's /etc/passwd and /etc/group; empty if it has none.
struct UserFiles {
  std::string passwd;
  std::string group;
};

struct ResolvedUser {
  uint32_t uid = 0;
  uint32_t gid = 0;
  std::vector<uint32_t> additional_gids;  // sorted; those of the groups that name the user
  std::string home = "/";
};

// Who "name|uid[:group|gid]" is. A number that the files do not know is taken as it is, with group
// 0 unless one is given. If a group is given, the user is in no others. Lines that cannot be read
// are passed over. INVALID_ARGUMENT, with a sentence, for a name that the files do not know.
absl::StatusOr<ResolvedUser> ResolveUser(std::string_view user, const UserFiles& files);

}  // namespace ferry::bridge
