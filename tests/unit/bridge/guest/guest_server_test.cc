#include "bridge/guest/guest_server.h"

#include <gtest/gtest.h>
#include <signal.h>

#include <boost/asio/io_context.hpp>
#include <random>

#include "bridge/protocol/frame.h"
#include "bridge/stream/stream_receiver.h"
#include "bridge/stream/stream_sender.h"
#include "bridge/transport/fake_guest_transport.h"

namespace ferry::bridge {
namespace {

constexpr uint32_t kIn = kFirstStdioPort;
constexpr uint32_t kOut = kFirstStdioPort + 1;
constexpr uint32_t kErr = kFirstStdioPort + 2;
constexpr const char* kMissing[] = {"no-such-command", "/no/such/command"};
constexpr const char* kDeafScripts[] = {"exec <&-; exec sleep 1000", "exit 0"};
constexpr const char* kNotified[] = {"one", "two", "three"};

// Not in a coroutine: GCC 12 miscompiles initializer lists there.
std::vector<std::string> Shell(const std::string& script) { return {"sh", "-c", script}; }

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

// Reads a resumable output stream to its end, over as many connections as it takes.
struct OutputReader {
  OutputReader(FakeGuestTransport* link, uint32_t number) : transport(link), port(number) {}
  FakeGuestTransport* transport;
  uint32_t port;
  std::string data;
  bool ended = false;
  size_t cut_about_every = 0;  // bytes; 0: the link is never cut
  size_t next_cut = 0;
  int cuts = 0;
  std::mt19937 random{42};
};

// Breaks the link when enough came since the last time.
void MaybeCut(OutputReader* reader) {
  if (reader->cut_about_every == 0 || reader->data.size() < reader->next_cut) return;
  reader->next_cut = reader->data.size() + 1 + reader->random() % (2 * reader->cut_about_every);
  ++reader->cuts;
  reader->transport->Break();
  reader->transport->Restore();
}

Task<void> ReadOutput(OutputReader* reader) {
  StreamReceiver receiver(0);
  while (!reader->ended) {
    auto connection = co_await reader->transport->Accept(reader->port);
    StreamDecoder decoder;
    absl::Status written = co_await connection->Write(EncodeHello(receiver.MakeHello()));
    std::vector<char> buffer(64 * 1024);
    while (true) {
      const absl::StatusOr<size_t> got = co_await connection->Read(buffer);
      if (!got.ok() || *got == 0) break;
      decoder.Append(std::string_view(buffer.data(), *got));
      while (true) {
        auto frame = decoder.Next();
        EXPECT_TRUE(frame.ok()) << frame.status();
        if (!frame.ok() || !frame->has_value()) break;
        const StreamFrame& item = **frame;
        if (item.type == StreamFrameType::kHello) {
          EXPECT_TRUE(receiver.OnPeerHello(item.hello).ok());
        } else if (item.type == StreamFrameType::kData) {
          auto fresh = receiver.OnData(item.offset, item.payload);
          EXPECT_TRUE(fresh.ok()) << fresh.status();
          if (!fresh.ok()) co_return;
          reader->data += *fresh;
          receiver.Taken(fresh->size());
        } else if (item.type == StreamFrameType::kEof) {
          EXPECT_TRUE(receiver.OnEof(item.offset).ok());
          receiver.EofTaken();
        }
      }
      if (auto ack = receiver.NextAck()) {
        written = co_await connection->Write(EncodeAck(ack->offset, ack->eof_taken));
      }
      if (written.ok() && receiver.eof_taken()) {
        reader->ended = true;
        break;
      }
      MaybeCut(reader);
    }
    receiver.OnDisconnect();
  }
}

// Feeds a resumable input stream. `closed_at` is set when the guest closed it in order.
struct InputWriter {
  InputWriter(FakeGuestTransport* link, uint32_t number, std::string bytes, bool end = true)
      : transport(link), port(number), data(std::move(bytes)), finish(end) {}
  FakeGuestTransport* transport;
  uint32_t port;
  std::string data;
  bool finish = true;
  bool taken = false;
  std::optional<uint64_t> closed_at;
};

Task<void> WriteFrames(StreamSender* sender, InputWriter* writer, size_t* appended,
                       std::shared_ptr<Connection> connection, AsyncEvent* wake) {
  absl::Status status = co_await connection->Write(EncodeHello(sender->MakeHello()));
  while (status.ok()) {
    const size_t space = std::min(sender->WritableSpace(), writer->data.size() - *appended);
    if (space > 0) {
      EXPECT_TRUE(sender->Append(writer->data.substr(*appended, space)).ok());
      *appended += space;
    }
    if (writer->finish && *appended == writer->data.size()) sender->Finish();
    auto frame = sender->NextFrame();
    if (!frame.has_value()) {
      wake->Reset();
      co_await wake->Wait();
      continue;
    }
    const std::string bytes = frame->header + std::string(frame->payload);
    status = co_await connection->Write(bytes);
  }
}

Task<void> WriteInput(InputWriter* writer) {
  StreamSender sender(0);
  size_t appended = 0;
  const Executor executor = co_await asio::this_coro::executor;
  AsyncEvent wake(executor);
  while (!writer->taken && !writer->closed_at.has_value()) {
    std::shared_ptr<Connection> connection = co_await writer->transport->Accept(writer->port);
    TaskScope scope(executor);
    scope.Spawn(WriteFrames(&sender, writer, &appended, connection, &wake));
    StreamDecoder decoder;
    std::vector<char> buffer(4096);
    while (true) {
      const absl::StatusOr<size_t> got = co_await connection->Read(buffer);
      if (got.ok() && *got == 0) writer->closed_at = sender.base();
      if (!got.ok() || *got == 0) break;
      decoder.Append(std::string_view(buffer.data(), *got));
      while (true) {
        auto frame = decoder.Next();
        EXPECT_TRUE(frame.ok()) << frame.status();
        if (!frame.ok() || !frame->has_value()) break;
        const absl::Status status =
            (*frame)->type == StreamFrameType::kHello
                ? sender.OnPeerHello((*frame)->hello)
                : sender.OnAck((*frame)->offset, ((*frame)->flags & kFlagEofTaken) != 0);
        EXPECT_TRUE(status.ok()) << status;
      }
      writer->taken = sender.fully_taken();
      wake.Set();
    }
    connection->Close();
    co_await scope.CancelAndJoin();
    sender.OnDisconnect();
  }
}

TEST_F(GuestServerTest, NegotiatesVersionFourAndNothingElse) {
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto host = co_await Host::Connect(*transport);
    const SimpleRequest early;
    const auto refused = co_await host->Call<SimpleResponse>(kListProcesses, 1, early);
    EXPECT_EQ(HResult(refused.result), kHresultNotImplemented);
    NegotiateRequest other;
    other.minimum_version = other.maximum_version = 3;
    other.activity_id = "11111111-0000-0000-0000-000000000000";
    const auto bad = co_await host->Call<SimpleResponse>(kNegotiateProtocol, 0, other);
    EXPECT_EQ(HResult(bad.result), kHresultBadProtocolVersion);
    EXPECT_EQ(bad.activity_id, other.activity_id);
    const NegotiateRequest good;
    const auto answer = co_await host->Call<NegotiateResponse>(kNegotiateProtocol, 0, good);
    EXPECT_EQ(answer.version, 4u);
    EXPECT_EQ(answer.capabilities.runtime_os_type, "Linux");
    EXPECT_TRUE(answer.capabilities.guest_defined.resumable_stdio_supported);
    EXPECT_TRUE(answer.capabilities.guest_defined.acknowledge_exit_supported);
    EXPECT_TRUE(answer.capabilities.guest_defined.signal_process_supported);
    const auto again = co_await host->Call<SimpleResponse>(kNegotiateProtocol, 2, good);
    EXPECT_EQ(HResult(again.result), kHresultNotImplemented);
  };
  Run(test(&transport_));
}

TEST_F(GuestServerTest, EveryConnectionStartsUnnegotiated) {
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto host = co_await Host::ConnectAndNegotiate(*transport);
    transport->Break();
    transport->Restore();
    host = co_await Host::Connect(*transport);
    const SimpleRequest early;
    const auto refused = co_await host->Call<SimpleResponse>(kListProcesses, 1, early);
    EXPECT_EQ(HResult(refused.result), kHresultNotImplemented);
    const NegotiateRequest good;
    const auto answer = co_await host->Call<NegotiateResponse>(kNegotiateProtocol, 0, good);
    EXPECT_EQ(answer.version, 4u);
  };
  Run(test(&transport_));
}

