#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bridge/protocol/container_messages.h"
#include "bridge/protocol/frame.h"
#include "bridge/protocol/messages.h"
#include "bridge/transport/transport.h"

namespace ferry::bridge {

// The host's end of a real agent's bridge: one request after the other, and notifications as they
// come between. Failures are the test's.
class ContainerHostClient {
 public:
  explicit ContainerHostClient(HostTransport& transport) : transport_(transport) {}

  // Waits for the agent and negotiates; also again, after Disconnect().
  Task<void> Open() {
    if (listener_ == nullptr) {
      auto listener = transport_.Listen(kBridgePort);
      EXPECT_TRUE(listener.ok()) << listener.status();
      if (!listener.ok()) co_return;
      listener_ = *std::move(listener);
    }
    auto connection = co_await listener_->Accept();
    EXPECT_TRUE(connection.ok()) << connection.status();
    if (!connection.ok()) co_return;
    connection_ = *std::move(connection);
    const NegotiateRequest request;
    const auto answer = co_await Call<NegotiateResponse>(kNegotiateProtocol, request);
    EXPECT_TRUE(answer.capabilities.guest_defined.containers_supported);
  }

  // The agent dials again, and keeps for Open() what it has to say.
  void Disconnect() {
    connection_->Close();
    connection_ = nullptr;
    decoder_ = FrameDecoder();
  }

  template <typename Response, typename Request>
  Task<Response> Call(uint32_t type, Request request) {
    const int64_t id = next_id_++;
    const std::string frame = *EncodeFrame(type, id, Encode(request));
    const absl::Status written = co_await connection_->Write(frame);
    EXPECT_TRUE(written.ok()) << written;
    while (written.ok()) {
      const Frame answer = co_await Receive();
      if (answer.type == 0) break;
      if (IsNotification(answer.type)) continue;
      EXPECT_EQ(answer.id, id);
      auto response = Decode<Response>(answer.payload);
      EXPECT_TRUE(response.ok()) << response.status() << answer.payload;
      if (!response.ok()) break;
      co_return *response;
    }
    Response lost;
    lost.result = WireResult(kHresultFailed);
    lost.error_message = "the bridge is gone";
    co_return lost;
  }

  Task<void> Modify(std::string id, std::string type, std::string resource, std::string settings) {
    ModifySettingsRequest request;
    request.container_id = id;
    request.request_type = type;
    request.resource_type = resource;
    request.settings = settings;
    const auto answer = co_await Call<SimpleResponse>(kModifySettings, request);
    EXPECT_EQ(HResult(answer.result), kHresultOk) << resource << ": " << answer.error_message;
  }

  Task<void> Simple(uint32_t type, std::string id) {
    SimpleRequest request;
    request.container_id = id;
    const auto answer = co_await Call<SimpleResponse>(type, request);
    EXPECT_EQ(HResult(answer.result), kHresultOk) << type << ": " << answer.error_message;
  }

  Task<void> Create(std::string id, std::string specification) {
    ContainerConfig config;
    config.oci_bundle_path = "/run/gcs/c/" + id;
    config.oci_specification = specification;
    CreateRequest request;
    request.container_id = id;
    request.container_config = Encode(config);
    const auto answer = co_await Call<SimpleResponse>(kCreate, request);
    EXPECT_EQ(HResult(answer.result), kHresultOk) << answer.error_message;
  }

  // A process with the plain stdio that it was asked for.
  struct Running {
    uint32_t pid = 0;
    std::unique_ptr<Connection> in;
    std::unique_ptr<Connection> out;
  };

  // The init if `process` is empty.
  Task<std::unique_ptr<Running>> Execute(std::string id, std::string process, bool terminal) {
    auto running = std::make_unique<Running>();
    auto in = transport_.Listen(next_port_);
    auto out = transport_.Listen(next_port_ + 1);
    EXPECT_TRUE(in.ok() && out.ok()) << in.status() << out.status();
    if (!in.ok() || !out.ok()) co_return running;
    ExecuteProcessRequest request;
    request.container_id = id;
    request.parameters.oci_process = process;
    request.parameters.emulate_console = terminal;
    request.parameters.console_rows = terminal ? 24 : 0;
    request.parameters.console_columns = terminal ? 80 : 0;
    request.stdio.std_in = next_port_++;
    request.stdio.std_out = next_port_++;
    const auto answer = co_await Call<ExecuteProcessResponse>(kExecuteProcess, request);
    EXPECT_EQ(HResult(answer.result), kHresultOk) << answer.error_message;
    running->pid = answer.process_id;
    if (HResult(answer.result) != kHresultOk) co_return running;
    auto stdin_connection = co_await (*in)->Accept();
    auto stdout_connection = co_await (*out)->Accept();
    EXPECT_TRUE(stdin_connection.ok() && stdout_connection.ok());
    if (stdin_connection.ok()) running->in = *std::move(stdin_connection);
    if (stdout_connection.ok()) running->out = *std::move(stdout_connection);
    co_return running;
  }

