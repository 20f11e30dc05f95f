#include <boost/asio/buffer.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <vector>

#include "bridge/guest/stdio_stream.h"

namespace ferry::bridge {
namespace {

class DiscardStream : public StdioStream, public std::enable_shared_from_this<DiscardStream> {
 public:
  DiscardStream(Executor executor, UniqueFd source)
      : source_(executor, source.Release()), scope_(executor) {}

  void Start() { scope_.Spawn(ReadAll(shared_from_this())); }

  void ProcessExited() override {}

  void Abort() override {
    End();
    scope_.Cancel();
  }

  bool over() const override { return over_; }

 private:
  Task<void> ReadAll([[maybe_unused]] std::shared_ptr<DiscardStream> self) {
    std::vector<char> buffer(16 * 1024);
    boost::system::error_code error;
    while (!error) {
      co_await source_.async_read_some(asio::buffer(buffer),
                                       asio::redirect_error(asio::use_awaitable, error));
    }
    End();
  }

  void End() {
    over_ = true;
    boost::system::error_code ignored;
    source_.close(ignored);
  }

  asio::posix::stream_descriptor source_;
  bool over_ = false;
  TaskScope scope_;
};

}  // namespace

std::shared_ptr<StdioStream> StartDiscard(Executor executor, UniqueFd source) {
  auto stream = std::make_shared<DiscardStream>(executor, std::move(source));
  stream->Start();
  return stream;
}

}  // namespace ferry::bridge
