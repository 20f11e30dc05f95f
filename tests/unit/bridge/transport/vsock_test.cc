#include "bridge/transport/vsock.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <boost/asio/io_context.hpp>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>

#include "bridge/transport/fake_vsock_sockets.h"
#include "bridge/transport/queue_listener.h"
#include "tests/unit/bridge/run_task.h"

namespace ferry::bridge {
namespace {

using ConnectionOr = absl::StatusOr<std::unique_ptr<Connection>>;

Task<void> DialInto(GuestTransport* guest, uint32_t port, ConnectionOr* result) {
  *result = co_await guest->Dial(port);
}

Task<void> AcceptInto(Listener* listener, ConnectionOr* result) {
  *result = co_await listener->Accept();
}

Task<void> ReadOneInto(Connection* connection, absl::StatusOr<std::string>* result) {
  char buffer[100];
  absl::StatusOr<size_t> count = co_await connection->Read(buffer);
  if (count.ok()) {
    *result = std::string(buffer, *count);
  } else {
    *result = count.status();
  }
}

Task<void> WriteTo(Connection* connection, std::string data) {
  EXPECT_TRUE((co_await connection->Write(data)).ok());
}

class VsockTest : public testing::Test {
 protected:
  VsockTest() {
    std::string pattern = testing::TempDir() + "vsock.XXXXXX";
    folder = ::mkdtemp(pattern.data());
    host_sockets = std::make_shared<FakeVsockSockets>(folder, kVsockHostCid);
    registry = std::make_shared<VsockPortRegistry>(io.get_executor(), host_sockets);
  }
  ~VsockTest() override { std::filesystem::remove_all(folder); }

  std::unique_ptr<GuestTransport> Guest(uint32_t cid) {
    return std::make_unique<VsockGuestTransport>(io.get_executor(),
                                                 std::make_shared<FakeVsockSockets>(folder, cid));
  }

  ConnectionOr Dial(GuestTransport& guest, uint32_t port) {
    ConnectionOr result;
    RunTask(io, DialInto(&guest, port, &result));
    return result;
  }

  ConnectionOr Accept(Listener& listener) {
    ConnectionOr result;
    RunTask(io, AcceptInto(&listener, &result));
    return result;
  }

  absl::StatusOr<std::string> Read(Connection& connection) {
    absl::StatusOr<std::string> result;
    RunTask(io, ReadOneInto(&connection, &result));
    return result;
  }

