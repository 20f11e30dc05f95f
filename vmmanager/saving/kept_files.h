#pragma once

#include <functional>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "bridge/runtime/blocking_worker.h"
#include "vmmanager/sandbox/file_reads.h"

namespace ferry::vm {

// The files of one kind that a host keeps of its VMs: in a folder of ferryd's own for each VM, or
// where a user wants them. Thread: the executor's only.
class KeptFiles {
 public:
  // `folder` is for this kind, below `state_folder`, where all is that is ferryd's own. `reads`
  // must outlive it.
  KeptFiles(Executor executor, FileReads& reads, std::string folder, std::string state_folder)
      : reads_(reads),
        folder_(std::move(folder)),
        state_folder_(std::move(state_folder)),
        worker_(std::move(executor)) {}

  const std::string& folder() const { return folder_; }
  std::string FolderOf(const std::string& vm_id) const { return folder_ + "/" + vm_id; }
  // A path for a new file in the VM's folder, which is made. No two are the same: whoever is done
  // with one never removes another.
  Task<absl::StatusOr<std::string>> New(std::string vm_id);
  // INVALID_ARGUMENT if a user must not have a file there: what lies in our own folders is swept,
  // or somebody else's. `field` is the request's.
  Task<absl::Status> CheckUsers(std::string file, std::string field) const;
  Task<void> Remove(std::string file);
  // With all that is in it; nobody waits for that.
  void RemoveFolderOf(const std::string& vm_id);
  // Unless something is in it.
  void RemoveEmptyFolderOf(const std::string& vm_id);

  // Work with files, which may block.
  using Work = std::function<absl::Status()>;
  Task<absl::Status> Run(const char* what, Work work);

 private:
  FileReads& reads_;
  const std::string folder_;
  const std::string state_folder_;
  BlockingWorker worker_;
};

// Of a folder with a folder for each VM, removes those that are neither `known` nor `unclear`, and
// in the known ones what is not wanted. Blocks.
void RemoveOthers(const std::string& folder, const std::set<std::string>& known,
                  const std::set<std::string>& unclear,
                  const std::function<bool(const std::string&)>& is_wanted);

}  // namespace ferry::vm