TEST_F(GuestServerTest, UnknownMessagesAndBadJsonAreAnswered) {
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto host = co_await Host::ConnectAndNegotiate(*transport);
    SimpleRequest request;
    request.activity_id = "22222222-0000-0000-0000-000000000000";
    const auto unknown = co_await host->Call<SimpleResponse>(kDumpStacks, 3, request);
    EXPECT_EQ(HResult(unknown.result), kHresultNotImplemented);
    EXPECT_EQ(unknown.activity_id, request.activity_id);
    CreateRequest create;
    create.container_id = std::string(64, 'a');
    create.container_config = "{}";
    const auto container = co_await host->Call<SimpleResponse>(kCreate, 4, create);
    EXPECT_EQ(HResult(container.result), kHresultNotImplemented);
    const std::string bad = *EncodeFrame(kWaitForProcess, 5, "{nonsense");
    const absl::Status ignored = co_await host->connection().Write(bad);
    const Frame frame = co_await host->Receive();
    EXPECT_EQ(frame.id, 5);
    EXPECT_EQ(HResult(Decode<SimpleResponse>(frame.payload)->result), kHresultBadJson);
  };
  Run(test(&transport_));
}

TEST_F(GuestServerTest, AnImpossibleHeaderCostsTheConnectionOnly) {
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto host = co_await Host::ConnectAndNegotiate(*transport);
    std::string frame = *EncodeFrame(kListProcesses, 1, "{}");
    frame[4] = 3;  // a size below the header's own
    frame[5] = 0;
    const absl::Status ignored = co_await host->connection().Write(frame);
    EXPECT_EQ((co_await host->Receive()).type, 0u);
    host = co_await Host::ConnectAndNegotiate(*transport);
    const SimpleRequest list;
    const auto answer = co_await host->Call<ListProcessesResponse>(kListProcesses, 1, list);
    EXPECT_EQ(HResult(answer.result), kHresultOk);
  };
  Run(test(&transport_));
}

