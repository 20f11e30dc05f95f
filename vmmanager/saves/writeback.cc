#include "vmmanager/saves/writeback.h"

#include <fcntl.h>

namespace ferry::vm {
namespace {

// Smaller ones would not be worth the thread's turns.
constexpr uint64_t kPieceBytes = 8ull * 1024 * 1024;

}  // namespace

Writeback::Writeback(int file) : file_(file), thread_([this] { Run(); }) {}

Writeback::~Writeback() {
  {
    const std::lock_guard lock(mutex_);
    over_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

void Writeback::UpTo(uint64_t end) {
  const std::lock_guard lock(mutex_);
  const bool worth_it = end / kPieceBytes > end_ / kPieceBytes;
  end_ = end;
  if (worth_it) changed_.notify_one();
}

void Writeback::Run() {
  uint64_t done = 0;
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return over_ || end_ - done >= kPieceBytes; });
    if (over_) return;
    // Not all that there is, so that it need not be waited for at the end.
    lock.unlock();
    ::sync_file_range(file_, static_cast<off64_t>(done), static_cast<off64_t>(kPieceBytes),
                      SYNC_FILE_RANGE_WRITE);
    done += kPieceBytes;
    lock.lock();
  }
}

}  // namespace ferry::vm
