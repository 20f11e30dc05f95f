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
  static Task<absl::StatusOr<std::shared_ptr<TempFolder>>> Make(Executor executor,
                                                                std::string parent,
                                                                std::optional<ProcessUser> user);
  ~TempFolder();
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  const std::string& path() const { return made_->path; }
  std::string out_path() const { return path() + "/out"; }
  // Of `out/`.
  int out_fd() const { return made_->out.get(); }
  BlockingWorker& worker() { return worker_; }

  // Returns when it is removed. Not needed, but then it may take a moment longer than its holder.
  Task<void> Remove();

 private:
  // Written on the thread, once, before anybody reads it.
  struct Made {
    std::string path;
    UniqueFd out;
  };

  explicit TempFolder(Executor executor) : worker_(std::move(executor)) {}
  static absl::Status MakeFolders(const std::string& parent, const std::optional<ProcessUser>& user,
                                  Made* made);

  const std::shared_ptr<Made> made_ = std::make_shared<Made>();
  bool removed_ = false;
  BlockingWorker worker_;
};

}  // namespace ferry::vm