  // Asks for as many at once, without stdio; their pids.
  Task<std::vector<uint32_t>> ExecuteTogether(std::string id, std::string process, int count) {
    ExecuteProcessRequest request;
    request.container_id = id;
    request.parameters.oci_process = process;
    const std::string text = Encode(request);
    for (int i = 0; i < count; ++i) {
      const std::string frame = *EncodeFrame(kExecuteProcess, next_id_++, text);
      const absl::Status written = co_await connection_->Write(frame);
      EXPECT_TRUE(written.ok()) << written;
    }
    std::vector<uint32_t> pids;
    while (pids.size() < static_cast<size_t>(count)) {
      const Frame frame = co_await Receive();
      EXPECT_EQ(frame.type, ResponseType(kExecuteProcess));
      const auto answer = Decode<ExecuteProcessResponse>(frame.payload);
      EXPECT_TRUE(answer.ok()) << answer.status();
      if (!answer.ok()) break;
      EXPECT_EQ(HResult(answer->result), kHresultOk) << answer->error_message;
      pids.push_back(answer->process_id);
    }
    co_return pids;
  }

  // What a process of the VM itself says.
  Task<std::string> Shell(std::string script) {
    auto out = transport_.Listen(next_port_);
    EXPECT_TRUE(out.ok()) << out.status();
    if (!out.ok()) co_return "";
    ExecuteProcessRequest request;
    request.parameters.command_args.push_back("/bin/sh");
    request.parameters.command_args.push_back("-c");
    request.parameters.command_args.push_back(script);
    request.stdio.std_out = next_port_++;
    const auto answer = co_await Call<ExecuteProcessResponse>(kExecuteProcess, request);
    EXPECT_EQ(HResult(answer.result), kHresultOk) << answer.error_message;
    if (HResult(answer.result) != kHresultOk) co_return "";
    auto connection = co_await (*out)->Accept();
    EXPECT_TRUE(connection.ok()) << connection.status();
    std::string said;
    while (connection.ok()) {
      char buffer[4096];
      const absl::StatusOr<size_t> got = co_await (*connection)->Read(buffer);
      if (!got.ok() || *got == 0) break;
      said.append(buffer, *got);
    }
    co_return said;
  }

  Task<WaitForProcessResponse> Wait(uint32_t pid) {
    WaitForProcessRequest request;
    request.process_id = pid;
    co_return co_await Call<WaitForProcessResponse>(kWaitForProcess, request);
  }

  Task<uint32_t> Signal(uint32_t pid, uint32_t signal) {
    SignalProcessRequest request;
    request.process_id = pid;
    request.signal = signal;
    co_return HResult((co_await Call<SimpleResponse>(kSignalProcess, request)).result);
  }

  Task<ContainerProperties> Properties(std::string id) {
    GetPropertiesRequest request;
    request.container_id = id;
    request.query = R"({"PropertyTypes":["State","ProcessList","Statistics"]})";
    const auto answer = co_await Call<GetPropertiesResponse>(kGetProperties, request);
    EXPECT_EQ(HResult(answer.result), kHresultOk) << answer.error_message;
    const auto properties = Decode<ContainerProperties>(answer.properties);
    EXPECT_TRUE(properties.ok()) << properties.status() << answer.properties;
    co_return properties.ok() ? *properties : ContainerProperties();
  }

  // Waits until the container's exit was notified.
  Task<std::string> ExitType(std::string id) {
    while (true) {
      for (const ContainerNotification& seen : notifications_) {
        if (seen.container_id == id) co_return seen.type;
      }
      if ((co_await Receive()).type == 0) co_return "the bridge is gone";
    }
  }

 private:
  // The next frame; type 0 when the connection is over. Notifications are kept as well.
  Task<Frame> Receive() {
    while (true) {
      auto frame = decoder_.Next();
      EXPECT_TRUE(frame.ok()) << frame.status();
      if (!frame.ok()) co_return Frame();
      if (frame->has_value()) {
        if (IsNotification((*frame)->type)) {
          const auto notification = Decode<ContainerNotification>((*frame)->payload);
          EXPECT_TRUE(notification.ok()) << notification.status();
          if (notification.ok()) notifications_.push_back(*notification);
        }
        co_return **frame;
      }
      char buffer[4096];
      const absl::StatusOr<size_t> got = co_await connection_->Read(buffer);
      if (!got.ok() || *got == 0) co_return Frame();
      decoder_.Append(std::string_view(buffer, *got));
    }
  }

  HostTransport& transport_;
  std::unique_ptr<Listener> listener_;
  std::unique_ptr<Connection> connection_;
  FrameDecoder decoder_;
  int64_t next_id_ = 0;
  uint32_t next_port_ = kFirstStdioPort;
  std::vector<ContainerNotification> notifications_;
};

// Reads until `text` came, or all there is if it is empty.
inline Task<std::string> ReadUntil(Connection* connection, std::string text) {
  std::string all;
  while (text.empty() || all.find(text) == std::string::npos) {
    char buffer[4096];
    const absl::StatusOr<size_t> got = co_await connection->Read(buffer);
    if (!got.ok() || *got == 0) break;
    all.append(buffer, *got);
  }
  co_return all;
}

}  // namespace ferry::bridge
