#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>

namespace ferry::vm {

// Has the kernel bring a file to the disk while more of it is written, which leaves less of it for
// the end. It has a thread: where the disk has enough to do, the kernel lets whoever asks wait, and
// a VM may stand still until it has been written. What cannot be written is told by fsync.
class Writeback {
 public:
  // Of a file from that byte on; it must outlive this. nullptr if no thread can be had for it.
  static std::unique_ptr<Writeback> Start(int file, uint64_t from);
  Writeback(int file, uint64_t from);
  // Waits for what it is at.
  ~Writeback();
  Writeback(const Writeback&) = delete;
  Writeback& operator=(const Writeback&) = delete;

  // There is more of it, up to here.
  void UpTo(uint64_t end);

 private:
  void Run(uint64_t done);

  const int file_;
  std::mutex mutex_;
  std::condition_variable changed_;
  uint64_t end_;
  bool over_ = false;
  std::thread thread_;  // the last: it uses the others
};

}  // namespace ferry::vm
