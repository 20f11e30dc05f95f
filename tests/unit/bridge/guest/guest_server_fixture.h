#pragma once

#include <gtest/gtest.h>
#include <signal.h>

#include <boost/asio/io_context.hpp>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bridge/guest/guest_server.h"
#include "bridge/protocol/frame.h"
#include "bridge/transport/fake_guest_transport.h"

namespace ferry::bridge {

inline constexpr uint32_t kIn = kFirstStdioPort;
inline constexpr uint32_t kOut = kFirstStdioPort + 1;
inline constexpr uint32_t kErr = kFirstStdioPort + 2;

// Not in a coroutine: GCC 12 miscompiles initializer lists there.
inline std::vector<std::string> Shell(const std::string& script) { return {"sh", "-c", script}; }

// The host's end of one bridge connection.
class Host {
 public:
  Host(FakeGuestTransport& transport, std::unique_ptr<Connection> connection)
      : transport_(transport), connection_(std::move(connection)) {}

  static Task<std::unique_ptr<Host>> Connect(FakeGuestTransport& transport) {
    auto connection = co_await transport.Accept(kBridgePort);
    co_return std::make_unique<Host>(transport, std::move(connection));
  }

  static Task<std::unique_ptr<Host>> ConnectAndNegotiate(FakeGuestTransport& transport) {
    auto host = co_await Connect(transport);
    const NegotiateRequest request;
    const auto response = co_await host->Call<NegotiateResponse>(kNegotiateProtocol, 0, request);
    EXPECT_EQ(response.version, 4u);
    co_return host;
  }

  template <typename Message>
  Task<void> Send(uint32_t type, int64_t id, Message request) {
    const std::string frame = *EncodeFrame(type, id, Encode(request));
    const absl::Status status = co_await connection_->Write(frame);
    EXPECT_TRUE(status.ok()) << status;
  }

  Task<Frame> Receive() {
    while (true) {
      auto frame = decoder_.Next();
      EXPECT_TRUE(frame.ok());
      if (!frame.ok()) co_return Frame();
      if (frame->has_value()) co_return **frame;
      char buffer[4096];
      const absl::StatusOr<size_t> got = co_await connection_->Read(buffer);
      if (!got.ok() || *got == 0) co_return Frame();  // type 0: the connection is over
      decoder_.Append(std::string_view(buffer, *got));
    }
  }

  template <typename Response, typename Request>
  Task<Response> Call(uint32_t type, int64_t id, Request request) {
    co_await Send(type, id, request);
    const Frame frame = co_await Receive();
    EXPECT_EQ(frame.type, ResponseType(type));
    EXPECT_EQ(frame.id, id);
    auto response = Decode<Response>(frame.payload);
    EXPECT_TRUE(response.ok()) << response.status() << frame.payload;
    if (!response.ok()) co_return Response();
    co_return *response;
  }

  Task<uint32_t> Execute(std::string script, StdioRelaySettings stdio = StdioRelaySettings()) {
    ExecuteProcessRequest request;
    request.parameters.command_args = Shell(script);
    request.stdio = stdio;
    const auto response = co_await Call<ExecuteProcessResponse>(kExecuteProcess, 7, request);
    EXPECT_EQ(HResult(response.result), kHresultOk) << response.error_message;
    co_return response.process_id;
  }

  Task<WaitForProcessResponse> Wait(uint32_t pid, int64_t id = 8) {
    WaitForProcessRequest request;
    request.process_id = pid;
    co_return co_await Call<WaitForProcessResponse>(kWaitForProcess, id, request);
  }

  Connection& connection() { return *connection_; }

 private:
  FakeGuestTransport& transport_;
  std::unique_ptr<Connection> connection_;
  FrameDecoder decoder_;
};

class GuestServerTest : public ::testing::Test {
 protected:
  GuestServerTest() : transport_(io_.get_executor()), ended_(io_.get_executor()) {
    signal(SIGPIPE, SIG_IGN);
    GuestServer::Options options;
    options.shutdown_grace = milliseconds(20'000);
    server_ = std::make_shared<GuestServer>(io_.get_executor(), transport_, std::move(options));
  }

  ~GuestServerTest() override { server_.reset(); }

  // Runs the server and `test` until the test has ended, then lets the server shut down.
  void Run(Task<void> test) {
    auto whole = [](GuestServerTest* self, Task<void> inner) -> Task<void> {
      TaskScope scope(self->io_.get_executor());
      scope.Spawn(Serve(self));
      co_await std::move(inner);
      self->done_ = true;
      co_await scope.CancelAndJoin();
      // Processes that still run are watched on.
      self->io_.stop();
    };
    Spawn(io_.get_executor(), whole(this, std::move(test)));
    io_.run_for(std::chrono::seconds(100));
    EXPECT_TRUE(done_) << "the test hangs";
  }

  static Task<void> Serve(GuestServerTest* self) {
    self->end_ = co_await self->server_->Run();
    self->ended_.Set();
  }

  asio::io_context io_;
  FakeGuestTransport transport_;
  std::shared_ptr<GuestServer> server_;
  std::optional<GuestServer::End> end_;
  AsyncEvent ended_;
  bool done_ = false;
};

}  // namespace ferry::bridge
