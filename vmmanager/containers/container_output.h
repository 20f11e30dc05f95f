#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ferry/state/v1/container.pb.h"
#include "guestmanager/kept_output.h"

namespace ferry::vm {

// What detached containers have printed, kept for as long as they are there, also when the VM that
// they were in has ended: in files as guest::SpoolFile's. They are small, and the host's own, so
// they are used where we are. Thread: the executor's only.
class ContainerOutput {
 public:
  // `folder` has, or gets, a folder per container.
  explicit ContainerOutput(std::string folder) : folder_(std::move(folder)) {}

  // Takes the file `from` over. NOT_FOUND if it is not there. What is kept already stays: a
  // container runs once, and a file that comes later was made by a daemon that did not know.
  absl::Status Keep(const std::string& container_id, guest::Stream stream,
                    const std::string& from) const;
  // Removes what was not taken over.
  void Discard(const std::string& from) const;
  // Whether anything is kept. The stream that it then does not have was empty.
  bool Has(const std::string& container_id) const;
  // As another host had it.
  absl::Status Write(const std::string& container_id, guest::Stream stream,
                     const state::v1::ContainerOutput& output) const;
  // The newest `limit` bytes. NOT_FOUND if nothing is kept.
  absl::StatusOr<state::v1::ContainerOutput> Export(const std::string& container_id,
                                                    guest::Stream stream, size_t limit) const;
  // See guest::ReadKept. NOT_FOUND if nothing is kept.
  absl::StatusOr<guest::KeptOutput> Read(const std::string& container_id, guest::Stream stream,
                                         uint64_t since, size_t limit) const;
  // Also the container's folder, unless other things are in it.
  void Remove(const std::string& container_id) const;

 private:
  std::string FolderOf(const std::string& container_id) const {
    return folder_ + "/" + container_id;
  }
  std::string PathOf(const std::string& container_id, guest::Stream stream) const;
  absl::Status MakeFolder(const std::string& container_id) const;

  const std::string folder_;
};

}  // namespace ferry::vm
