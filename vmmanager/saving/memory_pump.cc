#include "vmmanager/saving/memory_pump.h"

#include <fcntl.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <boost/asio/post.hpp>
#include <cerrno>
#include <cstring>
#include <functional>
#include <mutex>
#include <optional>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::vm {
namespace {

// A slow disk may take its time; what hangs is left to itself.
constexpr milliseconds kNoHurry{std::chrono::hours(24)};
constexpr milliseconds kFileLimit{60'000};
constexpr size_t kPipeBytes = 1024 * 1024;  // the most that everybody may have
constexpr size_t kGoodPieceBytes = 64 * 1024;
constexpr uint64_t kToldAtLeast = uint64_t{4} << 20;

absl::StatusOr<std::optional<SaveKey>> ReadKey(const std::string& file) {
  std::optional<SaveKey> key;
  if (file.empty()) return key;
  ASSIGN_OR_RETURN(key, ReadSaveKey(file));
  return key;
}

}  // namespace

// The executor's side, which may be gone before the thread is.
struct PumpListener {
  std::mutex mutex;
  bool listens = true;

  void Leave() {
    const std::lock_guard lock(mutex);
    listens = false;
  }
};

// Ends what another thread does with a pipe or socket, also while nothing moves there.
class PumpBrake {
 public:
  // False if it is too late for that.
  bool Pull() {
    State expected = State::kFree;
    const bool pulled = state_.compare_exchange_strong(expected, State::kPulled);
    if (pulled && event_.valid()) ::eventfd_write(event_.get(), 1);
    return pulled || expected == State::kPulled;
  }
  bool is_pulled() const { return state_ == State::kPulled; }
  static absl::Status Cancelled() { return absl::CancelledError("it was cancelled"); }
  // From here on it cannot be pulled any more; CANCELLED if it is.
  absl::Status Remove() {
    State expected = State::kFree;
    if (state_.compare_exchange_strong(expected, State::kRemoved)) return absl::OkStatus();
    return expected == State::kPulled ? Cancelled() : absl::OkStatus();
  }

  // Waits until something can be read (POLLIN) or written (POLLOUT), or never will.
  absl::Status Await(int file, short events) const {
    pollfd wanted[2] = {{file, events, 0}, {event_.get(), POLLIN, 0}};
    int ready = -1;
    do {
      ready = ::poll(static_cast<pollfd*>(wanted), 2, -1);
    } while (ready < 0 && errno == EINTR);
    if (is_pulled()) return Cancelled();
    if (ready < 0) return absl::ErrnoToStatus(errno, "cannot await the memory");
    return absl::OkStatus();
  }

 private:
  enum class State { kFree, kPulled, kRemoved };

  // Without one it ends with the next piece.
  const UniqueFd event_{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  std::atomic<State> state_ = State::kFree;
};

namespace {

// Tells the executor's thread what goes by on another one.
class Meter {
 public:
  Meter(std::shared_ptr<PumpListener> listener, Executor executor, OnMemory tell)
      : listener_(std::move(listener)), executor_(std::move(executor)), tell_(std::move(tell)) {}

  void Count(uint64_t bytes) {
    bytes_ += bytes;
    if (!tell_ || bytes_ - told_ < kToldAtLeast) return;
    told_ = bytes_;
    const std::lock_guard lock(listener_->mutex);
    if (!listener_->listens) return;
    asio::post(executor_, [tell = tell_, told = told_] { tell(told); });
  }

