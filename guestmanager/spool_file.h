#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/unique_fd.h"
#include "guestmanager/spool.h"

namespace ferry::guest {

// How the output of detached processes is kept.
struct SpoolSettings {
  size_t capacity = 1024 * 1024;  // bytes per stream
  // Bytes for all streams of a guest together, so that they fit into a migration's cut: with many
  // of them each one has less than `capacity`.
  size_t total = 32 * 1024 * 1024;
  // Of this guest alone; must exist. Empty: in memory only, and lost with the daemon.
  std::string folder;

  // The file of the stream on this stdio port.
  std::string PathOf(uint32_t port) const;
};

// The copy of a spool that outlives the daemon: a header, then the bytes, appended as they come.
// Nothing is synced, for the page cache survives a process and the guest does not survive the host.
// When the file has grown to twice the spool's capacity, one with just the spool's bytes replaces
// it.
class SpoolFile {
 public:
  struct Content {
    uint64_t start = 0;  // offset of the first byte
    std::string bytes;
    bool ended = false;  // the stream ends behind them
  };

  // NOT_FOUND if there is none, DATA_LOSS if it is no spool's.
  static absl::StatusOr<Content> Read(const std::string& path);

  // Without a path nothing is written and everything succeeds. Until the first Update a file that
  // is there stays as it is.
  SpoolFile(std::string path, size_t capacity) : path_(std::move(path)), capacity_(capacity) {}

  // Makes the file hold what `spool` holds. After an error the file is behind but whole; the next
  // call goes on from there.
  absl::Status Update(const Spool& spool, bool ended);

  // Nobody will ask for it again; later updates do nothing.
  void Remove();

 private:
  absl::Status Replace(const Spool& spool, bool ended);
  absl::Status Append(const Spool& spool);

  std::string path_;
  size_t capacity_ = 0;
  UniqueFd fd_;
  uint64_t start_ = 0;  // offset of the file's first byte
  uint64_t end_ = 0;    // of the byte behind its last
  bool ended_ = false;
};

}  // namespace ferry::guest
