#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/container/filesystems.h"
#include "bridge/runtime/async.h"

namespace ferry::bridge {

// Holds the guest's filesystems frozen for the host, and never longer than the host is there and
// has asked for. A disk that hangs keeps no other frozen. Thread: the executor's only.
class FilesystemFreezer : public std::enable_shared_from_this<FilesystemFreezer> {
 public:
  struct Options {
    milliseconds thaw_again{500};  // what could not be thawed is tried again so much later
    std::function<void(const std::string& line)> log;  // optional: what could not be thawed
  };

  // `filesystems` must outlive all that is under way.
  FilesystemFreezer(Executor executor, Filesystems& filesystems)
      : FilesystemFreezer(std::move(executor), filesystems, Options()) {}
  FilesystemFreezer(Executor executor, Filesystems& filesystems, Options options)
      : executor_(std::move(executor)), filesystems_(filesystems), options_(std::move(options)) {}

  // Freezes all that can be written to, the last mounted first, also those that are mounted
  // meanwhile (ABORTED if there is no end to these), and returns how many. They are
  // thawed by Thaw(), by LetGo(), and when `limit` from now is over. If one cannot be frozen, or
  // not within the limit, the error names it, and all are thawed. FAILED_PRECONDITION while any is
  // frozen.
  Task<absl::StatusOr<size_t>> Freeze(milliseconds limit);

  // Thaws what Freeze() froze, or calls it off. OK if all of it was frozen until now; otherwise the
  // error says what thawed it before, or what cannot be thawed. That is tried again and again.
  Task<absl::Status> Thaw();

  // The same without waiting, because of `why`.
  void LetGo(const std::string& why);

  // The same, and nothing is frozen from now on.
  void Close(const std::string& why);

 private:
  struct Round;
  using SharedRound = std::shared_ptr<Round>;
  using Shared = std::shared_ptr<FilesystemFreezer>;

  static Task<void> FreezeAll(Shared self, SharedRound round);
  static Task<void> FreezeThese(Shared self, SharedRound round, std::vector<DiskFilesystem> left);
  static Task<void> ThawOne(Shared self, SharedRound round, DiskFilesystem it);
  void End(const SharedRound& round, absl::Status why);
  void StartThaw(const SharedRound& round, const DiskFilesystem& it);
  void NotThawed(const SharedRound& round, const DiskFilesystem& it, const absl::Status& status);

  const Executor executor_;
  Filesystems& filesystems_;
  const Options options_;
  std::string closed_;  // why; empty: it is not
  SharedRound round_;   // the last one; nullptr: there was none
};

}  // namespace ferry::bridge
