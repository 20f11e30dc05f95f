#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/asio/io_context.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "guestmanager/container.h"
#include "guestmanager/fake_agent.h"
#include "guestmanager/guest.h"

namespace ferry::guest {

using bridge::FakeHostTransport;

// An attacher that keeps what it is told.
struct TestSink : AttachSink {
  bool writable() const override { return open; }
  void OnOutput(Stream stream, StreamPosition position, std::string_view data) override {
    std::string& to = stream == Stream::kStderr ? err : out;
    if (stream == Stream::kStdout && to.empty()) first = position.offset;
    EXPECT_FALSE(exited);
    to += data;
  }
  void OnOutputEnd(Stream, uint64_t) override { ++ends; }
  void OnOutputDropped(Stream, uint64_t from, uint64_t to) override { dropped += to - from; }
  void OnStdinTaken(uint64_t offset, bool end) override {
    taken = offset;
    end_taken = end_taken || end;
  }
  void OnStdinRewind(uint64_t offset) override { rewinds.push_back(offset); }
  void OnStdinClosed() override { stdin_closed = true; }
  void OnExited(ExitStatus status) override {
    EXPECT_FALSE(exited);
    exited = status;
  }
  void OnDetached(const absl::Status& reason) override { detached = reason; }

  bool open = true;
  std::string out, err;
  uint64_t first = 0;
  int ends = 0;
  uint64_t dropped = 0;
  uint64_t taken = 0;
  bool end_taken = false;
  std::vector<uint64_t> rewinds;
  bool stdin_closed = false;
  std::optional<ExitStatus> exited;
  std::optional<absl::Status> detached;
};

// A guest whose agent does what the test says, on a transport in memory.
class GuestTest : public ::testing::Test {
 protected:
  void SetUp() override {
    transport_ = std::make_unique<FakeHostTransport>(io_.get_executor());
    agent_ = std::make_shared<FakeAgent>(io_.get_executor(), *transport_);
    guest_ = Make(*transport_);
  }

  void TearDown() override {
    if (guest_) guest_->Close(absl::UnavailableError("the test is over"));
    if (moved_) moved_->Close(absl::UnavailableError("the test is over"));
    agent_->Stop();
    Settle();
  }

  std::shared_ptr<Guest> Make(FakeHostTransport& transport) {
    GuestOptions options;
    options.rpc_timeout = rpc_timeout_;
    options.spool = {.capacity = 1000, .total = spool_total_, .folder = spool_folder_};
    options.max_processes = max_processes_;
    options.ended_kept = ended_kept_;
    std::shared_ptr<Guest> guest = Guest::Create(io_.get_executor(), transport, options);
    EXPECT_TRUE(guest->Listen().ok());
    return guest;
  }

  // Runs until nothing can happen any more without the test.
  void Settle() {
    io_.restart();
    while (io_.poll() > 0) {
    }
  }

  void Ready() {
    agent_->Connect();
    Settle();
    ASSERT_TRUE(guest_->ready());
  }

  template <typename T>
  std::shared_ptr<std::optional<T>> Start(Task<T> task) {
    auto result = std::make_shared<std::optional<T>>();
    asio::co_spawn(io_, std::move(task), [result](std::exception_ptr failure, T value) {
      if (!failure) *result = std::move(value);
    });
    Settle();
    return result;
  }

  std::shared_ptr<Process> Exec(bool detached = false, bool has_stdin = true,
                                bool terminal = false) {
    ProcessSpec spec;
    spec.terminal = terminal;
    spec.command = {"cat", "-u"};
    spec.has_stdin = has_stdin;
    spec.detached = detached;
    auto process = Start(guest_->CreateProcess(spec));
    EXPECT_TRUE(process->has_value() && (*process)->ok());
    return **std::move(*process);
  }

  std::unique_ptr<Attachment> Attach(Process& process, TestSink& sink, AttachOptions options = {}) {
    auto attachment = process.Attach(options, sink);
    EXPECT_TRUE(attachment.ok()) << attachment.status();
    Settle();
    return attachment.ok() ? *std::move(attachment) : nullptr;
  }

  // A migration without a VM: the agent's memory goes on, the host's end is made anew.
  void Migrate() {
    guest_->Freeze();
    auto state = guest_->Save();
    ASSERT_TRUE(state.ok()) << state.status();
    Migrate(*state);
  }
  // The same with another state, as a daemon has it that was killed.
  void Migrate(const GuestState& state) {
    moved_transport_ = std::make_unique<FakeHostTransport>(io_.get_executor());
    moved_ = Make(*moved_transport_);
    ASSERT_TRUE(moved_->Restore(state).ok());
    transport_->Break();
    guest_->Close(absl::UnavailableError("moved"));
    Settle();
  }

  // Runs until `done`; the limit only ends a test that hangs.
  bool RunUntil(const std::function<bool()>& done) {
    io_.restart();
    while (!done()) {
      if (io_.run_one_for(std::chrono::seconds(30)) == 0) return false;
    }
    return true;
  }

  asio::io_context io_;
  milliseconds rpc_timeout_{300'000};
  std::string spool_folder_;
  size_t spool_total_ = SpoolSettings().total;
  size_t max_processes_ = GuestOptions().max_processes;
  size_t ended_kept_ = GuestOptions().ended_kept;
  std::unique_ptr<FakeHostTransport> transport_;
  std::unique_ptr<FakeHostTransport> moved_transport_;
  std::shared_ptr<FakeAgent> agent_;
  std::shared_ptr<Guest> guest_;
  std::shared_ptr<Guest> moved_;
};

}  // namespace ferry::guest
