#include "bridge/container/user_names.h"

#include <algorithm>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::bridge {
namespace {

constexpr size_t kMaxUserText = 256;
constexpr size_t kMaxGroups = 1024;

struct PasswdEntry {
  absl::string_view name;
  uint32_t uid = 0;
  uint32_t gid = 0;
  absl::string_view home;
};

struct GroupEntry {
  absl::string_view name;
  uint32_t gid = 0;
  absl::string_view members;  // separated by commas
};

// Digits only. 2^32-1 stands for "unchanged" in system calls, and is nobody's number.
std::optional<uint32_t> ParseId(absl::string_view text) {
  uint32_t id = 0;
  if (text.empty() || !std::all_of(text.begin(), text.end(), absl::ascii_isdigit)) {
    return std::nullopt;
  }
  if (!absl::SimpleAtoi(text, &id) || id == UINT32_MAX) return std::nullopt;
  return id;
}

bool IsNumber(absl::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), absl::ascii_isdigit);
}

// Calls `take(fields)` for each line with at least `count` of them.
template <typename Take>
void ForEachLine(absl::string_view text, size_t count, Take take) {
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    const std::vector<absl::string_view> fields = absl::StrSplit(line, ':');
    if (fields.size() >= count && !fields[0].empty()) take(fields);
  }
}

// The entry with this name, or else the first with this number.
std::optional<PasswdEntry> FindUser(absl::string_view wanted, absl::string_view passwd) {
  const std::optional<uint32_t> number = ParseId(wanted);
  std::optional<PasswdEntry> named;
  std::optional<PasswdEntry> numbered;
  ForEachLine(passwd, 6, [&](const std::vector<absl::string_view>& fields) {
    const std::optional<uint32_t> uid = ParseId(fields[2]);
    const std::optional<uint32_t> gid = ParseId(fields[3]);
    if (!uid.has_value() || !gid.has_value()) return;
    const PasswdEntry entry{fields[0], *uid, *gid, fields[5]};
    if (!named.has_value() && entry.name == wanted) named = entry;
    if (!numbered.has_value() && number == entry.uid) numbered = entry;
  });
  return named.has_value() ? named : numbered;
}

template <typename Take>
void ForEachGroup(absl::string_view group, Take take) {
  ForEachLine(group, 3, [&](const std::vector<absl::string_view>& fields) {
    const std::optional<uint32_t> gid = ParseId(fields[2]);
    if (!gid.has_value()) return;
    take(GroupEntry{fields[0], *gid, fields.size() > 3 ? fields[3] : absl::string_view()});
  });
}

absl::StatusOr<uint32_t> FindGroup(absl::string_view wanted, absl::string_view group) {
  std::optional<uint32_t> named;
  ForEachGroup(group, [&](const GroupEntry& entry) {
    if (!named.has_value() && entry.name == wanted) named = entry.gid;
  });
  if (named.has_value()) return *named;
  const std::optional<uint32_t> number = ParseId(wanted);
  if (number.has_value()) return *number;
  if (IsNumber(wanted)) {
    return absl::InvalidArgumentError(absl::StrCat(wanted, " is too large for a group's number"));
  }
  return absl::InvalidArgumentError(absl::StrCat("the container's /etc/group knows no group '",
                                                 wanted, "'; name one of it, or a number"));
}

absl::StatusOr<std::vector<uint32_t>> GroupsOf(absl::string_view name, absl::string_view group) {
  std::vector<uint32_t> found;
  ForEachGroup(group, [&](const GroupEntry& entry) {
    const std::vector<absl::string_view> members = absl::StrSplit(entry.members, ',');
    if (std::find(members.begin(), members.end(), name) != members.end()) {
      found.push_back(entry.gid);
    }
  });
  std::sort(found.begin(), found.end());
  found.erase(std::unique(found.begin(), found.end()), found.end());
  if (found.size() <= kMaxGroups) return found;
  return absl::InvalidArgumentError(
      absl::StrCat("user '", name, "' is in ", found.size(), " groups, more than ", kMaxGroups));
}

// The number of a user of whom the files say nothing.
absl::StatusOr<uint32_t> UnknownUser(absl::string_view wanted) {
  const std::optional<uint32_t> number = ParseId(wanted);
  if (number.has_value()) return *number;
  if (IsNumber(wanted)) {
    return absl::InvalidArgumentError(absl::StrCat(wanted, " is too large for a user's number"));
  }
  return absl::InvalidArgumentError(absl::StrCat("the container's /etc/passwd knows no user '",
                                                 wanted, "'; name one of it, or a number"));
}

}  // namespace

absl::StatusOr<ResolvedUser> ResolveUser(std::string_view text, const UserFiles& files) {
  const absl::string_view user(text.data(), text.size());
  const size_t colon = user.find(':');
  const absl::string_view wanted = user.substr(0, colon);
  const bool has_group = colon != absl::string_view::npos;
  const absl::string_view wanted_group = has_group ? user.substr(colon + 1) : absl::string_view();
  const bool printable = std::all_of(user.begin(), user.end(), absl::ascii_isgraph);
  if (user.size() > kMaxUserText || !printable || wanted.empty() ||
      (has_group && wanted_group.empty()) || wanted_group.find(':') != absl::string_view::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("a user is 'name', 'uid', or one of them with ':group' or ':gid', in at most ",
                     kMaxUserText, " characters without spaces"));
  }
  ResolvedUser made;
  const std::optional<PasswdEntry> known = FindUser(wanted, files.passwd);
  if (known.has_value()) {
    made.uid = known->uid;
    made.gid = known->gid;
    if (!known->home.empty()) made.home = std::string(known->home);
  } else {
    ASSIGN_OR_RETURN(made.uid, UnknownUser(wanted));
  }
  if (has_group) {
    ASSIGN_OR_RETURN(made.gid, FindGroup(wanted_group, files.group));
  } else if (known.has_value()) {
    ASSIGN_OR_RETURN(made.additional_gids, GroupsOf(known->name, files.group));
  }
  return made;
}

}  // namespace ferry::bridge
