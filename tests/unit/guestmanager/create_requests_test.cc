#include "guestmanager/create_requests.h"

#include "tests/unit/guestmanager/guest_fixture.h"

namespace ferry::guest {
namespace {

class CreateRequestsTest : public GuestTest {
 protected:
  std::shared_ptr<std::optional<absl::StatusOr<std::shared_ptr<Process>>>> Create(
      const std::string& request_id) {
    ProcessSpec spec;
    spec.command = {"cat"};
    return Start((moved_ ? moved_ : guest_)->CreateProcess(spec, request_id));
  }
  uint32_t Pid(const std::string& request_id) {
    auto created = Create(request_id);
    EXPECT_TRUE(created->has_value() && (*created)->ok());
    return (**created)->get()->pid();
  }
};

TEST_F(CreateRequestsTest, RepeatedMakesOneProcess) {
  Ready();
  const uint32_t pid = Pid("a");
  EXPECT_EQ(Pid("a"), pid);
  EXPECT_NE(Pid("b"), pid);
  EXPECT_NE(Pid(""), Pid(""));
  EXPECT_EQ(agent_->CountReceived(bridge::kExecuteProcess), 4);
}

TEST_F(CreateRequestsTest, RepeatedWhileTheFirstIsUnderWayWaitsForIt) {
  Ready();
  agent_->silent = true;
  auto first = Create("a");
  auto second = Create("a");
  EXPECT_EQ(agent_->CountReceived(bridge::kExecuteProcess), 1);
  // The first fails, so the second is the one to make it.
  transport_->Break();
  agent_->silent = false;
  Settle();
  ASSERT_TRUE(first->has_value());
  EXPECT_TRUE(absl::IsUnavailable((*first)->status()));
  ASSERT_TRUE(second->has_value());
  EXPECT_TRUE(absl::IsUnavailable((*second)->status()));
  agent_->Connect();
  Settle();
  EXPECT_EQ(Pid("a"), Pid("a"));
}

TEST_F(CreateRequestsTest, AForgottenProcessIsNotMadeAgain) {
  Ready();
  const uint32_t pid = Pid("a");
  agent_->Exit(pid, 0);
  Settle();
  EXPECT_EQ(Pid("a"), pid);  // its status is still there
  guest_->Forget(pid);
  Settle();
  auto again = Create("a");
  ASSERT_TRUE(again->has_value());
  EXPECT_TRUE(absl::IsFailedPrecondition((*again)->status()));
}

TEST_F(CreateRequestsTest, MovesWithTheGuest) {
  Ready();
  const uint32_t pid = Pid("a");
  Migrate();
  agent_->Connect(moved_transport_.get());
  Settle();
  EXPECT_EQ(Pid("a"), pid);
}

TEST_F(CreateRequestsTest, TheOldestAreForgottenFirst) {
  CreateRequests requests(io_.get_executor(), 2);
  for (uint32_t pid : {1, 2, 3}) requests.Restore("request " + std::to_string(pid), pid);
  EXPECT_EQ(requests.Find("request 1"), nullptr);
  EXPECT_EQ(requests.Find("request 2")->pid, 2u);
  {
    CreateRequests::Making failed(requests, "request 4");
    EXPECT_EQ(requests.Find("request 2"), nullptr);
    EXPECT_FALSE(requests.Find("request 4")->settled.is_set());
  }
  EXPECT_EQ(requests.Find("request 4"), nullptr);
  EXPECT_EQ(requests.Find("request 3")->pid, 3u);
}

}  // namespace
}  // namespace ferry::guest