TEST_F(GuestServerTest, RequestsRunConcurrently) {
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto host = co_await Host::ConnectAndNegotiate(*transport);
    const uint32_t pid = co_await host->Execute("exec sleep 1000");
    WaitForProcessRequest wait;
    wait.process_id = pid;
    co_await host->Send(kWaitForProcess, 20, wait);
    SignalProcessRequest kill;
    kill.process_id = pid;
    const auto killed = co_await host->Call<SimpleResponse>(kSignalProcess, 21, kill);
    EXPECT_EQ(HResult(killed.result), kHresultOk);
    const Frame frame = co_await host->Receive();
    EXPECT_EQ(frame.id, 20);
    const auto exited = Decode<WaitForProcessResponse>(frame.payload);
    EXPECT_EQ(exited->exit_code, 137u);
    EXPECT_EQ(exited->exit_signal, 9u);
    const auto late = co_await host->Call<SimpleResponse>(kSignalProcess, 22, kill);
    EXPECT_EQ(HResult(late.result), kHresultProcessNotFound);
  };
  Run(test(&transport_));
}

TEST_F(GuestServerTest, AMissingCommandIsAnErrorWithItsName) {
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto host = co_await Host::ConnectAndNegotiate(*transport);
    for (const char* command : kMissing) {
      ExecuteProcessRequest request;
      request.parameters.command_args.assign(1, command);
      const auto answer = co_await host->Call<ExecuteProcessResponse>(kExecuteProcess, 1, request);
      EXPECT_EQ(HResult(answer.result), kHresultFailed);
      EXPECT_NE(answer.error_message.find(command), std::string::npos);
      EXPECT_NE(answer.error_message.find("not found"), std::string::npos) << answer.error_message;
    }
  };
  Run(test(&transport_));
}

