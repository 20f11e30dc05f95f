#include "bridge/container/mount_table.h"

#include <algorithm>
#include <sstream>

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

}  // namespace

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
