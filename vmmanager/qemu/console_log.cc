#include "vmmanager/qemu/console_log.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "vmmanager/qemu/qemu_process.h"

namespace ferry::vm {

ConsoleLog::ConsoleLog(Executor executor, UniqueFd socket, UniqueFd folder, uint64_t max_file_bytes)
    : socket_(executor, socket.Release()),
      folder_(std::move(folder)),
      max_file_bytes_(max_file_bytes) {}

std::shared_ptr<ConsoleLog> ConsoleLog::Start(Executor executor, UniqueFd socket, UniqueFd folder,
                                              uint64_t max_file_bytes) {
  auto log =
      std::make_shared<ConsoleLog>(executor, std::move(socket), std::move(folder), max_file_bytes);
  log->OpenFile();
  Spawn(executor, Run(log));
  return log;
}

// QEMU's user may own the folder: nothing in it is followed to elsewhere.
void ConsoleLog::OpenFile() {
  file_.Reset(
      ::openat(folder_.get(), kName, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600));
  struct stat about {};
  size_ = ::fstat(file_.get(), &about) == 0 ? static_cast<uint64_t>(about.st_size) : 0;
}

Task<void> ConsoleLog::Run(std::shared_ptr<ConsoleLog> self) {
  while (!self->over_) {
    boost::system::error_code error;
    co_await self->socket_.async_wait(asio::posix::stream_descriptor::wait_read,
                                      asio::redirect_error(asio::use_awaitable, error));
    if (error) co_return;
    self->Drain();
  }
}

void ConsoleLog::Drain() {
  std::array<char, 16 * 1024> buffer;
  while (!over_ && socket_.is_open()) {
    const ssize_t size =
        ::recv(socket_.native_handle(), buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (size < 0 && errno == EINTR) continue;
    if (size < 0 && errno == EAGAIN) return;
    if (size <= 0) {
      over_ = true;
      return;
    }
    Write(std::string_view(buffer.data(), static_cast<size_t>(size)));
  }
}

// What cannot be written is dropped; a console is not worth holding a guest up.
void ConsoleLog::Write(std::string_view text) {
  while (!text.empty()) {
    if (size_ >= max_file_bytes_) {
      ::renameat(folder_.get(), kName, folder_.get(), kFormerName);
      OpenFile();
      if (size_ >= max_file_bytes_) return;
    }
    const std::string_view part = text.substr(0, max_file_bytes_ - size_);
    const ssize_t written = ::write(file_.get(), part.data(), part.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;
    size_ += static_cast<uint64_t>(written);
    text.remove_prefix(static_cast<size_t>(written));
  }
}

void ConsoleLog::Close() {
  over_ = true;
  boost::system::error_code ignored;
  socket_.close(ignored);
}

std::string ConsoleTail(const std::string& folder, size_t max_bytes) {
  std::string tail = FileTail(absl::StrCat(folder, "/", ConsoleLog::kName), max_bytes);
  if (tail.size() >= max_bytes / 2) return tail;
  // It has just begun; the former file holds what came before.
  const std::string former =
      FileTail(absl::StrCat(folder, "/", ConsoleLog::kFormerName), max_bytes - tail.size());
  if (former.empty()) return tail;
  return tail.empty() ? former : absl::StrCat(former, "\n", tail);
}

}  // namespace ferry::vm