TEST_F(GuestServerTest, AnExitStatusIsKeptUntilAcknowledged) {
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto host = co_await Host::ConnectAndNegotiate(*transport);
    const uint32_t pid = co_await host->Execute("exit 9");
    for (int64_t id = 30; id < 33; ++id) {
      const auto exited = co_await host->Wait(pid, id);
      EXPECT_EQ(exited.exit_code, 9u);
      EXPECT_FALSE(exited.exit_signal.has_value());
    }
    const SimpleRequest list;
    auto all = co_await host->Call<ListProcessesResponse>(kListProcesses, 33, list);
    EXPECT_EQ(all.processes.size(), 1u);
    EXPECT_TRUE(!all.processes.empty() && all.processes[0].exited);
    EXPECT_EQ(kill(static_cast<pid_t>(pid), 0), 0) << "the pid must not be free";
    AcknowledgeExitRequest acknowledge;
    acknowledge.process_id = pid;
    const auto done = co_await host->Call<SimpleResponse>(kAcknowledgeExit, 34, acknowledge);
    EXPECT_EQ(HResult(done.result), kHresultOk);
    EXPECT_NE(kill(static_cast<pid_t>(pid), 0), 0);
    const auto gone = co_await host->Wait(pid, 35);
    EXPECT_EQ(HResult(gone.result), kHresultProcessNotFound);
  };
  Run(test(&transport_));
}

TEST_F(GuestServerTest, AWaitMayTimeOutAndARunningProcessIsNotForgotten) {
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto host = co_await Host::ConnectAndNegotiate(*transport);
    const uint32_t pid = co_await host->Execute("exec sleep 1000");
    WaitForProcessRequest wait;
    wait.process_id = pid;
    wait.timeout_ms = 1;
    const auto late = co_await host->Call<SimpleResponse>(kWaitForProcess, 40, wait);
    EXPECT_EQ(HResult(late.result), kHresultWaitTimeout);
    AcknowledgeExitRequest acknowledge;
    acknowledge.process_id = pid;
    const auto refused = co_await host->Call<SimpleResponse>(kAcknowledgeExit, 41, acknowledge);
    EXPECT_EQ(HResult(refused.result), kHresultInvalidState);
  };
  Run(test(&transport_));
}

TEST_F(GuestServerTest, AWaitOutlivesItsConnectionAndAnswersAfterTheNegotiation) {
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto host = co_await Host::ConnectAndNegotiate(*transport);
    const uint32_t pid = co_await host->Execute("exec sleep 1000");
    WaitForProcessRequest wait;
    wait.process_id = pid;
    co_await host->Send(kWaitForProcess, 50, wait);
    const SimpleRequest list;
    co_await host->Call<ListProcessesResponse>(kListProcesses, 51, list);
    transport->Break();
    kill(static_cast<pid_t>(pid), SIGTERM);
    transport->Restore();
    // Negotiating expects its own answer first, so an early one would fail it.
    host = co_await Host::ConnectAndNegotiate(*transport);
    const Frame frame = co_await host->Receive();
    EXPECT_EQ(frame.type, ResponseType(kWaitForProcess));
    EXPECT_EQ(frame.id, 50);
    EXPECT_EQ(Decode<WaitForProcessResponse>(frame.payload)->exit_signal, 15u);
  };
  Run(test(&transport_));
}

TEST_F(GuestServerTest, NotificationsWaitForTheNegotiation) {
  auto test = [](FakeGuestTransport* transport, GuestServer* server) -> Task<void> {
    auto host = co_await Host::ConnectAndNegotiate(*transport);
    transport->Break();
    ContainerNotification notification;
    notification.container_id = "one";
    notification.type = "UnexpectedExit";
    server->NotifyContainerExit(notification);
    notification.container_id = "two";
    server->NotifyContainerExit(notification);
    transport->Restore();
    host = co_await Host::ConnectAndNegotiate(*transport);
    notification.container_id = "three";
    server->NotifyContainerExit(notification);
    for (const char* id : kNotified) {
      const Frame frame = co_await host->Receive();
      EXPECT_EQ(frame.type, kContainerNotification);
      EXPECT_EQ(Decode<ContainerNotification>(frame.payload)->container_id, id);
    }
  };
  Run(test(&transport_, server_.get()));
}

