#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "bridge/runtime/blocking_worker.h"
#include "vmmanager/saves/saved_file.h"
#include "vmmanager/saving/memory_pump.h"

namespace ferry::vm {

// A VM's file that is read to its end, into another one or only to see that it is whole. Files
// block, so it has a thread. Thread: the executor's only.
class MemoryCopy : public std::enable_shared_from_this<MemoryCopy> {
 public:
  explicit MemoryCopy(Executor executor);
  ~MemoryCopy();

  // Before Write or Verify.
  void set_on_memory(OnMemory on_memory);
  // Reads all but the memory.
  Task<absl::Status> Open(std::string path, std::string key_file);
  const std::string& head() const { return head_; }
  const std::string& tail() const { return tail_; }
  const SavedFileInfo& info() const { return info_; }

  // Writes the memory to a new file, compressed and encrypted as it is, with another head and tail.
  // None is left after an error.
  Task<absl::StatusOr<SavedFileInfo>> Write(std::string to, std::string head, std::string tail);
  // DATA_LOSS unless all of the memory is what it was.
  Task<absl::Status> Verify();
  // Write or Verify ends with CANCELLED soon.
  void CallOff() { shared_->called_off = true; }
  // It may have come too late for that.
  bool called_off() const { return shared_->called_off; }

 private:
  // What the worker works with.
  struct Shared {
    std::unique_ptr<SavedFileReader> reader;
    std::string key_file;
    std::atomic<bool> called_off = false;
  };
  struct Listener;
  // Called with each piece, on the worker's thread.
  using Take = std::function<absl::Status(std::string_view piece)>;
  static absl::Status ReadAll(Shared* shared, const std::function<void(uint64_t)>& tell,
                              const Take& take);
  std::function<void(uint64_t)> Teller() const;

  const Executor executor_;
  BlockingWorker worker_;
  std::shared_ptr<Shared> shared_;
  std::shared_ptr<Listener> listener_;  // the executor's
  std::string head_;
  std::string tail_;
  SavedFileInfo info_;
};

// The reason where it is the key file that is of no use, and not the file that it is for.
inline constexpr char kKeyUnusable[] = "key_unusable";

// What is said where that memory was not named by who asked for it, or not as what it is: a file
// that is damaged is no wrong usage. FAILED_PRECONDITION "memory_damaged" in place of DATA_LOSS.
absl::Status AsDamagedMemory(const absl::Status& read, const std::string& next_step);

}  // namespace ferry::vm
