#pragma once

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <boost/asio/io_context.hpp>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bridge/guest/guest_server.h"
#include "bridge/guest/orphan_reaper.h"
#include "bridge/mux/serial_guest_transport.h"
#include "bridge/mux/serial_host_transport.h"
#include "guestmanager/guest.h"
#include "tests/integration/pipe_switch.h"
#include "tests/integration/stdio_client.h"
#include "tests/unit/bridge/run_task.h"

namespace ferry::guest {

inline std::string RandomBytes(size_t size) {
  std::string bytes(size, '\0');
  std::mt19937 random(size);
  for (char& byte : bytes) byte = static_cast<char>(random());
  return bytes;
}

// The real host side and the real agent without a VM between them: the agent runs in this process,
// a PipeSwitch is its serial port, and hosts are swapped behind it.
class GuestLinkTest : public testing::Test {
 protected:
  struct HostSide {
    explicit HostSide(Executor executor) : transport(executor) {}
    bridge::SerialHostTransport transport;
    std::shared_ptr<Guest> guest;
  };

  void SetUp() override {
    signal(SIGPIPE, SIG_IGN);
    auto [guest_end, switch_end] = MakeSocketPair();
    line_ = std::make_unique<PipeSwitch>(io_.get_executor(), std::move(switch_end));
    port_ =
        std::make_unique<bridge::SerialGuestTransport>(io_.get_executor(), std::move(guest_end));
    server_ = std::make_shared<bridge::GuestServer>(io_.get_executor(), *port_, AgentOptions());
    agent_ = std::make_unique<TaskScope>(io_.get_executor());
    agent_->Spawn(ServeAgent(server_));
    AddHost(nullptr);
    Replug();
    ASSERT_TRUE(RunUntil([this] { return guest().ready(); }));
  }

  void TearDown() override {
    for (const auto& host : hosts_) {
      host->guest->Close(absl::UnavailableError("the test is over"));
      host->transport.Close();
    }
    auto end = [](TaskScope* agent, PipeSwitch* line) -> Task<void> {
      co_await agent->CancelAndJoin();
      co_await line->Stop();
    };
    RunTask(io_, end(agent_.get(), line_.get()));
    RunReady(io_);
    server_.reset();
    port_->Close();
    RunReady(io_);
    // What the agent kills when it ends it does not wait for; one that it left alone is waited for
    // until the test's time is over.
    for (const pid_t child : bridge::ListChildren()) {
      EXPECT_EQ(::waitpid(child, nullptr, 0), child);
    }
    EXPECT_TRUE(bridge::ListChildren().empty()) << "a process was left behind";
  }

  virtual bridge::GuestServer::Options AgentOptions() { return {}; }

  Guest& guest() { return *hosts_.back()->guest; }

  // One more host, as the destination of a migration is: it is there before the guest is.
  void AddHost(const GuestState* state) {
    auto host = std::make_unique<HostSide>(io_.get_executor());
    GuestOptions options;
    options.spool.capacity = 64 * 1024;
    host->guest = Guest::Create(io_.get_executor(), host->transport, options);
    EXPECT_TRUE(host->guest->Listen().ok());
    if (state != nullptr) {
      const absl::Status restored = host->guest->Restore(*state);
      EXPECT_TRUE(restored.ok()) << restored;
    }
    hosts_.push_back(std::move(host));
  }

  // Gives the newest host the guest's line, which breaks the present one.
  void Replug() { hosts_.back()->transport.AttachLink(line_->Plug()); }

  // A migration without a VM. `blackout` is what happens while nobody takes anything.
  GuestState Migrate(const std::function<void()>& blackout = nullptr) {
    guest().Freeze();
    absl::StatusOr<GuestState> state = guest().Save();
    EXPECT_TRUE(state.ok()) << state.status();
    line_->Unplug();
    if (blackout) blackout();
    AddHost(&*state);
    Replug();
    hosts_[hosts_.size() - 2]->guest->Close(absl::UnavailableError("moved"));
    return *std::move(state);
  }

  // Runs until `done`; the limit only ends a test that hangs.
  bool RunUntil(const std::function<bool()>& done) {
    const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    io_.restart();
    while (!done()) {
      if (io_.run_one_until(limit) == 0) return false;
    }
    return true;
  }

  template <typename T>
  T Await(Task<T> task) {
    std::optional<T> result;
    auto store = [](std::optional<T>* out, Task<T> inner) -> Task<void> {
      out->emplace(co_await std::move(inner));
    };
    RunTask(io_, store(&result, std::move(task)));
    return *std::move(result);
  }

  std::shared_ptr<Process> Exec(ProcessSpec spec) {
    absl::StatusOr<std::shared_ptr<Process>> process = Await(guest().CreateProcess(spec));
    EXPECT_TRUE(process.ok()) << process.status();
    return process.ok() ? *std::move(process) : nullptr;
  }

  std::shared_ptr<Process> ExecShell(const std::string& script, bool has_stdin = true) {
    ProcessSpec spec;
    spec.command = {"/bin/sh", "-c", script};
    spec.has_stdin = has_stdin;
    return Exec(std::move(spec));
  }

  std::shared_ptr<StdioClient> MakeClient(const std::string& id = "client") {
    return std::make_shared<StdioClient>(io_.get_executor(), id);
  }

  static Task<void> ServeAgent(std::shared_ptr<bridge::GuestServer> server) {
    co_await server->Run();
  }

  asio::io_context io_;
  std::unique_ptr<PipeSwitch> line_;
  std::unique_ptr<bridge::SerialGuestTransport> port_;
  std::shared_ptr<bridge::GuestServer> server_;
  std::unique_ptr<TaskScope> agent_;
  std::vector<std::unique_ptr<HostSide>> hosts_;
};

}  // namespace ferry::guest
