#include "migration/layers/layer_receiver.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <limits>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/unique_fd.h"
#include "bridge/runtime/write_all.h"
#include "vmmanager/layers/disk_space.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::migration {
namespace {

constexpr char kName[] = "layer";
constexpr milliseconds kForEver{std::chrono::hours(24 * 365)};

absl::Status NoRoom(absl::string_view message) {
  return rpc::ErrorWithReason(absl::StatusCode::kResourceExhausted, message, "disk_full",
                              "make room on the disk of ferryd's state folder there");
}

// Whatever the sizes are, which the source has said.
uint64_t Sum(const std::map<std::string, uint64_t>& sizes) {
  constexpr uint64_t kMost = std::numeric_limits<uint64_t>::max();
  uint64_t sum = 0;
  for (const auto& [digest, size] : sizes) sum = size <= kMost - sum ? sum + size : kMost;
  return sum;
}

absl::Status CheckFree(int fd, uint64_t size, uint64_t reserve) {
  ASSIGN_OR_RETURN(const uint64_t free, layers::FreeBytes(fd));
  if (free >= reserve && free - reserve >= size) return absl::OkStatus();
  return NoRoom(absl::StrCat("the layers take ", size, " bytes, and the disk has ", free,
                             " left, of which ", reserve, " are kept for others"));
}

absl::Status CannotTake(const boost::system::error_code& ec) {
  return absl::UnavailableError(absl::StrCat("cannot take layers: ", ec.message()));
}

absl::Status Silent(milliseconds limit) {
  return rpc::ErrorWithReason(
      absl::StatusCode::kAborted,
      absl::StrCat("the source sent nothing of its layers for ", limit.count(), " ms"),
      "transfer_stalled");
}

}  // namespace

// The file as it grows. Blocks; shared with the thread that writes it.
struct LayerReceiver::File {
  // For want of room for all that is to come nothing of it is taken.
  absl::Status Open(const std::string& path, uint64_t all, uint64_t reserve) {
    fd.Reset(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!fd.valid()) return absl::ErrnoToStatus(errno, "cannot keep a layer");
    return CheckFree(fd.get(), all, reserve);
  }

  absl::Status Write(const std::string& piece) {
    if (WriteAll(fd.get(), piece)) return absl::OkStatus();
    const absl::Status error = layers::WriteError(errno, "cannot keep a layer");
    return absl::IsUnavailable(error) ? NoRoom(error.message()) : error;
  }

  UniqueFd fd;
};

Task<absl::Status> LayerReceiver::CheckRoom(std::map<std::string, uint64_t> wanted) {
  auto made = co_await store_.MakeTempFolder(std::nullopt);
  if (!made.ok()) co_return made.status();
  const std::shared_ptr<vm::TempFolder> folder = *std::move(made);
  std::function<absl::Status()> look = [folder, all = Sum(wanted), reserve = options_.reserve] {
    return CheckFree(folder->out_fd(), all, reserve);
  };
  absl::Status room = co_await folder->worker().Run(kLayerDiskTime, "the disk", std::move(look));
  co_await folder->Remove();
  co_return room;
}

Task<absl::Status> LayerReceiver::Receive(std::shared_ptr<SessionConnection> connection,
                                          std::map<std::string, uint64_t> wanted,
                                          OnProgress progress) {
  wanted_ = std::move(wanted);
  received_ = 0;
  total_ = Sum(wanted_);
  progress_ = std::move(progress);
  // The path is there for the next attempt, however this one ends.
  const absl::Cleanup remove = [this] { ::unlink(options_.socket_path.c_str()); };
  co_return co_await TakeAll(std::move(connection));
}

absl::Status LayerReceiver::ListenOn(Acceptor* acceptor) const {
  ::unlink(options_.socket_path.c_str());
  boost::system::error_code ec;
  const asio::local::stream_protocol::endpoint endpoint(options_.socket_path);
  acceptor->open(endpoint.protocol(), ec);
  if (!ec) acceptor->bind(endpoint, ec);
  if (!ec) acceptor->listen(asio::socket_base::max_listen_connections, ec);
  return ec ? CannotTake(ec) : absl::OkStatus();
}

Task<absl::Status> LayerReceiver::TakeAll(std::shared_ptr<SessionConnection> connection) {
  Acceptor acceptor(executor_);
  CO_RETURN_IF_ERROR(ListenOn(&acceptor));
  CO_RETURN_IF_ERROR(connection->RelayToPath(options_.socket_path));
  while (!wanted_.empty()) {
    CO_ASSIGN_OR_RETURN(LayerChannel channel, co_await NextChannel(&acceptor, connection));
    absl::Status taken = co_await TakeOne(&channel);
    std::string answer(kLayerTaken);
    if (!taken.ok()) answer = std::string(taken.message());
    answer.resize(std::min(answer.size(), kMaxLayerAnswer));
    (void)co_await channel.Write(std::move(answer));
    channel.EndWriting();
    if (!taken.ok()) co_return taken;
  }
  co_return absl::OkStatus();
}

