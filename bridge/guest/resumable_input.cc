#include <termios.h>

#include <boost/asio/buffer.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/write.hpp>
#include <deque>

#include "bridge/guest/resumable_link.h"
#include "bridge/guest/stdio_stream.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/stream/stream_receiver.h"

namespace ferry::bridge {
namespace {

// A process's stdin. Bytes count as taken when they are in its pipe. When the process takes no more
// (it closed its end, or exited) the host hears so: a last acknowledgement, then an orderly close.
class ResumableInput : public StdioStream,
                       public ResumableEnd,
                       public std::enable_shared_from_this<ResumableInput> {
 public:
  ResumableInput(Executor executor, GuestTransport& transport, uint32_t port, UniqueFd sink,
                 bool terminal)
      : terminal_(terminal),
        receiver_(0),
        sink_(executor, sink.Release()),
        arrived_(executor),
        link_(executor, transport, port, *this),
        scope_(executor) {}

  void Start() {
    auto self = shared_from_this();
    scope_.Spawn(Drain(self));
    if (!terminal_) scope_.Spawn(WatchReader(self));
    scope_.Spawn(link_.Run(self));
  }

  void ProcessExited() override { CloseSink(); }

  void Abort() override {
    over_ = true;
    CloseSink();
    scope_.Cancel();
  }

  bool over() const override { return over_; }

  StreamHello MakeHello() const override { return receiver_.MakeHello(); }

  absl::Status OnFrame(const StreamFrame& frame) override {
    switch (frame.type) {
      case StreamFrameType::kHello:
        return receiver_.OnPeerHello(frame.hello);
      case StreamFrameType::kData: {
        // After the end of the process nobody takes it, and its window must not fill up.
        if (closed_) return absl::OkStatus();
        ASSIGN_OR_RETURN(const std::string_view fresh,
                         receiver_.OnData(frame.offset, frame.payload));
        if (!fresh.empty()) pending_.emplace_back(fresh);
        arrived_.Set();
        return absl::OkStatus();
      }
      case StreamFrameType::kEof:
        if (closed_) return absl::OkStatus();
        RETURN_IF_ERROR(receiver_.OnEof(frame.offset));
        arrived_.Set();
        return absl::OkStatus();
      default:
        return absl::InvalidArgumentError("the host acknowledged on an input stream");
    }
  }

  std::optional<std::string> NextBytes() override {
    if (closed_) {
      if (said_last_) return std::nullopt;
      said_last_ = true;
      // Wherever the host's end lies, this is the end of what is taken.
      return EncodeAck(receiver_.taken(), true);
    }
    const std::optional<StreamReceiver::Ack> ack = receiver_.NextAck();
    if (!ack.has_value()) return std::nullopt;
    return EncodeAck(ack->offset, ack->eof_taken);
  }

  bool said_all() const override { return closed_ && said_last_; }

  void OnDisconnect() override {
    receiver_.OnDisconnect();
    said_last_ = false;
  }

  void OnPeerClosed() override { over_ = over_ || said_all(); }

 private:
  Task<void> Drain([[maybe_unused]] std::shared_ptr<ResumableInput> self) {
    while (!closed_) {
      if (!pending_.empty()) {
        const std::string chunk = std::move(pending_.front());
        pending_.pop_front();
        co_await WriteChunk(chunk);
      } else if (receiver_.ended()) {
        co_await EndInput();
      } else {
        arrived_.Reset();
        co_await arrived_.Wait();
      }
    }
  }

  Task<void> WriteChunk(const std::string& chunk) {
    size_t written = 0;
    while (written < chunk.size() && !closed_) {
      boost::system::error_code error;
      const size_t count = co_await sink_.async_write_some(
          asio::buffer(chunk.data() + written, chunk.size() - written),
          asio::redirect_error(asio::use_awaitable, error));
      if (closed_) co_return;
      if (error) co_return CloseSink();
      written += count;
      receiver_.Taken(count);
      link_.Wake();
    }
  }

  // A terminal has no end of its own: its reader sees one where the line discipline's character is,
  // on a line of its own. The first may only complete a line that was begun.
  Task<void> EndInput() {
    struct termios settings;
    if (terminal_ && tcgetattr(sink_.native_handle(), &settings) == 0 &&
        (settings.c_lflag & ICANON) != 0) {
      const std::string end(2, static_cast<char>(settings.c_cc[VEOF]));
      boost::system::error_code ignored;
      co_await asio::async_write(sink_, asio::buffer(end),
                                 asio::redirect_error(asio::use_awaitable, ignored));
    }
    receiver_.EofTaken();
    CloseSink();
  }

  // The pipe reports an error as soon as nobody can read from it, without a byte being written.
  Task<void> WatchReader([[maybe_unused]] std::shared_ptr<ResumableInput> self) {
    boost::system::error_code ignored;
    co_await sink_.async_wait(asio::posix::stream_descriptor::wait_error,
                              asio::redirect_error(asio::use_awaitable, ignored));
    CloseSink();
  }

  void CloseSink() {
    if (closed_) return;
    closed_ = true;
    pending_.clear();
    boost::system::error_code ignored;
    sink_.close(ignored);
    arrived_.Set();
    link_.Wake();
  }

  const bool terminal_;
  StreamReceiver receiver_;
  asio::posix::stream_descriptor sink_;
  std::deque<std::string> pending_;  // bounded by the receiver's window
  AsyncEvent arrived_;
  ResumableLink link_;
  bool closed_ = false;
  bool said_last_ = false;
  bool over_ = false;
  TaskScope scope_;
};

}  // namespace

std::shared_ptr<StdioStream> StartResumableInput(Executor executor, GuestTransport& transport,
                                                 uint32_t port, UniqueFd sink, bool terminal) {
  auto stream =
      std::make_shared<ResumableInput>(executor, transport, port, std::move(sink), terminal);
  stream->Start();
  return stream;
}

}  // namespace ferry::bridge
