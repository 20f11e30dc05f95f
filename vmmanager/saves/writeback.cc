#include "vmmanager/saves/writeback.h"

#include <fcntl.h>

#include <system_error>

namespace ferry::vm {
namespace {

// Smaller ones would not be worth the thread's turns.
constexpr uint64_t kWritebackBytes = 8ull * 1024 * 1024;

}  // namespace

std::unique_ptr<Writeback> Writeback::Start(int file, uint64_t from) {
  try {
    return std::make_unique<Writeback>(file, from);
  } catch (const std::system_error&) {  // that is how a std::thread says so
    return nullptr;
  }
}

Writeback::Writeback(int file, uint64_t from)
    : file_(file), end_(from), thread_([this, from] { Run(from); }) {}

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
  const bool worth_it = end / kWritebackBytes > end_ / kWritebackBytes;
  end_ = end;
  // Whoever waits for a piece looks at its end only then.
  if (worth_it) changed_.notify_one();
}

void Writeback::Run(uint64_t done) {
  done -= done % kWritebackBytes;
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return over_ || end_ - done >= kWritebackBytes; });
    if (over_) return;
    // Not all that there is, so that it need not be waited for at the end.
    lock.unlock();
    ::sync_file_range(file_, static_cast<off64_t>(done), static_cast<off64_t>(kWritebackBytes),
                      SYNC_FILE_RANGE_WRITE);
    done += kWritebackBytes;
    lock.lock();
  }
}

}  // namespace ferry::vm