Task<absl::StatusOr<LayerChannel>> LayerReceiver::NextChannel(
    Acceptor* acceptor, std::shared_ptr<SessionConnection> connection) {
  using asio::experimental::awaitable_operators::operator||;
  boost::system::error_code ec;
  LayerChannel::Socket socket(executor_);
  const milliseconds patience = options_.silence.count() > 0 ? options_.silence : kForEver;
  auto first =
      co_await (acceptor->async_accept(socket, asio::redirect_error(asio::use_awaitable, ec)) ||
                connection->WaitClosed() || Delay(patience));
  if (first.index() == 1) {
    const absl::Status why = std::get<1>(first);
    co_return absl::UnavailableError(
        absl::StrCat("the source went away with layers left to send",
                     why.ok() ? std::string() : absl::StrCat(": ", why.message())));
  }
  if (first.index() == 2) co_return Silent(patience);
  if (ec) co_return CannotTake(ec);
  co_return LayerChannel(std::move(socket));
}

Task<absl::StatusOr<std::string>> LayerReceiver::Heard(
    Task<absl::StatusOr<std::string>> read) const {
  if (options_.silence.count() == 0) co_return co_await std::move(read);
  auto bytes = co_await WithDeadline(options_.silence, "the source", std::move(read));
  if (absl::IsDeadlineExceeded(bytes.status())) co_return Silent(options_.silence);
  co_return bytes;
}

absl::Status LayerReceiver::CheckWanted(const LayerHeader& header) const {
  const auto found = wanted_.find(header.digest);
  if (found == wanted_.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat("layer ", header.digest, " came, which was not asked for"));
  }
  if (found->second != header.size) {
    return absl::InvalidArgumentError(absl::StrCat("layer ", header.digest, " is to have ",
                                                   found->second, " bytes, and came with ",
                                                   header.size));
  }
  return absl::OkStatus();
}

Task<absl::Status> LayerReceiver::TakeOne(LayerChannel* channel) {
  auto bytes = co_await Heard(channel->ReadExactly(kLayerHeaderSize));
  if (!bytes.ok()) co_return bytes.status();
  CO_ASSIGN_OR_RETURN(LayerHeader header, DecodeLayerHeader(*bytes));
  CO_RETURN_IF_ERROR(CheckWanted(header));
  const std::string digest = header.digest;
  CO_RETURN_IF_ERROR(co_await Store(channel, std::move(header)));
  wanted_.erase(digest);
  co_return absl::OkStatus();
}

Task<absl::Status> LayerReceiver::Store(LayerChannel* channel, LayerHeader header) {
  auto made = co_await store_.MakeTempFolder(std::nullopt);
  if (!made.ok()) co_return made.status();
  const std::shared_ptr<vm::TempFolder> folder = *std::move(made);
  absl::Status stored = co_await StoreIn(folder, channel, std::move(header));
  co_await folder->Remove();
  co_return stored;
}

Task<absl::Status> LayerReceiver::StoreIn(std::shared_ptr<vm::TempFolder> folder,
                                          LayerChannel* channel, LayerHeader header) {
  auto file = std::make_shared<File>();
  std::function<absl::Status()> open = [file, path = absl::StrCat(folder->path(), "/", kName),
                                        all = Sum(wanted_), reserve = options_.reserve] {
    return file->Open(path, all, reserve);
  };
  CO_RETURN_IF_ERROR(co_await folder->worker().Run(kLayerDiskTime, "the disk", std::move(open)));
  uint64_t left = header.size;
  while (left > 0) {
    auto piece = co_await Heard(channel->ReadSome(std::min<uint64_t>(left, kLayerPiece)));
    if (!piece.ok()) co_return piece.status();
    if (piece->empty()) co_return absl::DataLossError("the layer was cut off");
    const uint64_t size = piece->size();
    std::function<absl::Status()> write = [file, bytes = *std::move(piece)] {
      return file->Write(bytes);
    };
    CO_RETURN_IF_ERROR(co_await folder->worker().Run(kLayerDiskTime, "the disk", std::move(write)));
    left -= size;
    received_ += size;
    if (progress_) progress_(received_, total_);
  }
  auto rest = co_await Heard(channel->ReadToEnd(0));
  if (!rest.ok()) co_return rest.status();
  // Whoever has the file open could still write to it.
  std::function<absl::Status()> close = [file] {
    file->fd.Reset();
    return absl::OkStatus();
  };
  CO_RETURN_IF_ERROR(co_await folder->worker().Run(kLayerDiskTime, "the disk", std::move(close)));
  std::string owner = options_.owner;
  std::string name = kName;
  co_return co_await store_.Adopt(std::move(owner), header.digest, std::move(name), folder);
}

}  // namespace ferry::migration