TEST_F(GuestServerTest, PlainStdioEndsInOrder) {
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto host = co_await Host::ConnectAndNegotiate(*transport);
    StdioRelaySettings stdio;
    stdio.std_in = kIn;
    stdio.std_out = kOut;
    const uint32_t pid = co_await host->Execute("exec cat", stdio);
    auto in = co_await transport->Accept(kIn);
    auto out = co_await transport->Accept(kOut);
    absl::Status status = co_await in->Write("hello");
    status = co_await in->CloseWrite();
    std::string all;
    char buffer[64];
    while (true) {
      const absl::StatusOr<size_t> got = co_await out->Read(buffer);
      EXPECT_TRUE(got.ok()) << got.status();
      if (!got.ok() || *got == 0) break;
      all.append(buffer, *got);
    }
    EXPECT_EQ(all, "hello");
    out->Close();
    EXPECT_EQ((co_await host->Wait(pid)).exit_code, 0u);
  };
  Run(test(&transport_));
}

TEST_F(GuestServerTest, EnvironmentDirectoryAndBothOutputsAreTheProcesssOwn) {
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto host = co_await Host::ConnectAndNegotiate(*transport);
    ExecuteProcessRequest request;
    request.parameters.command_args = Shell("echo $WORD; pwd >&2");
    request.parameters.environment["WORD"] = "yes";
    request.parameters.working_directory = "/usr";
    request.stdio.std_out = kOut;
    request.stdio.std_err = kErr;
    request.stdio.resumable = true;
    const auto started = co_await host->Call<ExecuteProcessResponse>(kExecuteProcess, 1, request);
    OutputReader out(transport, kOut);
    OutputReader err(transport, kErr);
    co_await ReadOutput(&out);
    co_await ReadOutput(&err);
    EXPECT_EQ(out.data, "yes\n");
    EXPECT_EQ(err.data, "/usr\n");
    EXPECT_EQ((co_await host->Wait(started.process_id)).exit_code, 0u);
  };
  Run(test(&transport_));
}

TEST_F(GuestServerTest, OutputOfAnExitedProcessWaitsForTheHost) {
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto host = co_await Host::ConnectAndNegotiate(*transport);
    StdioRelaySettings stdio;
    stdio.std_out = kOut;
    stdio.resumable = true;
    const uint32_t pid = co_await host->Execute("echo last words", stdio);
    EXPECT_EQ((co_await host->Wait(pid)).exit_code, 0u);
    transport->Break();
    transport->Restore();
    OutputReader out(transport, kOut);
    co_await ReadOutput(&out);
    EXPECT_EQ(out.data, "last words\n");
  };
  Run(test(&transport_));
}

TEST_F(GuestServerTest, ABackgroundChildWithThePipeDoesNotHoldTheExitBack) {
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto host = co_await Host::ConnectAndNegotiate(*transport);
    StdioRelaySettings stdio;
    stdio.std_out = kOut;
    stdio.resumable = true;
    const uint32_t pid = co_await host->Execute("sleep 1000 & exit 3", stdio);
    EXPECT_EQ((co_await host->Wait(pid)).exit_code, 3u);
    kill(-static_cast<pid_t>(pid), SIGKILL);
  };
  Run(test(&transport_));
}

TEST_F(GuestServerTest, StdinThatNobodyReadsIsClosedInOrder) {
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto host = co_await Host::ConnectAndNegotiate(*transport);
    StdioRelaySettings stdio;
    stdio.std_in = kIn;
    stdio.resumable = true;
    for (const char* script : kDeafScripts) {
      const uint32_t pid = co_await host->Execute(script, stdio);
      InputWriter in(transport, kIn, "", false);
      co_await WriteInput(&in);
      EXPECT_EQ(in.closed_at, 0u);
      SignalProcessRequest request;
      request.process_id = pid;
      co_await host->Call<SimpleResponse>(kSignalProcess, 9, request);
    }
  };
  Run(test(&transport_));
}

