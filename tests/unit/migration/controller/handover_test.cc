#include <sys/socket.h>

#include "tests/unit/migration/connection/connection_fixture.h"
#include "tests/unit/migration/connection/other_process.h"
#include "tests/unit/migration/controller/driven_fixture.h"

// Migrations over sockets that the caller connected.
namespace ferry::migration {
namespace {

class HandoverTest : public DrivenTest {
 protected:
  // Hands the descriptor to the daemon, and by its ticket to the session.
  absl::Status Give(MigrationHost& host, UniqueFd socket) {
    const std::string path = folder_.path() + (&host == &a_ ? "/a/handoff" : "/b/handoff");
    auto ticket = Await(HandOverSocket(path, std::move(socket), milliseconds(10'000)));
    if (!ticket.ok()) return ticket.status();
    return Await(Session(host, "s1")->AdoptSocket(*ticket));
  }

  // The same for a descriptor of another process.
  absl::Status Name(MigrationHost& host, pid_t pid, int fd) {
    return Await(Session(host, "s1")->AdoptProcessSocket({pid, fd}, ::geteuid()));
  }

  void FinishMove(const std::shared_ptr<vm::UtilityVm>& vm) {
    Until([&] { return State(a_, "s1") == v1::SESSION_STATE_TRANSFER_COMPLETED; });
    auto go = Stop(a_, "s1");
    ASSERT_TRUE(go.ok()) << go.status();
    ASSERT_TRUE(Resume(b_, "s1", *go).ok());
    Wait(a_, "s1");
    ExpectMoved(vm, 2);
  }

  void ExpectRefused(MigrationHost& host) {
    Until([&] {
      return State(host, "s1") == v1::SESSION_STATE_FAILED || Describe(host, "s1").done();
    });
    const v1::Session session = Describe(host, "s1");
    EXPECT_THAT(session.error(), HasSubstr("does not lead to the other host's daemon"));
    EXPECT_EQ(session.reason(), "foreign_socket");
  }
};

TEST_F(HandoverTest, HandedOverSocketsCarryTheMigration) {
  auto vm = Boot();
  PrepareBoth("s1");
  EXPECT_TRUE(Transfer(a_, "s1").ok());
  auto [near, far] = SocketPair();
  EXPECT_TRUE(Give(a_, std::move(near)).ok());
  EXPECT_EQ(Await(Session(a_, "s1")->AdoptSocket("x")).code(), absl::StatusCode::kAlreadyExists)
      << "one is enough, though its other end has not answered yet";
  EXPECT_TRUE(Give(b_, std::move(far)).ok());
  Until([&] { return State(b_, "s1") == v1::SESSION_STATE_SOCKET_READY; });
  EXPECT_EQ(Await(Session(b_, "s1")->AdoptSocket("x")).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(Transfer(b_, "s1").ok());
  FinishMove(vm);
}

TEST_F(HandoverTest, SocketsOfAProcessCarryTheMigrationWithoutIt) {
  auto vm = Boot();
  PrepareBoth("s1");
  auto [near, far] = SocketPair();
  const int numbers[] = {near.get(), far.get()};
  OtherProcess holder;
  near = UniqueFd();
  far = UniqueFd();
  EXPECT_EQ(Name(a_, holder.pid(), 99999).code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(Name(a_, holder.pid(), numbers[0]).ok());
  EXPECT_EQ(Name(a_, holder.pid(), numbers[0]).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(Name(b_, holder.pid(), numbers[1]).ok());
  holder.End();
  EXPECT_TRUE(Transfer(a_, "s1").ok());
  EXPECT_TRUE(Transfer(b_, "s1").ok());
  FinishMove(vm);
}

TEST_F(HandoverTest, AStrangerAtTheOtherEndFailsTheTransfer) {
  auto vm = Boot();
  PrepareBoth("s1");
  EXPECT_TRUE(Transfer(a_, "s1").ok());
  EXPECT_TRUE(Transfer(b_, "s1").ok());
  for (MigrationHost* host : {&a_, &b_}) {
    auto [near, stranger] = SocketPair();
    EXPECT_TRUE(Give(*host, std::move(near)).ok());
    ASSERT_GT(::send(stranger.get(), "HTTP/1.1 400 Bad Request\r\n", 26, MSG_NOSIGNAL), 0);
    ExpectRefused(*host);
  }
  EXPECT_TRUE(Resume(a_, "s1").ok());
  ExpectRolledBack(vm);
}

TEST_F(HandoverTest, TheOtherSideOfAnotherSessionIsAStranger) {
  auto vm = Boot();
  ASSERT_TRUE(Await(a_.host.Boot("db")).ok());
  PrepareBoth("s1");
  PrepareBoth("s2", "db");
  EXPECT_TRUE(Transfer(a_, "s1").ok());
  EXPECT_TRUE(Transfer(b_, "s2").ok());
  auto [near, far] = SocketPair();
  EXPECT_TRUE(Give(a_, std::move(near)).ok());
  const std::string path = folder_.path() + "/b/handoff";
  auto ticket = Await(HandOverSocket(path, std::move(far), milliseconds(10'000)));
  ASSERT_TRUE(ticket.ok());
  EXPECT_TRUE(Await(Session(b_, "s2")->AdoptSocket(*ticket)).ok());
  ExpectRefused(a_);
  EXPECT_THAT(Describe(a_, "s1").error(), HasSubstr("\"s1\" is not expected here"));
  Until([&] { return Describe(b_, "s2").done(); });
  EXPECT_TRUE(Resume(a_, "s1").ok());
  EXPECT_TRUE(Resume(a_, "s2").ok());
  Settle();
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
}

TEST_F(HandoverTest, BeforeTheTransferAStrangerMayBeReplaced) {
  auto vm = Boot();
  PrepareBoth("s1");
  auto [near, stranger] = SocketPair();
  EXPECT_TRUE(Give(a_, std::move(near)).ok());
  stranger = UniqueFd();
  Settle();
  EXPECT_EQ(State(a_, "s1"), v1::SESSION_STATE_SOURCE_EXPORTED);
  auto [good, far] = SocketPair();
  EXPECT_TRUE(Give(a_, std::move(good)).ok());
  EXPECT_TRUE(Give(b_, std::move(far)).ok());
  EXPECT_TRUE(Transfer(a_, "s1").ok());
  EXPECT_TRUE(Transfer(b_, "s1").ok());
  FinishMove(vm);
}

TEST_F(HandoverTest, TicketsAreChecked) {
  Boot();
  PrepareBoth("s1");
  EXPECT_EQ(Await(Session(a_, "s1")->AdoptSocket("short")).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Await(Session(a_, "s1")->AdoptSocket(std::string(kTicketSize, 'a'))).code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(State(a_, "s1"), v1::SESSION_STATE_SOURCE_EXPORTED);
}

}  // namespace
}  // namespace ferry::migration
