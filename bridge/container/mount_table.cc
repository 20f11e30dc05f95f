#include "bridge/container/mount_table.h"

#include <algorithm>
#include <set>
#include <sstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"

namespace ferry::bridge {
namespace {

// The kernel writes blanks and backslashes as three octal digits.
std::string Unescaped(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\' || i + 3 >= text.size()) {
      out += text[i];
      continue;
    }
    int code = 0;
    for (size_t digit = 1; digit <= 3; ++digit) code = code * 8 + (text[i + digit] - '0');
    out += static_cast<char>(code);
    i += 3;
  }
  return out;
}

// "nodev" stands before those that lie on no device.
std::set<std::string> TypesOnDevices(std::string_view filesystems) {
  std::set<std::string> types;
  std::istringstream lines{std::string(filesystems)};
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string first, second;
    words >> first >> second;
    if (!first.empty() && second.empty()) types.insert(first);
  }
  return types;
}

// "36 35 8:16 / /data rw,noatime shared:1 - ext4 /dev/sdb rw,errors=continue", with any number of
// words before the dash. False if that is not what the line is.
bool ParseMount(const std::string& line, DiskMount* mount, std::string* options) {
  std::istringstream words(line);
  std::string id, parent, root, word, source;
  if (!(words >> id >> parent >> mount->device >> root >> mount->point)) return false;
  while (words >> word && word != "-") {
  }
  mount->point = Unescaped(mount->point);
  return words >> mount->type >> source >> *options && absl::SimpleAtoi(id, &mount->id);
}

}  // namespace

std::vector<DiskMount> WritableDiskMounts(std::string_view mountinfo,
                                          std::string_view filesystems) {
  const std::set<std::string> on_devices = TypesOnDevices(filesystems);
  std::vector<DiskMount> found;
  std::istringstream lines{std::string(mountinfo)};
  for (std::string line; std::getline(lines, line);) {
    DiskMount mount;
    std::string options;
    if (!ParseMount(line, &mount, &options)) continue;
    // A type of FUSE has another name behind a dot.
    if (!on_devices.contains(mount.type.substr(0, mount.type.find('.')))) continue;
    const std::vector<std::string> words = absl::StrSplit(options, ',');
    const bool read_only = std::find(words.begin(), words.end(), "ro") != words.end();
    if (!read_only) found.push_back(std::move(mount));
  }
  return found;
}

std::vector<std::string> MountPointsBelow(std::string_view mountinfo, std::string_view folder) {
  std::vector<std::string> found;
  std::istringstream lines{std::string(mountinfo)};
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string id, parent, device, root, point;
    if (!(words >> id >> parent >> device >> root >> point)) continue;
    point = Unescaped(point);
    const std::string_view view(point);
    if (view.substr(0, folder.size()) != folder) continue;
    if (point.size() == folder.size() || point[folder.size()] == '/') found.push_back(point);
  }
  std::reverse(found.begin(), found.end());
  return found;
}

}  // namespace ferry::bridge
