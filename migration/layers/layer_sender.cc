#include "migration/layers/layer_sender.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/unique_fd.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::migration {
namespace {

constexpr char kStalled[] = "transfer_stalled";
// How often is looked within the limit whether bytes move.
constexpr int kLooks = 10;
constexpr uint64_t kSlowDiskBytesPerMs = 4096;

absl::Status Stalled(absl::string_view what, milliseconds limit) {
  return rpc::ErrorWithReason(absl::StatusCode::kAborted,
                              absl::StrCat(what, " for ", limit.count(), " ms"), kStalled,
                              "look whether the daemon and its disk are well at the destination");
}

}  // namespace

// The file as it is read. Blocks; shared with the thread that reads it.
struct LayerSender::File {
  absl::Status Open(const LayerFile& layer) {
    fd.Reset(::open(layer.path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    struct stat found;
    if (!fd.valid() || ::fstat(fd.get(), &found) != 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("cannot read the layer ", layer.path));
    }
    if (static_cast<uint64_t>(found.st_size) != layer.header.size) {
      return absl::DataLossError(absl::StrCat("the layer ", layer.path, " has ", found.st_size,
                                              " bytes, and should have ", layer.header.size));
    }
    return absl::OkStatus();
  }

  absl::Status Read() {
    piece.resize(kLayerPiece);
    ssize_t size;
    do {
      size = ::read(fd.get(), piece.data(), piece.size());
    } while (size < 0 && errno == EINTR);
    if (size < 0) return absl::ErrnoToStatus(errno, "cannot read a layer");
    piece.resize(static_cast<size_t>(size));
    return absl::OkStatus();
  }

  UniqueFd fd;
  std::string piece;
};

Task<absl::Status> LayerSender::Send(std::vector<LayerFile> layers, std::string socket_path,
                                     OnProgress progress) {
  progress_ = std::move(progress);
  sent_ = 0;
  total_ = 0;
  for (const LayerFile& layer : layers) total_ += layer.header.size;
  CO_RETURN_IF_ERROR(connection_->RelayFromListener(socket_path));
  for (LayerFile& layer : layers) {
    const std::string digest = layer.header.digest;
    absl::Status sent = co_await SendOne(std::move(layer), socket_path);
    if (sent.ok()) continue;
    co_return rpc::Reworded(sent, sent.code(),
                            absl::StrCat("layer ", digest, ": ", sent.message()));
  }
  co_return absl::OkStatus();
}

Task<absl::Status> LayerSender::SendOne(LayerFile layer, std::string socket_path) {
  auto file = std::make_shared<File>();
  std::function<absl::Status()> open = [file, layer] { return file->Open(layer); };
  CO_RETURN_IF_ERROR(co_await disk_.Run(kLayerDiskTime, "the disk", std::move(open)));
  LayerChannel channel(executor_);
  CO_RETURN_IF_ERROR(co_await channel.Connect(socket_path));
  std::string header = EncodeLayerHeader(layer.header);
  absl::Status status = co_await channel.Write(std::move(header));
  uint64_t left = layer.header.size;
  while (status.ok() && left > 0) {
    std::function<absl::Status()> read = [file] { return file->Read(); };
    CO_RETURN_IF_ERROR(co_await disk_.Run(kLayerDiskTime, "the disk", std::move(read)));
    if (file->piece.empty() || file->piece.size() > left) {
      co_return absl::DataLossError("its file changed while it was read");
    }
    const uint64_t size = file->piece.size();
    std::string piece = std::exchange(file->piece, {});
    status = co_await WritePiece(&channel, std::move(piece));
    left -= size;
    sent_ += size;
    if (progress_) progress_(sent_, total_);
  }
  channel.EndWriting();
  // A receiver that gave up has said why, which tells more than that it does not read.
  if (rpc::ReasonOf(status) == kStalled) co_return status;
  auto answer = co_await ReadAnswer(&channel, layer.header.size);
  if (answer.ok() && *answer == kLayerTaken) co_return absl::OkStatus();
  if (answer.ok() && !answer->empty()) co_return absl::AbortedError(*answer);
  if (!status.ok()) co_return status;
  if (!answer.ok()) co_return answer.status();
  co_return absl::UnavailableError("the session connection broke before it had arrived");
}

Task<absl::Status> LayerSender::WritePiece(LayerChannel* channel, std::string piece) {
  if (stall_.count() == 0) co_return co_await channel->Write(std::move(piece));
  using asio::experimental::awaitable_operators::operator||;
  auto first = co_await (channel->Write(std::move(piece)) || AwaitStall(stall_));
  if (first.index() == 0) co_return std::get<0>(first);
  co_return Stalled("no byte of it moved", stall_);
}

// Once the last byte has gone out, the destination reads all of it again.
Task<absl::StatusOr<std::string>> LayerSender::ReadAnswer(LayerChannel* channel, uint64_t size) {
  if (stall_.count() == 0) co_return co_await channel->ReadToEnd(kMaxLayerAnswer);
  using asio::experimental::awaitable_operators::operator||;
  const milliseconds limit = stall_ + milliseconds(size / kSlowDiskBytesPerMs);
  auto first = co_await (channel->ReadToEnd(kMaxLayerAnswer) || AwaitStall(limit));
  if (first.index() == 0) co_return std::get<0>(std::move(first));
  co_return Stalled("the destination did not say whether it took it", limit);
}

Task<void> LayerSender::AwaitStall(milliseconds limit) const {
  const milliseconds pause = std::max(limit / kLooks, milliseconds(1));
  uint64_t moved = connection_->statistics().bulk_bytes_sent;
  milliseconds still{0};
  while (still < limit) {
    co_await Delay(pause);
    still += pause;
    const uint64_t now = connection_->statistics().bulk_bytes_sent;
    if (std::exchange(moved, now) != now) still = milliseconds(0);
  }
}

}  // namespace ferry::migration
