#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>

namespace ferry::vm {

// Has the kernel bring a file to the disk while more of it is written, which leaves less of it for
// the end. It has a thread: where the disk has enough to do, the kernel lets whoever asks wait, and
// a VM may stand still until it has been written. What cannot be written is told by fsync.
class Writeback {
 public:
  // The file must outlive it.
  explicit Writeback(int file);
  // Waits for what it is at.
  ~Writeback();
  Writeback(const Writeback&) = delete;
  Writeback& operator=(const Writeback&) = delete;

  // There is more of it, up to here.
  void UpTo(uint64_t end);

 private:
  void Run();

  const int file_;
  std::mutex mutex_;
  std::condition_variable changed_;
  uint64_t end_ = 0;
  bool over_ = false;
  std::thread thread_;  // the last: it uses the others
};

}  // namespace ferry::vm
