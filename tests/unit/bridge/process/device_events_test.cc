#include "bridge/process/device_events.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include "tests/unit/bridge/task_test.h"

namespace ferry::bridge {
namespace {

class DeviceEventsTest : public TaskTest {
 protected:
  DeviceEventsTest() {
    int ends[2] = {-1, -1};
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
    ours_.Reset(ends[0]);
    kernel_.Reset(ends[1]);
  }

  Task<absl::Status> AwaitIt(milliseconds limit) {
    return AwaitDevice(std::move(ours_), "the disk", limit, [this] { return Look(this); });
  }

  static Task<bool> Look(DeviceEventsTest* self) {
    ++self->looks_;
    co_return self->there_;
  }

  void Announce() { EXPECT_EQ(send(kernel_.get(), "add", 3, 0), 3); }

  UniqueFd ours_;
  UniqueFd kernel_;
  bool there_ = false;
  int looks_ = 0;
};

TEST_F(DeviceEventsTest, LooksAgainAfterEachAnnouncement) {
  const auto device = Begin(AwaitIt(milliseconds(600'000)));
  Settle();
  EXPECT_EQ(looks_, 1);
  Announce();
  Until([this] { return looks_ == 2; });
  EXPECT_FALSE(device->has_value());
  there_ = true;
  Announce();
  EXPECT_TRUE(Finish(device).ok());
}

TEST_F(DeviceEventsTest, OneThatDoesNotComeIsNamed) {
  const absl::Status late = Await(AwaitIt(milliseconds(1)));
  EXPECT_TRUE(absl::IsDeadlineExceeded(late));
  EXPECT_NE(late.message().find("the disk"), absl::string_view::npos);
}

TEST_F(DeviceEventsTest, WithoutAnnouncementsItMustBeThereAlready) {
  ours_.Reset();
  EXPECT_EQ(Await(AwaitIt(milliseconds(600'000))).code(), absl::StatusCode::kInternal);
  there_ = true;
  EXPECT_TRUE(Await(AwaitIt(milliseconds(600'000))).ok());
}

}  // namespace
}  // namespace ferry::bridge
