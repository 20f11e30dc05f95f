#pragma once

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "bridge/runtime/blocking_worker.h"
#include "bridge/runtime/unique_fd.h"
#include "vmmanager/qemu/process_user.h"

namespace ferry::vm {

// A private folder that goes with its last holder, and a thread for the work on its files, which
// may be large and the disk slow. In it is `out/`, the only part that a tool without rights gets.
class TempFolder {
 public:
  // Below `parent`, which must exist. `user` owns `out/`.
  static absl::StatusOr<std::shared_ptr<TempFolder>> Make(Executor executor,
                                                          const std::string& parent,
                                                          const std::optional<ProcessUser>& user);
  ~TempFolder();
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string out_path() const { return path_ + "/out"; }
  // Of `out/`.
  int out_fd() const { return out_.get(); }
  BlockingWorker& worker() { return worker_; }

  // Returns when it is removed. Not needed, but then it may take a moment longer than its holder.
  Task<void> Remove();

 private:
  TempFolder(Executor executor, std::string path) : path_(std::move(path)), worker_(executor) {}

  const std::string path_;
  UniqueFd out_;
  bool removed_ = false;
  BlockingWorker worker_;
};

}  // namespace ferry::vm
