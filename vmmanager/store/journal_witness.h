#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/unique_fd.h"
#include "vmmanager/store/store.h"

namespace ferry::vm {

// A small file beside the journal that says which decisive record was begun last. SQLite drops the
// newest commit without a word when the last frame of its log is damaged; this tells.
class JournalWitness {
 public:
  // Opens (or makes, mode 0600) the file.
  static absl::StatusOr<JournalWitness> Open(const std::string& path);

  // Durable when it returns OK; call it before the record is written.
  absl::Status Note(const JournalHead& record);
  // Back to what Read() said before: the record that was noted since will not be written.
  absl::Status Restore(const std::optional<JournalHead>& former);
  // nullopt if nothing was ever noted. DATA_LOSS if the file itself is damaged.
  absl::StatusOr<std::optional<JournalHead>> Read() const;

 private:
  JournalWitness(UniqueFd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}

  UniqueFd fd_;
  std::string path_;
};

}  // namespace ferry::vm
