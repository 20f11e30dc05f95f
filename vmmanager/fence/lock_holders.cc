#include "vmmanager/fence/lock_holders.h"

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace ferry::vm {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxHoldersTold = 4;
constexpr char kOwnDescriptors[] = "/proc/self/fdinfo/";

bool IsNumber(const std::string& text) {
  return !text.empty() && std::all_of(text.begin(), text.end(),
                                      [](unsigned char c) { return std::isdigit(c) != 0; });
}

// Of "mnt_id:\t27", say; empty if there is none.
std::string FieldOf(const fs::path& path, const std::string& name) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (!absl::StartsWith(line, name + ":")) continue;
    line.erase(0, name.size() + 1);
    return std::string(absl::StripAsciiWhitespace(line));
  }
  return "";
}

// "8:1" for the mount of that id, as its file system calls itself; a file's st_dev may be another
// one (overlayfs, btrfs).
std::string DeviceOfMount(const std::string& id) {
  std::ifstream mounts("/proc/self/mountinfo");
  for (std::string line; std::getline(mounts, line);) {
    const std::vector<std::string> fields = absl::StrSplit(line, absl::MaxSplits(' ', 3));
    if (fields.size() > 2 && fields[0] == id) return fields[2];
  }
  return "";
}

// How the kernel names a file in a list of locks: "08:01:4711", the first two in hexadecimal.
std::string LockNameOf(int file) {
  const fs::path info = kOwnDescriptors + std::to_string(file);
  const std::vector<std::string> device =
      absl::StrSplit(DeviceOfMount(FieldOf(info, "mnt_id")), ':');
  uint32_t major = 0;
  uint32_t minor = 0;
  const std::string inode = FieldOf(info, "ino");
  if (inode.empty() || device.size() != 2 || !absl::SimpleAtoi(device[0], &major) ||
      !absl::SimpleAtoi(device[1], &minor)) {
    return "";
  }
  return absl::StrCat(absl::Hex(major, absl::kZeroPad2), ":", absl::Hex(minor, absl::kZeroPad2),
                      ":", inode);
}

// The locks of a descriptor's open file description stand in its fdinfo:
// "lock:	1: FLOCK  ADVISORY  WRITE 4711 08:01:4711 0 EOF".
bool HasFlock(const fs::path& info, const std::string& name) {
  std::ifstream file(info);
  for (std::string line; std::getline(file, line);) {
    if (absl::StartsWith(line, "lock:") && absl::StrContains(line, " FLOCK ") &&
        (name.empty() || absl::StrContains(line, absl::StrCat(" ", name, " ")))) {
      return true;
    }
  }
  return false;
}

bool HoldsLock(const fs::path& process, const std::string& name) {
  std::error_code error;
  for (fs::directory_iterator entry(process / "fdinfo", error), end; !error && entry != end;
       entry.increment(error)) {
    if (HasFlock(entry->path(), name)) return true;
  }
  return false;
}

std::string NameOf(const fs::path& process) {
  std::ifstream file(process / "comm");
  std::string name;
  std::getline(file, name);
  return name;
}

}  // namespace

bool IsFlocked(int file) {
  const fs::path info = kOwnDescriptors + std::to_string(file);
  return FieldOf(info, "flags").empty() || HasFlock(info, "");
}

std::string DescribeLockHolders(int file) {
  const std::string name = LockNameOf(file);
  if (name.empty()) return "";
  std::vector<std::string> holders;
  std::error_code error;
  for (fs::directory_iterator entry("/proc", error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string pid = entry->path().filename();
    if (!IsNumber(pid) || !HoldsLock(entry->path(), name)) continue;
    holders.push_back(absl::StrCat(NameOf(entry->path()), " (process ", pid, ")"));
    if (holders.size() == kMaxHoldersTold) break;
  }
  return absl::StrJoin(holders, ", ");
}

}  // namespace ferry::vm
