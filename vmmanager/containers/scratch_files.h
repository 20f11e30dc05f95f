#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "bridge/runtime/blocking_worker.h"
#include "ferry/v1/container.pb.h"
#include "vmmanager/qemu/process_user.h"

namespace ferry::vm {

// How large a scratch disk is, and its file.
struct ScratchSize {
  uint64_t bytes = 0;       // that the guest sees
  uint64_t used_bytes = 0;  // of room
};

// The files that take what containers write. They are made on a thread, for a folder that hosts
// share can hang.
class ScratchFiles {
 public:
  // `folder` is the host's own, made with the first file. Files belong to `user`, or to us.
  ScratchFiles(Executor executor, std::string folder, std::optional<ProcessUser> user)
      : folder_(std::move(folder)), user_(std::move(user)), worker_(std::move(executor)) {}

  // INVALID_ARGUMENT if there can be no such disk.
  static absl::Status Check(const v1::ScratchSpec& spec);
  // Where the container's file is, or would be.
  std::string PathOf(const std::string& container_id, const v1::ScratchSpec& spec) const;
  Task<absl::Status> Make(std::string container_id, v1::ScratchSpec spec);
  // Fine if it is not there.
  Task<absl::Status> Remove(std::string container_id, std::string file);
  // Whether such a file can be on another host, too: not in our own folder.
  static bool IsShareable(const v1::ScratchSpec& spec) { return !spec.folder().empty(); }
  // The same of a file of that container.
  bool IsOwn(const std::string& container_id, const std::string& file) const {
    return file == PathOf(container_id, v1::ScratchSpec());
  }
  // FAILED_PRECONDITION if the file is none that stands alone.
  Task<absl::StatusOr<ScratchSize>> Measure(std::string file);
  // An empty disk of that size in our own folder; never in the place of another one, which a
  // checkpoint may need. INVALID_ARGUMENT if there can be no such disk.
  Task<absl::Status> MakeOwn(std::string container_id, uint64_t bytes);
  // Writes a word that nobody can guess beside the file, and returns it.
  Task<absl::StatusOr<std::string>> Prove(std::string file);
  // Whether this very file is here: it is there, and so is that word. FAILED_PRECONDITION.
  Task<absl::Status> CheckProof(std::string file, std::string proof);
  Task<void> RemoveProof(std::string file, std::string proof);
  // Of our own folder, what is no container's in `keep`: a former daemon may have died over it.
  Task<absl::Status> RemoveOthers(std::vector<std::string> keep);

 private:
  std::string OwnFolder(const std::string& container_id) const {
    return folder_ + "/" + container_id;
  }

  const std::string folder_;
  const std::optional<ProcessUser> user_;
  BlockingWorker worker_;
};

}  // namespace ferry::vm
