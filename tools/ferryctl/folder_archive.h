#pragma once

#include <memory>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/unique_fd.h"

namespace ferry::ctl {

// A folder as a tar that is written while it is read, by a thread of its own. Names come in order,
// and times of access are left out, so that the same folder makes the same bytes. Sockets are left
// out.
class FolderArchive {
 public:
  static absl::StatusOr<std::unique_ptr<FolderArchive>> Open(const std::string& folder);
  ~FolderArchive();
  FolderArchive(const FolderArchive&) = delete;
  FolderArchive& operator=(const FolderArchive&) = delete;

  // Where the tar comes out; nobody may read there any more when this object goes.
  int fd() const { return pipe_.get(); }

  // Whether it was the whole folder; to be asked at the end of what comes out. Names the file that
  // could not be read.
  absl::Status Finish();

 private:
  explicit FolderArchive(UniqueFd pipe) : pipe_(std::move(pipe)) {}

  UniqueFd pipe_;
  absl::Status status_;  // the thread's, until it is joined
  std::thread thread_;
};

}  // namespace ferry::ctl
