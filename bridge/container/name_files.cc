#include "bridge/container/name_files.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "bridge/protocol/json_fields.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::bridge {
namespace json = boost::json;
namespace {

constexpr char kEtc[] = "/etc/";
constexpr char kHosts[] =
    "127.0.0.1\tlocalhost\n"
    "::1\tlocalhost ip6-localhost ip6-loopback\n"
    "fe00::\tip6-localnet\n"
    "ff00::\tip6-mcastprefix\n"
    "ff02::1\tip6-allnodes\n"
    "ff02::2\tip6-allrouters\n";

// Anything else would be a second word, or line, of /etc/hosts.
bool IsOneWord(const std::string& name) {
  return !name.empty() && name[0] != '#' &&
         std::all_of(name.begin(), name.end(), absl::ascii_isgraph);
}

// A name of its own, so that 127.0.0.1 stays localhost whoever asks for an address's name.
std::string OwnLine(const std::string& hostname) {
  const std::string first = hostname.substr(0, hostname.find('.'));
  const std::string alias = first.empty() || first == hostname ? "" : absl::StrCat(" ", first);
  return absl::StrCat("127.0.1.1\t", hostname, alias, "\n");
}

bool IsMountedAt(const json::array& mounts, const std::string& path) {
  return std::any_of(mounts.begin(), mounts.end(), [&path](const json::value& entry) {
    if (!entry.is_object()) return false;
    const json::value* destination = entry.get_object().if_contains("destination");
    return destination != nullptr && destination->is_string() &&
           std::string_view(destination->get_string()) == path;
  });
}

bool IsA(const UniqueFd& found, mode_t type) {
  struct stat info = {};
  return found.valid() && fstat(found.get(), &info) == 0 && (info.st_mode & S_IFMT) == type;
}

// Also not as a link that leads nowhere.
bool IsAbsent(const UniqueFd& folder, const char* name) {
  struct stat info = {};
  return fstatat(folder.get(), name, &info, AT_SYMLINK_NOFOLLOW) != 0 && errno == ENOENT;
}

}  // namespace

std::map<std::string, std::string> NameFileTexts(const std::string& hostname,
                                                 const std::string& resolver) {
  std::map<std::string, std::string> texts;
  texts[kResolverFile] = resolver;
  texts["hosts"] = kHosts;
  texts["hostname"] = "";
  if (!IsOneWord(hostname)) return texts;
  if (hostname != "localhost") texts["hosts"] += OwnLine(hostname);
  texts["hostname"] = hostname + "\n";
  return texts;
}

absl::StatusOr<std::string> MountNameFiles(const std::string& specification,
                                           const std::string& folder,
                                           const std::vector<std::string>& names, bool writable) {
  ASSIGN_OR_RETURN(json::object object, ParseObject(specification));
  json::value& member = object["mounts"];
  if (!member.is_array()) member = json::array();
  json::array& mounts = member.get_array();
  if (IsMountedAt(mounts, "/etc")) return specification;
  for (const std::string& name : names) {
    const std::string path = kEtc + name;
    if (IsMountedAt(mounts, path)) continue;
    mounts.push_back(
        json::object{{"destination", path},
                     {"type", "bind"},
                     {"source", absl::StrCat(folder, "/", name)},
                     {"options", json::array{"bind", "rprivate", writable ? "rw" : "ro"}}});
  }
  return json::serialize(object);
}

std::vector<std::string> NameFilesIn(const ContainerRoot& root, bool writable) {
  std::vector<std::string> names;
  const absl::StatusOr<ContainerRoot> opened = OpenRoot(root);
  // Whoever makes the container says what is wrong with it.
  if (!opened.ok()) return names;
  const UniqueFd etc = FindInRoot(*opened, kEtc);
  if (!IsA(etc, S_IFDIR)) return names;
  for (const char* name : kNameFiles) {
    const bool there = IsA(FindInRoot(*opened, absl::StrCat(kEtc, name)), S_IFREG);
    if (there || (writable && IsAbsent(etc, name))) names.emplace_back(name);
  }
  return names;
}

}  // namespace ferry::bridge
