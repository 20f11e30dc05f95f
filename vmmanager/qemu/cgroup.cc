#include "vmmanager/qemu/cgroup.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/unique_fd.h"

namespace ferry::vm {
namespace {

constexpr milliseconds kLastProcessLimit{5'000};

std::string ReadAll(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// Returns when the group may have become empty: its events file then has something new to read.
Task<absl::Status> AwaitEmpty(std::string path) {
  UniqueFd file(::open(absl::StrCat(path, "/cgroup.events").c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid()) co_return absl::ErrnoToStatus(errno, absl::StrCat("cannot watch ", path));
  asio::posix::stream_descriptor events(co_await asio::this_coro::executor, file.Release());
  while (::rmdir(path.c_str()) != 0) {
    if (errno != EBUSY) co_return absl::ErrnoToStatus(errno, absl::StrCat("cannot remove ", path));
    std::array<char, 256> buffer{};
    const ssize_t count = ::pread(events.native_handle(), buffer.data(), buffer.size(), 0);
    const std::string text(buffer.data(), count > 0 ? static_cast<size_t>(count) : 0);
    const bool empty = absl::StrContains(text, "populated 0");
    if (empty && ::rmdir(path.c_str()) == 0) co_return absl::OkStatus();
    co_await events.async_wait(asio::posix::stream_descriptor::wait_error, asio::use_awaitable);
  }
  co_return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> CgroupBeside(const std::string& mountinfo, const std::string& cgroup) {
  std::string mount;
  const std::vector<std::string> mounts = absl::StrSplit(mountinfo, '\n');
  for (const std::string& line : mounts) {
    // Optional fields end with a lone dash; what follows is the type.
    const std::vector<std::string> halves = absl::StrSplit(line, absl::MaxSplits(" - ", 1));
    if (halves.size() != 2 || !absl::StartsWith(halves[1], "cgroup2 ")) continue;
    const std::vector<std::string> fields = absl::StrSplit(halves[0], ' ');
    constexpr size_t kMountPoint = 4;
    if (mount.empty() && fields.size() > kMountPoint) mount = fields[kMountPoint];
  }
  if (mount.empty()) return absl::NotFoundError("control groups of version 2 are not mounted");
  const std::vector<std::string> groups = absl::StrSplit(cgroup, '\n');
  for (const std::string& line : groups) {
    if (!absl::StartsWith(line, "0::/")) continue;
    const std::filesystem::path own(line.substr(3));
    const std::string parent = own.parent_path().string();
    return parent == "/" ? mount : absl::StrCat(mount, parent);
  }
  return absl::NotFoundError("this process is in no control group of version 2");
}

absl::StatusOr<std::string> ChooseCgroupParent(const std::string& setting) {
  if (setting == "none") return std::string();
  std::string parent = setting;
  if (setting == "auto") {
    ASSIGN_OR_RETURN(parent,
                     CgroupBeside(ReadAll("/proc/self/mountinfo"), ReadAll("/proc/self/cgroup")));
  }
  if (parent.empty() || parent[0] != '/') {
    return absl::InvalidArgumentError(
        absl::StrCat("'", setting, "' is no absolute path, and neither 'auto' nor 'none'"));
  }
  if (::access(absl::StrCat(parent, "/cgroup.procs").c_str(), W_OK) != 0 ||
      ::access(parent.c_str(), W_OK | X_OK) != 0) {
    return absl::UnavailableError(absl::StrCat("no control group can be made in ", parent, ": ",
                                               std::string(::strerror(errno))));
  }
  return parent;
}

std::string CgroupOf(const std::string& parent, const std::string& folder) {
  return absl::StrCat(parent, "/ferry-", std::filesystem::path(folder).filename().string());
}

absl::Status MakeCgroup(const std::string& path) {
  if (::mkdir(path.c_str(), 0755) == 0) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot make the control group ", path));
}

Task<void> RemoveCgroup(std::string path) {
  if (path.empty() || ::rmdir(path.c_str()) == 0 || errno == ENOENT) co_return;
  const std::string group = path;
  absl::Status removed =
      co_await WithDeadline(kLastProcessLimit, "the last process's end", AwaitEmpty(group));
  if (!removed.ok()) spdlog::warn("the control group {} stays: {}", path, removed.ToString());
}

}  // namespace ferry::vm
