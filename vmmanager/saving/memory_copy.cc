#include "vmmanager/saving/memory_copy.h"

#include <boost/asio/post.hpp>
#include <chrono>
#include <functional>
#include <optional>
#include <utility>

#include "bridge/runtime/status_macros.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::vm {
namespace {

constexpr milliseconds kOpenLimit{60'000};
// As long as the disks take.
constexpr milliseconds kCopyLimit{std::chrono::hours(24)};
constexpr uint64_t kToldEvery = uint64_t{16} << 20;

absl::StatusOr<std::optional<SaveKey>> KeyIn(const std::string& key_file) {
  if (key_file.empty()) return std::optional<SaveKey>();
  const absl::StatusOr<SaveKey> key = ReadSaveKey(key_file);
  if (key.ok()) return std::optional<SaveKey>(*key);
  return rpc::ErrorWithReason(key.status().code(), key.status().message(), kKeyUnusable,
                              "Put the key that it was saved with in that file's place.");
}

}  // namespace

struct MemoryCopy::Listener {
  OnMemory on_memory;
};

MemoryCopy::MemoryCopy(Executor executor)
    : executor_(executor),
      worker_(executor),
      shared_(std::make_shared<Shared>()),
      listener_(std::make_shared<Listener>()) {}

// Whoever does not wait for it any more does not want it either.
MemoryCopy::~MemoryCopy() { CallOff(); }

void MemoryCopy::set_on_memory(OnMemory on_memory) { listener_->on_memory = std::move(on_memory); }

Task<absl::Status> MemoryCopy::Open(std::string path, std::string key_file) {
  auto self = shared_from_this();
  std::function<absl::Status()> open = [shared = shared_, path, key_file]() -> absl::Status {
    ASSIGN_OR_RETURN(const std::optional<SaveKey> key, KeyIn(key_file));
    ASSIGN_OR_RETURN(shared->reader, SavedFileReader::Open(path, key));
    shared->key_file = key_file;
    return absl::OkStatus();
  };
  CO_RETURN_IF_ERROR(co_await worker_.Run(kOpenLimit, "reading the file", std::move(open)));
  head_ = shared_->reader->head();
  tail_ = shared_->reader->tail();
  info_ = shared_->reader->info();
  co_return absl::OkStatus();
}

absl::Status MemoryCopy::ReadAll(Shared* shared, const std::function<void(uint64_t)>& tell,
                                 const Take& take) {
  uint64_t bytes = 0;
  uint64_t told = 0;
  while (!shared->called_off) {
    ASSIGN_OR_RETURN(const std::string_view piece, shared->reader->ReadMemory());
    if (piece.empty()) return absl::OkStatus();
    RETURN_IF_ERROR(take(piece));
    bytes += piece.size();
    if (bytes - told < kToldEvery) continue;
    told = bytes;
    tell(bytes);
  }
  return absl::CancelledError("it was called off");
}

std::function<void(uint64_t)> MemoryCopy::Teller() const {
  // Neither keeps the other, and what is told late is told to nobody.
  return [executor = executor_, weak = std::weak_ptr(listener_)](uint64_t bytes) {
    asio::post(executor, [weak, bytes] {
      const auto listener = weak.lock();
      if (listener && listener->on_memory) listener->on_memory(bytes);
    });
  };
}

Task<absl::StatusOr<SavedFileInfo>> MemoryCopy::Write(std::string to, std::string head,
                                                      std::string tail) {
  auto self = shared_from_this();
  auto info = std::make_shared<SavedFileInfo>();
  std::function<absl::Status()> write = [shared = shared_, tell = Teller(), info, to, head,
                                         tail]() -> absl::Status {
    SavedFileOptions options;
    options.compression = shared->reader->info().compression;
    ASSIGN_OR_RETURN(options.key, KeyIn(shared->key_file));
    ASSIGN_OR_RETURN(const std::unique_ptr<SavedFileWriter> writer,
                     SavedFileWriter::Create(to, options));
    RETURN_IF_ERROR(writer->WriteHead(head));
    const Take take = [&writer](std::string_view piece) { return writer->WriteMemory(piece); };
    RETURN_IF_ERROR(ReadAll(shared.get(), tell, take));
    ASSIGN_OR_RETURN(*info, writer->Commit(tail));
    return absl::OkStatus();
  };
  CO_RETURN_IF_ERROR(co_await worker_.Run(kCopyLimit, "copying the memory", std::move(write)));
  co_return *info;
}

absl::Status AsDamagedMemory(const absl::Status& read, const std::string& next_step) {
  if (!absl::IsDataLoss(read)) return read;
  return rpc::ErrorWithReason(absl::StatusCode::kFailedPrecondition, read.message(),
                              "memory_damaged", next_step);
}

Task<absl::Status> MemoryCopy::Verify() {
  auto self = shared_from_this();
  std::function<absl::Status()> read = [shared = shared_, tell = Teller()] {
    const Take take = [](std::string_view) { return absl::OkStatus(); };
    return ReadAll(shared.get(), tell, take);
  };
  co_return co_await worker_.Run(kCopyLimit, "reading the memory", std::move(read));
}

}  // namespace ferry::vm
