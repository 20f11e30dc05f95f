#include <boost/asio/buffer.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/write.hpp>
#include <vector>

#include "bridge/guest/stdio_stream.h"

namespace ferry::bridge {
namespace {

constexpr size_t kCopySize = 64 * 1024;

// Raw bytes as hcsshim's agents send them: one connection for the stream's whole life.
class PlainStream : public StdioStream, public std::enable_shared_from_this<PlainStream> {
 public:
  PlainStream(Executor executor, std::shared_ptr<Connection> connection, UniqueFd fd)
      : connection_(std::move(connection)), fd_(executor, fd.Release()), scope_(executor) {}

  void StartOutput() { scope_.Spawn(CopyOut(shared_from_this())); }
  void StartInput() {
    input_ = true;
    scope_.Spawn(CopyIn(shared_from_this()));
  }

  void ProcessExited() override {
    if (input_) Abort();
  }

  void Abort() override {
    End();
    scope_.Cancel();
  }

  bool over() const override { return over_; }

 private:
  Task<void> CopyOut([[maybe_unused]] std::shared_ptr<PlainStream> self) {
    std::vector<char> buffer(kCopySize);
    while (true) {
      boost::system::error_code error;
      const size_t got = co_await fd_.async_read_some(
          asio::buffer(buffer), asio::redirect_error(asio::use_awaitable, error));
      if (error || got == 0) break;
      const absl::Status sent = co_await connection_->Write(std::string_view(buffer.data(), got));
      if (!sent.ok()) co_return End();
    }
    // The host answers the half-close with its own once it has read everything.
    if ((co_await connection_->CloseWrite()).ok()) {
      const absl::StatusOr<size_t> ignored = co_await connection_->Read(buffer);
    }
    End();
  }

  Task<void> CopyIn([[maybe_unused]] std::shared_ptr<PlainStream> self) {
    std::vector<char> buffer(kCopySize);
    while (true) {
      const absl::StatusOr<size_t> got = co_await connection_->Read(buffer);
      if (!got.ok() || *got == 0) break;
      boost::system::error_code error;
      co_await asio::async_write(fd_, asio::buffer(buffer.data(), *got),
                                 asio::redirect_error(asio::use_awaitable, error));
      if (error) break;
    }
    End();
  }

  void End() {
    over_ = true;
    boost::system::error_code ignored;
    fd_.close(ignored);
    connection_->Close();
  }

  std::shared_ptr<Connection> connection_;
  asio::posix::stream_descriptor fd_;
  bool input_ = false;
  bool over_ = false;
  TaskScope scope_;
};

}  // namespace

std::shared_ptr<StdioStream> StartPlainOutput(Executor executor,
                                              std::shared_ptr<Connection> connection,
                                              UniqueFd source) {
  auto stream = std::make_shared<PlainStream>(executor, std::move(connection), std::move(source));
  stream->StartOutput();
  return stream;
}

std::shared_ptr<StdioStream> StartPlainInput(Executor executor,
                                             std::shared_ptr<Connection> connection,
                                             UniqueFd sink) {
  auto stream = std::make_shared<PlainStream>(executor, std::move(connection), std::move(sink));
  stream->StartInput();
  return stream;
}

}  // namespace ferry::bridge
