#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "bridge/runtime/async.h"
#include "bridge/runtime/blocking_worker.h"
#include "bridge/runtime/unique_fd.h"
#include "vmmanager/saves/saved_file.h"

// A VM's memory on its way between a VMM and a file. Files and pipes block, so each has a thread;
// what is said here is said on the executor's.
namespace ferry::vm {

class PumpBrake;
struct PumpListener;  // the executor's side of a pump

// How many bytes of memory have gone by so far; called now and then, on the executor's thread.
using OnMemory = std::function<void(uint64_t)>;

// A file that is being written.
class FileBeingSaved : public std::enable_shared_from_this<FileBeingSaved> {
 public:
  explicit FileBeingSaved(Executor executor);
  ~FileBeingSaved();

  // Before Begin.
  void set_on_memory(OnMemory on_memory) { on_memory_ = std::move(on_memory); }
  // Takes no more, so that whoever writes sees that nobody reads, and Taken() is CANCELLED.
  // FAILED_PRECONDITION if all of it was taken.
  absl::Status CallOff();

  // Makes the file, beside the one that it may take the place of. The key is read from `key_file`;
  // empty: it is not encrypted.
  Task<absl::Status> Create(std::string path, SavedFileOptions options, std::string key_file);
  // Once it is made.
  const FileIdentity& identity() const { return identity_; }
  // Writes what comes before the memory. Returns where that is to be written; what is written there
  // goes into the file until that end is closed.
  Task<absl::StatusOr<UniqueFd>> Begin(std::string head);
  // Returns when all of it is in the file. An error of the file's is told here, and whoever writes
  // has seen that nobody reads it any more.
  Task<absl::Status> Taken();
  // Makes the file whole.
  Task<absl::StatusOr<SavedFileInfo>> Commit(std::string tail);
  // Nothing of it stays, also if it was committed. Returns the first cause that is known: the
  // file's own error, or else this one.
  Task<absl::Status> Discard(absl::Status cause);

 private:
  static Task<void> Take(std::shared_ptr<FileBeingSaved> self, UniqueFd memory);

  const Executor executor_;
  BlockingWorker worker_;
  std::string path_;
  FileIdentity identity_;
  bool open_ = false;                                         // the worker may hold it
  std::shared_ptr<std::unique_ptr<SavedFileWriter>> writer_;  // the worker's
  std::shared_ptr<bool> has_name_;                            // the worker's, too
  std::shared_ptr<PumpBrake> brake_;                          // the worker looks at it
  std::shared_ptr<PumpListener> listener_;
  OnMemory on_memory_;
  absl::Status taken_;
  AsyncEvent over_;
};

// A file that a VM goes on from.
class FileBeingRestored : public std::enable_shared_from_this<FileBeingRestored> {
 public:
  explicit FileBeingRestored(Executor executor);
  ~FileBeingRestored();

  // Before Send.
  void set_on_memory(OnMemory on_memory) { on_memory_ = std::move(on_memory); }
  // Reads all but the memory.
  Task<absl::Status> Open(std::string path, std::string key_file);
  const std::string& head() const { return head_; }
  const std::string& tail() const { return tail_; }
  const SavedFileInfo& info() const { return info_; }

  // Sends no more, so that whoever takes it lacks its end, and Sent() is CANCELLED.
  // FAILED_PRECONDITION if all of it is on its way.
  absl::Status CallOff();

  // Sends the memory to whoever listens there.
  void Send(std::string unix_path);
  // Returns when all of it was sent and was what it should be. ABORTED if nobody took it.
  Task<absl::Status> Sent();

 private:
  static Task<void> Run(std::shared_ptr<FileBeingRestored> self, std::string unix_path);

  const Executor executor_;
  BlockingWorker worker_;
  std::shared_ptr<std::unique_ptr<SavedFileReader>> reader_;  // the worker's
  std::shared_ptr<PumpBrake> brake_;                          // the worker looks at it
  std::shared_ptr<PumpListener> listener_;
  OnMemory on_memory_;
  std::string head_;
  std::string tail_;
  SavedFileInfo info_;
  absl::Status sent_;
  AsyncEvent over_;
};

}  // namespace ferry::vm
