#pragma once

#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "bridge/container/filesystems.h"

namespace ferry::bridge {

// Filesystems in memory, whose disks hang or fail as the test says.
class FakeFilesystems : public Filesystems {
 public:
  explicit FakeFilesystems(Executor executor) : released_(std::move(executor)) {}

  Task<absl::StatusOr<std::vector<DiskFilesystem>>> Writable() override;
  Task<absl::Status> Freeze(DiskFilesystem it) override;
  Task<absl::Status> Thaw(DiskFilesystem it) override;

  // Mounts one more.
  void Mount(const std::string& name);
  // What hangs, goes on.
  void Release();

  std::vector<std::string> calls;             // "freeze /a" once it is frozen, "thaw /a"
  std::set<std::string> frozen;               // by name
  std::map<std::string, absl::Status> fails;  // what is said of a call ("freeze /a"), and "list"
  std::set<std::string> hangs;                // until Release(): calls
  size_t waiting = 0;                         // how many hang
  size_t failed = 0;                          // calls so far
  std::function<void(const std::string& call)> after;  // optional: one that was done

 private:
  Task<absl::Status> Do(std::string call);

  std::vector<DiskFilesystem> all_;
  AsyncEvent released_;
};

}  // namespace ferry::bridge
