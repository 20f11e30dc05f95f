#include "bridge/guest/log_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "bridge/guest/kernel_record.h"
#include "bridge/protocol/log_record.h"
#include "bridge/transport/fake_guest_transport.h"
#include "tests/unit/bridge/task_test.h"

namespace ferry::bridge {
namespace {

using ::testing::ElementsAre;

TEST(KernelRecordTest, IsTakenApart) {
  const auto record = ParseKernelRecord("4,7,1234,-;out of memory\n SUBSYSTEM=mm\n");
  ASSERT_TRUE(record.has_value());
  EXPECT_TRUE(record->from_kernel);
  EXPECT_EQ(record->record.sequence, 8u);
  EXPECT_EQ(record->record.level, LogLevel::kWarning);
  EXPECT_EQ(record->record.message, "out of memory");
}

TEST(KernelRecordTest, WhatIsNoneIsNone) {
  for (const char* text : {"", ";", "x,1,2,-;a", "4;a", "4,x,2,-;a", "4,7,1234,-"}) {
    EXPECT_FALSE(ParseKernelRecord(text).has_value()) << text;
  }
}

TEST(KernelRecordTest, TheKernelsDailyTalkIsNotTold) {
  EXPECT_FALSE(WorthTelling(*ParseKernelRecord("6,1,2,-;usb 1-1: new device")));
  EXPECT_TRUE(WorthTelling(*ParseKernelRecord("3,1,2,-;I/O error")));
  EXPECT_TRUE(WorthTelling(*ParseKernelRecord("14,1,2,-;ferry-guest: ready")));
}

// The kernel's log is a socket that keeps records apart, as /dev/kmsg does. Opening it anew begins
// with the oldest record, as there.
class LogStreamTest : public TaskTest {
 protected:
  void Start() {
    scope_.Spawn(
        StreamLog(transport_, {.open = [this] { return Open(); }, .patience = milliseconds(0)}));
  }

  ~LogStreamTest() override {
    scope_.Cancel();
    io_.restart();
    io_.poll();
  }

  absl::StatusOr<UniqueFd> Open() {
    int ends[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
    writer_ = UniqueFd(ends[0]);
    for (const std::string& record : kernel_) Deliver(record);
    return UniqueFd(ends[1]);
  }

  void Log(const std::string& record) {
    kernel_.push_back(record);
    if (writer_.valid()) Deliver(record);
  }

  void Deliver(const std::string& record) {
    EXPECT_EQ(send(writer_.get(), record.data(), record.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(record.size()));
  }

  std::unique_ptr<Connection> Accept() {
    std::unique_ptr<Connection> host;
    Await(AcceptInto(&host));
    return host;
  }

  Task<void> AcceptInto(std::unique_ptr<Connection>* host) {
    *host = co_await transport_.Accept(kGuestLogPort);
  }

  std::vector<std::string> Receive(Connection& host, size_t count) {
    std::vector<std::string> messages;
    while (messages.size() < count) {
      std::array<char, 4096> buffer;
      const absl::StatusOr<size_t> got = Await(host.Read(buffer));
      EXPECT_TRUE(got.ok() && *got > 0);
      if (!got.ok() || *got == 0) break;
      lines_.Append(std::string_view(buffer.data(), *got));
      while (const auto line = lines_.Next()) messages.push_back(DecodeLogLine(*line).message);
    }
    return messages;
  }

  FakeGuestTransport transport_{io_.get_executor()};
  TaskScope scope_{io_.get_executor()};
  std::vector<std::string> kernel_;
  UniqueFd writer_;
  LogLines lines_;
};

TEST_F(LogStreamTest, WhatWasLoggedBeforeAndAfterTheHostCameIsSent) {
  Log("6,0,1,-;Linux version 6.1");
  Log("14,1,2,-;ferry-guest: ready");
  Start();
  const auto host = Accept();
  EXPECT_THAT(Receive(*host, 1), ElementsAre("ferry-guest: ready"));
  Log("3,2,3,-;I/O error");
  EXPECT_THAT(Receive(*host, 1), ElementsAre("I/O error"));
}

TEST_F(LogStreamTest, OnlyWhatNoHostHasAcknowledgedIsSentAgain) {
  Start();
  auto host = Accept();
  Log("14,0,1,-;one");
  Log("14,1,1,-;two");
  Log("14,2,1,-;three");
  EXPECT_THAT(Receive(*host, 3), ElementsAre("one", "two", "three"));
  const std::string acknowledged = EncodeLogAck(2);
  EXPECT_TRUE(Await(host->Write(acknowledged)).ok());
  Settle();
  transport_.Break();
  Log("14,3,1,-;four");
  transport_.Restore();
  lines_ = LogLines();
  host = Accept();
  EXPECT_THAT(Receive(*host, 2), ElementsAre("three", "four"));
}

TEST_F(LogStreamTest, RecordsThatTheKernelHasOverwrittenAreCounted) {
  Log("14,5,1,-;six");
  Start();
  const auto host = Accept();
  EXPECT_THAT(Receive(*host, 2), ElementsAre("5 earlier records are lost", "six"));
}

}  // namespace
}  // namespace ferry::bridge
