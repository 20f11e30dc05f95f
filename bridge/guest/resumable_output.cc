#include <boost/asio/posix/stream_descriptor.hpp>
#include <vector>

#include "bridge/guest/resumable_link.h"
#include "bridge/guest/stdio_stream.h"

namespace ferry::bridge {
namespace {

constexpr size_t kReadSize = 64 * 1024;

// A process's stdout or stderr. It is read only while the sender has space, so the process blocks
// when the host does not take its output, and memory stays bounded.
class ResumableOutput : public StdioStream,
                        public ResumableEnd,
                        public std::enable_shared_from_this<ResumableOutput> {
 public:
  ResumableOutput(Executor executor, GuestTransport& transport, uint32_t port, UniqueFd source)
      : sender_(0),
        source_(executor, source.Release()),
        space_(executor),
        link_(executor, transport, port, *this),
        scope_(executor) {}

  void Start() {
    auto self = shared_from_this();
    scope_.Spawn(Pump(self));
    scope_.Spawn(link_.Run(self));
  }

  void ProcessExited() override {}

  void Abort() override {
    aborted_ = true;
    boost::system::error_code ignored;
    source_.close(ignored);
    scope_.Cancel();
  }

  bool over() const override { return aborted_ || sender_.fully_taken(); }

  StreamHello MakeHello() const override { return sender_.MakeHello(); }

  absl::Status OnFrame(const StreamFrame& frame) override {
    switch (frame.type) {
      case StreamFrameType::kHello:
        return sender_.OnPeerHello(frame.hello);
      case StreamFrameType::kAck: {
        const absl::Status status = sender_.OnAck(frame.offset, (frame.flags & kFlagEofTaken) != 0);
        if (sender_.WritableSpace() > 0) space_.Set();
        return status;
      }
      default:
        return absl::InvalidArgumentError("the host sent data on an output stream");
    }
  }

  std::optional<std::string> NextBytes() override {
    std::optional<OutgoingFrame> frame = sender_.NextFrame();
    if (!frame.has_value()) return std::nullopt;
    return frame->header.append(frame->payload);
  }

  bool said_all() const override { return false; }
  void OnDisconnect() override { sender_.OnDisconnect(); }
  void OnPeerClosed() override {}

 private:
  Task<void> Pump([[maybe_unused]] std::shared_ptr<ResumableOutput> self) {
    std::vector<char> buffer(kReadSize);
    while (true) {
      while (sender_.WritableSpace() == 0) {
        space_.Reset();
        co_await space_.Wait();
      }
      const size_t size = std::min(sender_.WritableSpace(), buffer.size());
      boost::system::error_code error;
      const size_t got = co_await source_.async_read_some(
          asio::buffer(buffer.data(), size), asio::redirect_error(asio::use_awaitable, error));
      // A terminal that nobody holds any more reports EIO.
      if (error || got == 0) break;
      if (!sender_.Append(std::string_view(buffer.data(), got)).ok()) break;
      link_.Wake();
    }
    boost::system::error_code ignored;
    source_.close(ignored);
    sender_.Finish();
    link_.Wake();
  }

  StreamSender sender_;
  asio::posix::stream_descriptor source_;
  AsyncEvent space_;
  ResumableLink link_;
  bool aborted_ = false;
  TaskScope scope_;
};

}  // namespace

std::shared_ptr<StdioStream> StartResumableOutput(Executor executor, GuestTransport& transport,
                                                  uint32_t port, UniqueFd source) {
  auto stream = std::make_shared<ResumableOutput>(executor, transport, port, std::move(source));
  stream->Start();
  return stream;
}

}  // namespace ferry::bridge
