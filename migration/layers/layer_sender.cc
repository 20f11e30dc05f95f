#include "migration/layers/layer_sender.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/write.hpp>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/unique_fd.h"
#include "migration/layers/layer_channel.h"

namespace ferry::migration {
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
    co_return absl::Status(sent.code(), absl::StrCat("layer ", digest, ": ", sent.message()));
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
    status = co_await channel.Write(std::move(piece));
    left -= size;
    sent_ += size;
    if (progress_) progress_(sent_, total_);
  }
  channel.EndWriting();
  // A receiver that gave up has said why, which tells more than that it does not read.
  auto answer = co_await channel.ReadToEnd(kMaxLayerAnswer);
  if (answer.ok() && *answer == kLayerTaken) co_return absl::OkStatus();
  if (answer.ok() && !answer->empty()) co_return absl::AbortedError(*answer);
  if (!status.ok()) co_return status;
  if (!answer.ok()) co_return answer.status();
  co_return absl::UnavailableError("the session connection broke before it had arrived");
}

}  // namespace ferry::migration