 private:
  const std::shared_ptr<PumpListener> listener_;
  const Executor executor_;
  const OnMemory tell_;
  uint64_t bytes_ = 0;
  uint64_t told_ = 0;
};

// At least kGoodPieceBytes, unless there is less until the end.
absl::StatusOr<size_t> ReadPiece(int from, std::span<char> piece, const PumpBrake& brake) {
  size_t had = 0;
  while (had < std::min(piece.size(), kGoodPieceBytes)) {
    const ssize_t count = ::read(from, piece.data() + had, piece.size() - had);
    if (count == 0) break;
    if (count > 0) had += static_cast<size_t>(count);
    const int error = count < 0 ? errno : 0;
    if (error == EAGAIN) {
      RETURN_IF_ERROR(brake.Await(from, POLLIN));
    } else if (error != 0 && error != EINTR) {
      return absl::ErrnoToStatus(error, "cannot take the VM's memory");
    }
  }
  return had;
}

absl::Status CopyAll(int from, SavedFileWriter* to, const PumpBrake& brake, Meter* meter) {
  while (true) {
    if (brake.is_pulled()) return PumpBrake::Cancelled();
    ASSIGN_OR_RETURN(const size_t count, to->WriteMemoryFrom([&](std::span<char> piece) {
      return ReadPiece(from, piece, brake);
    }));
    if (count == 0) return absl::OkStatus();
    meter->Count(count);
  }
}

absl::StatusOr<UniqueFd> ConnectTo(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    return absl::InvalidArgumentError(absl::StrCat("the path ", path, " is too long"));
  }
  std::memcpy(static_cast<char*>(address.sun_path), path.data(), path.size());
  UniqueFd to(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const auto* raw = reinterpret_cast<const sockaddr*>(&address);
  if (!to.valid() || ::connect(to.get(), raw, sizeof address) != 0) {
    return absl::AbortedError(
        absl::StrCat("the VMM does not take the memory: ", std::strerror(errno)));
  }
  return to;
}

absl::Status SendPiece(int to, std::string_view bytes, const PumpBrake& brake) {
  while (!bytes.empty()) {
    RETURN_IF_ERROR(brake.Await(to, POLLOUT));
    const ssize_t count = ::send(to, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (count < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (count < 0) {
      return absl::AbortedError(
          absl::StrCat("the VMM did not take all of the memory: ", std::strerror(errno)));
    }
    bytes.remove_prefix(static_cast<size_t>(count));
  }
  return absl::OkStatus();
}

// The last piece is only sent once all of it is known to be right: what lacks its end is no VM.
absl::Status SendAll(const std::string& unix_path, SavedFileReader* from, PumpBrake* brake,
                     Meter* meter) {
  ASSIGN_OR_RETURN(const UniqueFd to, ConnectTo(unix_path));
  std::string held;
  while (true) {
    ASSIGN_OR_RETURN(const std::string_view piece, from->ReadMemory());
    if (piece.empty()) RETURN_IF_ERROR(brake->Remove());
    RETURN_IF_ERROR(SendPiece(to.get(), held, *brake));
    meter->Count(held.size());
    if (piece.empty()) break;
    held.assign(piece);
  }
  ::shutdown(to.get(), SHUT_WR);
  // It may have something to answer, and closes it when it has it all.
  char answer = 0;
  while (::read(to.get(), &answer, 1) > 0) continue;
  return absl::OkStatus();
}

using Work = std::function<absl::Status()>;

}  // namespace

FileBeingSaved::FileBeingSaved(Executor executor)
    : executor_(executor),
      worker_(executor),
      writer_(std::make_shared<std::unique_ptr<SavedFileWriter>>()),
      has_name_(std::make_shared<bool>(false)),
      brake_(std::make_shared<PumpBrake>()),
      listener_(std::make_shared<PumpListener>()),
      over_(executor) {}

FileBeingSaved::~FileBeingSaved() {
  listener_->Leave();
  brake_->Pull();
  // To let go of a file whose disk hangs may hang, too.
  if (open_) worker_.Post([writer = std::move(writer_)] { writer->reset(); });
}

Task<absl::Status> FileBeingSaved::Create(std::string path, SavedFileOptions options,
                                          std::string key_file) {
  auto self = shared_from_this();
  path_ = path;
  open_ = true;
  auto shared = std::make_shared<SavedFileOptions>(std::move(options));
  auto identity = std::make_shared<FileIdentity>();
  Work make = [writer = writer_, path = std::move(path), shared, key_file = std::move(key_file),
               identity]() -> absl::Status {
    ASSIGN_OR_RETURN(shared->key, ReadKey(key_file));
    ASSIGN_OR_RETURN(*writer, SavedFileWriter::Create(path, std::move(*shared)));
    ASSIGN_OR_RETURN(*identity, (*writer)->identity());
    return absl::OkStatus();
  };
  const absl::Status made = co_await worker_.Run(kFileLimit, "making the file", std::move(make));
  if (made.ok()) identity_ = *identity;
  co_return made;
}

Task<absl::StatusOr<UniqueFd>> FileBeingSaved::Begin(std::string head) {
  auto self = shared_from_this();
  Work write = [writer = writer_, head = std::move(head)] { return (*writer)->WriteHead(head); };
  CO_RETURN_IF_ERROR(co_await worker_.Run(kFileLimit, "writing the file", std::move(write)));
  int ends[2] = {-1, -1};
  if (::pipe2(ends, O_CLOEXEC) != 0) co_return absl::ErrnoToStatus(errno, "no pipe for the memory");
  UniqueFd from(ends[0]);
  UniqueFd to(ends[1]);
  // Where it cannot be so large, it is only slower.
  (void)::fcntl(to.get(), F_SETPIPE_SZ, kPipeBytes);
  // Only this end: whoever writes waits for room.
  if (::fcntl(from.get(), F_SETFL, O_NONBLOCK) != 0) {
    co_return absl::ErrnoToStatus(errno, "no pipe for the memory");
  }
  Spawn(executor_, Take(self, std::move(from)));
  co_return to;
}

Task<void> FileBeingSaved::Take(std::shared_ptr<FileBeingSaved> self, UniqueFd memory) {
  auto from = std::make_shared<UniqueFd>(std::move(memory));
  auto meter = std::make_shared<Meter>(self->listener_, self->executor_, self->on_memory_);
  Work take = [writer = self->writer_, from, brake = self->brake_, meter] {
    const absl::Status taken = CopyAll(from->get(), writer->get(), *brake, meter.get());
    // Whoever writes must not wait for us.
    from->Reset();
    return taken;
  };
  self->taken_ = co_await self->worker_.Run(kNoHurry, "writing the file", std::move(take));
  self->over_.Set();
}

absl::Status FileBeingSaved::CallOff() {
  if (over_.is_set()) return absl::FailedPreconditionError("all of it is written already");
  brake_->Pull();
  return absl::OkStatus();
}

Task<absl::Status> FileBeingSaved::Taken() {
  auto self = shared_from_this();
  co_await over_.Wait();
  co_return taken_;
}

Task<absl::StatusOr<SavedFileInfo>> FileBeingSaved::Commit(std::string tail) {
  auto self = shared_from_this();
  auto info = std::make_shared<SavedFileInfo>();
  Work commit = [writer = writer_, has_name = has_name_, info, tail = std::move(tail)] {
    auto committed = (*writer)->Commit(tail);
    *has_name = committed.ok();
    if (!committed.ok()) return committed.status();
    *info = *std::move(committed);
    writer->reset();
    return absl::OkStatus();
  };
  CO_RETURN_IF_ERROR(co_await worker_.Run(kNoHurry, "writing the file", std::move(commit)));
  open_ = false;
  co_return *info;
}

Task<absl::Status> FileBeingSaved::Discard(absl::Status cause) {
  auto self = shared_from_this();
  // The VMM may keep its end for as long as it hangs.
  const bool ends_it = !over_.is_set() && !brake_->is_pulled();
  brake_->Pull();
  // Whoever waited for it to be made whole may have been called off meanwhile.
  Work discard = [writer = writer_, has_name = has_name_, path = path_] {
    writer->reset();
    if (std::exchange(*has_name, false)) ::unlink(path.c_str());
    return absl::OkStatus();
  };
  const absl::Status removed =
      co_await worker_.Run(kFileLimit, "removing the file", std::move(discard));
  if (!removed.ok()) spdlog::warn("saved state {}: {}", path_, removed.ToString());
  if (removed.ok()) open_ = false;
  if (ends_it && absl::IsCancelled(taken_)) co_return cause;
  co_return taken_.ok() ? cause : taken_;
}

FileBeingRestored::FileBeingRestored(Executor executor)
    : executor_(executor),
      worker_(executor),
      reader_(std::make_shared<std::unique_ptr<SavedFileReader>>()),
      brake_(std::make_shared<PumpBrake>()),
      listener_(std::make_shared<PumpListener>()),
      over_(executor) {}

FileBeingRestored::~FileBeingRestored() { listener_->Leave(); }

absl::Status FileBeingRestored::CallOff() {
  if (brake_->Pull()) return absl::OkStatus();
  return absl::FailedPreconditionError("all of it is read already");
}

Task<absl::Status> FileBeingRestored::Open(std::string path, std::string key_file) {
  auto self = shared_from_this();
  Work open = [reader = reader_, path = std::move(path), key_file = std::move(key_file)] {
    auto key = ReadKey(key_file);
    if (!key.ok()) return key.status();
    auto made = SavedFileReader::Open(path, *std::move(key));
    if (made.ok()) *reader = *std::move(made);
    return made.status();
  };
  CO_RETURN_IF_ERROR(co_await worker_.Run(kFileLimit, "reading the file", std::move(open)));
  head_ = (*reader_)->head();
  tail_ = (*reader_)->tail();
  info_ = (*reader_)->info();
  co_return absl::OkStatus();
}

void FileBeingRestored::Send(std::string unix_path) {
  Spawn(executor_, Run(shared_from_this(), std::move(unix_path)));
}

Task<void> FileBeingRestored::Run(std::shared_ptr<FileBeingRestored> self, std::string unix_path) {
  auto meter = std::make_shared<Meter>(self->listener_, self->executor_, self->on_memory_);
  Work send = [reader = self->reader_, unix_path = std::move(unix_path), brake = self->brake_,
               meter] { return SendAll(unix_path, reader->get(), brake.get(), meter.get()); };
  self->sent_ = co_await self->worker_.Run(kNoHurry, "reading the file", std::move(send));
  self->over_.Set();
}

Task<absl::Status> FileBeingRestored::Sent() {
  auto self = shared_from_this();
  co_await over_.Wait();
  co_return sent_;
}

}  // namespace ferry::vm
