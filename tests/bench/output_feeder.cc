#include "tests/bench/output_feeder.h"

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "bridge/guest/redial.h"
#include "bridge/guest/resumable_link.h"
#include "bridge/protocol/frame.h"
#include "bridge/protocol/messages.h"
#include "bridge/runtime/async.h"

namespace ferry::bridge {
namespace {

// As the agent's.
constexpr size_t kPieceSize = 64 * 1024;

std::string_view Text() {
  static const std::string text = [] {
    std::string lines;
    while (lines.size() < kPieceSize) lines += "a line of text as programs print it, number 0123\n";
    return lines.substr(0, kPieceSize);
  }();
  return text;
}

// An output of which everything is there from the beginning.
class FedOutput final : public ResumableEnd {
 public:
  FedOutput(Executor executor, GuestTransport& transport, uint32_t port, uint64_t total)
      : total_(total), link_(std::move(executor), transport, port, *this) {}

  static Task<void> Run(std::shared_ptr<FedOutput> self) { co_await self->link_.Run(self); }

  StreamHello MakeHello() const override {
    return {.generation = 0, .offset = acknowledged_, .end = total_, .ended = true};
  }
  absl::Status OnFrame(const StreamFrame& frame) override {
    if (frame.type == StreamFrameType::kHello) {
      connected_ = true;
      end_said_ = false;
      next_ = frame.offset;
    } else if (frame.type == StreamFrameType::kAck) {
      acknowledged_ = frame.offset;
      over_ = (frame.flags & kFlagEofTaken) != 0;
    }
    return absl::OkStatus();
  }
  std::optional<std::string> NextBytes() override {
    if (!connected_ || end_said_) return std::nullopt;
    if (next_ == total_) {
      end_said_ = true;
      return EncodeEof(total_);
    }
    const uint64_t room = kStreamWindow - (next_ - acknowledged_);
    const uint64_t size = std::min<uint64_t>({room, total_ - next_, kPieceSize});
    if (size == 0) return std::nullopt;
    std::string bytes = EncodeDataHeader(next_, size);
    bytes.append(Text().substr(0, size));
    next_ += size;
    return bytes;
  }
  bool said_all() const override { return false; }
  void OnDisconnect() override { connected_ = false; }
  void OnPeerClosed() override {}
  bool over() const override { return over_; }

 private:
  const uint64_t total_;
  uint64_t next_ = 0;
  uint64_t acknowledged_ = 0;
  bool connected_ = false;
  bool end_said_ = false;
  bool over_ = false;
  ResumableLink link_;
};

}  // namespace

class OutputFeeder::Bridge {
 public:
  Bridge(Executor executor, GuestTransport& transport)
      : executor_(executor), transport_(transport) {}

  static Task<void> Serve(std::shared_ptr<Bridge> self) {
    Redial redial(self->transport_);
    for (;; co_await redial.Wait()) {
      absl::StatusOr<std::unique_ptr<Connection>> dialled =
          co_await self->transport_.Dial(kBridgePort);
      if (!dialled.ok()) continue;
      const std::unique_ptr<Connection> connection = *std::move(dialled);
      FrameDecoder decoder;
      std::vector<char> buffer(kPieceSize);
      for (;;) {
        const absl::StatusOr<size_t> read = co_await connection->Read(buffer);
        if (!read.ok() || *read == 0) break;
        decoder.Append(std::string_view(buffer.data(), *read));
        while (auto frame = *decoder.Next()) {
          const std::string answer = self->Answer(*frame);
          const absl::Status said = co_await connection->Write(answer);
          if (!said.ok()) break;
        }
      }
    }
  }

 private:
  std::string Answer(const Frame& frame) {
    return *EncodeFrame(ResponseType(frame.type), frame.id, AnswerTo(frame));
  }

  std::string AnswerTo(const Frame& frame) {
    if (frame.type == kNegotiateProtocol) {
      NegotiateResponse response;
      response.version = kProtocolVersion;
      response.capabilities.runtime_os_type = "Linux";
      response.capabilities.guest_defined.resumable_stdio_supported = true;
      response.capabilities.guest_defined.acknowledge_exit_supported = true;
      return Encode(response);
    }
    if (frame.type == kExecuteProcess) return Execute(frame);
    if (frame.type == kWaitForProcess) return Encode(WaitForProcessResponse{});
    if (frame.type == kListProcesses) return Encode(ListProcessesResponse{});
    return Encode(SimpleResponse{});
  }

  std::string Execute(const Frame& frame) {
    const auto request = Decode<ExecuteProcessRequest>(frame.payload);
    uint64_t total = 0;
    (void)absl::SimpleAtoi(request->parameters.command_args.back(), &total);
    Feed(request->stdio.std_out, total);
    Feed(request->stdio.std_err, 0);
    ExecuteProcessResponse response;
    response.process_id = next_pid_++;
    return Encode(response);
  }

  void Feed(uint32_t port, uint64_t total) {
    if (port == 0) return;
    Spawn(executor_,
          FedOutput::Run(std::make_shared<FedOutput>(executor_, transport_, port, total)));
  }

  Executor executor_;
  GuestTransport& transport_;
  uint32_t next_pid_ = 1;
};

OutputFeeder::OutputFeeder(Executor executor, GuestTransport& transport)
    : bridge_(std::make_shared<Bridge>(executor, transport)) {
  Spawn(executor, Bridge::Serve(bridge_));
}

OutputFeeder::~OutputFeeder() = default;

}  // namespace ferry::bridge