  static constexpr uint32_t kPort = 0x40000000;
  std::string folder;
  asio::io_context io;
  std::shared_ptr<FakeVsockSockets> host_sockets;
  std::shared_ptr<VsockPortRegistry> registry;
};

TEST_F(VsockTest, OneListenerServesAllMachinesByTheirContextId) {
  auto host3 = registry->MakeTransport(3).value();
  auto host4 = registry->MakeTransport(4).value();
  auto listener3 = host3->Listen(kPort).value();
  auto listener4 = host4->Listen(kPort).value();
  EXPECT_EQ(host_sockets->listen_calls(), 1) << "a port can be bound once";
  auto guest3 = Guest(3);
  auto guest4 = Guest(4);
  ConnectionOr from4 = Dial(*guest4, kPort);
  ConnectionOr from3 = Dial(*guest3, kPort);
  ASSERT_TRUE(from3.ok() && from4.ok());
  RunTask(io, WriteTo(from3->get(), "I am 3"));
  RunTask(io, WriteTo(from4->get(), "I am 4"));
  ConnectionOr at3 = Accept(*listener3);
  ConnectionOr at4 = Accept(*listener4);
  EXPECT_EQ(Read(**at3).value_or("error"), "I am 3");
  EXPECT_EQ(Read(**at4).value_or("error"), "I am 4");
}

TEST_F(VsockTest, AConnectionFromAnUnknownMachineIsClosed) {
  auto host3 = registry->MakeTransport(3).value();
  auto listener3 = host3->Listen(kPort).value();
  auto stranger = Guest(9);
  ConnectionOr dialed = Dial(*stranger, kPort);
  ASSERT_TRUE(dialed.ok());
  EXPECT_EQ(Read(**dialed).value_or("reset"), "");
}

TEST_F(VsockTest, AMachineReachesOnlyItsOwnPorts) {
  auto host3 = registry->MakeTransport(3).value();
  auto host4 = registry->MakeTransport(4).value();
  auto listener3 = host3->Listen(1).value();
  auto listener4 = host4->Listen(2).value();
  auto guest3 = Guest(3);
  ConnectionOr dialed = Dial(*guest3, 2);
  ASSERT_TRUE(dialed.ok());
  EXPECT_EQ(Read(**dialed).value_or("reset"), "");
}

TEST_F(VsockTest, APortWithoutListenerRefuses) {
  auto guest3 = Guest(3);
  EXPECT_TRUE(absl::IsUnavailable(Dial(*guest3, kPort).status()));
}

TEST_F(VsockTest, ThePortIsFreeWhenItsLastListenerIsClosed) {
  auto host3 = registry->MakeTransport(3).value();
  auto host4 = registry->MakeTransport(4).value();
  auto listener3 = host3->Listen(kPort).value();
  auto listener4 = host4->Listen(kPort).value();
  EXPECT_TRUE(absl::IsAlreadyExists(host3->Listen(kPort).status()));
  listener3->Close();
  auto other = std::make_shared<VsockPortRegistry>(
      io.get_executor(), std::make_shared<FakeVsockSockets>(folder, kVsockHostCid));
  auto rival = other->MakeTransport(3).value();
  EXPECT_TRUE(absl::IsAlreadyExists(rival->Listen(kPort).status())) << "machine 4 still has it";
  listener4->Close();
  EXPECT_TRUE(rival->Listen(kPort).ok());
}

TEST_F(VsockTest, AContextIdHasOneTransportAtATime) {
  auto host3 = registry->MakeTransport(3).value();
  EXPECT_TRUE(absl::IsAlreadyExists(registry->MakeTransport(3).status()));
  host3.reset();
  EXPECT_TRUE(registry->MakeTransport(3).ok());
}

TEST_F(VsockTest, PauseHoldsTheReadsOfThisMachineOnly) {
  auto host3 = registry->MakeTransport(3).value();
  auto host4 = registry->MakeTransport(4).value();
  auto listener3 = host3->Listen(kPort).value();
  auto listener4 = host4->Listen(kPort).value();
  auto guest3 = Guest(3);
  auto guest4 = Guest(4);
  ConnectionOr from3 = Dial(*guest3, kPort);
  ConnectionOr from4 = Dial(*guest4, kPort);
  ConnectionOr at3 = Accept(*listener3);
  ConnectionOr at4 = Accept(*listener4);
  host3->PauseReading();
  RunTask(io, WriteTo(from3->get(), "held"));
  RunTask(io, WriteTo(from4->get(), "free"));
  absl::StatusOr<std::string> held = absl::UnknownError("pending");
  Spawn(io.get_executor(), ReadOneInto(at3->get(), &held));
  EXPECT_EQ(Read(**at4).value_or("error"), "free");
  RunReady(io);
  EXPECT_TRUE(absl::IsUnknown(held.status()));
  host3->ResumeReading();
  RunReady(io);
  EXPECT_EQ(held.value_or("error"), "held");
}

TEST_F(VsockTest, CloseResetsTheMachinesConnectionsAndListeners) {
  auto host3 = registry->MakeTransport(3).value();
  auto listener3 = host3->Listen(kPort).value();
  auto guest3 = Guest(3);
  ConnectionOr from3 = Dial(*guest3, kPort);
  ConnectionOr at3 = Accept(*listener3);
  absl::StatusOr<std::string> reading;
  ConnectionOr accepting;
  Spawn(io.get_executor(), ReadOneInto(at3->get(), &reading));
  Spawn(io.get_executor(), AcceptInto(listener3.get(), &accepting));
  RunReady(io);
  host3->PauseReading();
  host3->Close();
  host3->Close();
  RunReady(io);
  EXPECT_TRUE(absl::IsCancelled(reading.status())) << reading.status();
  EXPECT_TRUE(absl::IsCancelled(accepting.status())) << accepting.status();
  EXPECT_EQ(Read(**from3).value_or("reset"), "");
  EXPECT_TRUE(absl::IsCancelled(host3->Listen(kPort).status()));
}

TEST_F(VsockTest, AcceptingGoesOnWhenDescriptorsAreFreeAgain) {
  auto host3 = registry->MakeTransport(3).value();
  auto listener3 = host3->Listen(kPort).value();
  RunReady(io);
  host_sockets->set_exhausted(true);
  auto guest3 = Guest(3);
  ConnectionOr from3 = Dial(*guest3, kPort);
  RunReady(io);
  host_sockets->set_exhausted(false);
  EXPECT_TRUE(Accept(*listener3).ok());
}

TEST_F(VsockTest, AFullBacklogRefuses) {
  auto host3 = registry->MakeTransport(3).value();
  auto listener3 = host3->Listen(kPort).value();
  auto guest3 = Guest(3);
  std::vector<std::unique_ptr<Connection>> dialed;
  for (size_t i = 0; i < AcceptQueue::kMaxBacklog + 1; ++i) {
    dialed.push_back(Dial(*guest3, kPort).value());
  }
  EXPECT_EQ(Read(*dialed.back()).value_or("reset"), "");
}

TEST_F(VsockTest, WaitingForTheLinkReturnsSoon) {
  auto guest3 = Guest(3);
  auto wait = [](GuestTransport* guest) -> Task<void> {
    uint64_t count = co_await guest->WaitForLink(7);
    EXPECT_NE(count, 7u);
  };
  RunTask(io, wait(guest3.get()));
}

}  // namespace
}  // namespace ferry::bridge