TEST_F(GuestServerTest, ATerminalHasItsSize) {
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto host = co_await Host::ConnectAndNegotiate(*transport);
    ExecuteProcessRequest request;
    request.parameters.command_args = Shell("stty size; read line; stty size");
    request.parameters.emulate_console = true;
    request.parameters.console_rows = 24;
    request.parameters.console_columns = 80;
    request.stdio.std_in = kIn;
    request.stdio.std_out = kOut;
    request.stdio.resumable = true;
    const auto started = co_await host->Call<ExecuteProcessResponse>(kExecuteProcess, 1, request);
    ResizeConsoleRequest resize;
    resize.process_id = started.process_id;
    resize.height = 50;
    resize.width = 132;
    // The first size may or may not be seen; the second is there before the line is.
    const auto resized = co_await host->Call<SimpleResponse>(kResizeConsole, 2, resize);
    EXPECT_EQ(HResult(resized.result), kHresultOk);
    InputWriter in(transport, kIn, "go\n", false);
    OutputReader out(transport, kOut);
    TaskScope scope(co_await asio::this_coro::executor);
    scope.Spawn(WriteInput(&in));
    co_await ReadOutput(&out);
    EXPECT_NE(out.data.find("50 132"), std::string::npos) << out.data;
    EXPECT_EQ((co_await host->Wait(started.process_id)).exit_code, 0u);
    co_await scope.CancelAndJoin();
  };
  Run(test(&transport_));
}

TEST_F(GuestServerTest, FiftyMegabytesThroughCatSurviveRandomCuts) {
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto host = co_await Host::ConnectAndNegotiate(*transport);
    std::mt19937_64 random(1);
    std::string data(50 << 20, '\0');
    for (size_t i = 0; i < data.size(); i += 8) {
      const uint64_t value = random();
      memcpy(data.data() + i, &value, 8);
    }
    StdioRelaySettings stdio;
    stdio.std_in = kIn;
    stdio.std_out = kOut;
    stdio.resumable = true;
    const uint32_t pid = co_await host->Execute("exec cat", stdio);
    InputWriter in(transport, kIn, data);
    OutputReader out(transport, kOut);
    out.cut_about_every = 2 << 20;
    TaskScope scope(co_await asio::this_coro::executor);
    scope.Spawn(WriteInput(&in));
    co_await ReadOutput(&out);
    EXPECT_TRUE(out.data == data);
    EXPECT_GT(out.cuts, 5);
    co_await scope.CancelAndJoin();
    transport->Break();
    transport->Restore();
    host = co_await Host::ConnectAndNegotiate(*transport);
    EXPECT_EQ((co_await host->Wait(pid)).exit_code, 0u);
  };
  Run(test(&transport_));
}

TEST_F(GuestServerTest, ShutdownEndsProcessesAnswersAndEndsTheServer) {
  auto test = [](FakeGuestTransport* transport, AsyncEvent* ended) -> Task<void> {
    auto host = co_await Host::ConnectAndNegotiate(*transport);
    const uint32_t pid = co_await host->Execute("exec sleep 1000");
    SimpleRequest elsewhere;
    elsewhere.container_id = std::string(64, 'b');
    const auto refused = co_await host->Call<SimpleResponse>(kShutdownGraceful, 1, elsewhere);
    EXPECT_EQ(HResult(refused.result), kHresultContainerNotFound);
    const SimpleRequest request;
    const auto answer = co_await host->Call<SimpleResponse>(kShutdownGraceful, 2, request);
    EXPECT_EQ(HResult(answer.result), kHresultOk);
    EXPECT_EQ((co_await host->Receive()).type, 0u);
    co_await ended->Wait();
    EXPECT_NE(kill(static_cast<pid_t>(pid), 0), 0);
  };
  Run(test(&transport_, &ended_));
  EXPECT_EQ(end_, GuestServer::End::kShutdownGraceful);
}

}  // namespace
}  // namespace ferry::bridge
