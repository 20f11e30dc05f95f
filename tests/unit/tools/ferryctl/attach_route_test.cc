#include "tools/ferryctl/attach_route.h"

#include <gtest/gtest.h>

#include "vmmanager/rpc/error_info.h"

namespace ferry::ctl {
namespace {

using std::chrono::milliseconds;

const absl::Status kNotFound = absl::NotFoundError("no such VM");
const absl::Status kAway = absl::UnavailableError("no answer");
const absl::Status kSaved =
    rpc::ErrorWithReason(absl::StatusCode::kUnavailable, "VM web is saved", "vm_saved");

absl::Status WentToB() {
  return rpc::ErrorOfMove(absl::StatusCode::kNotFound, "the VM moved to b", "b");
}

AttachRoute OpenAtA() {
  AttachRoute route("a", false);
  route.OnOpened();
  return route;
}

TEST(AttachRoute, TheFirstRefusalStands) {
  for (const absl::Status& status : {kNotFound, WentToB()}) {
    AttachRoute route("a", false);
    EXPECT_EQ(route.target(), "a");
    route.OnRefused(status);
    EXPECT_TRUE(route.hopeless());
    EXPECT_EQ(route.target(), "a");
  }
}

TEST(AttachRoute, WhatLeftBeforeItWasAttachedIsFollowed) {
  AttachRoute route("a", true);
  route.OnRefused(WentToB());
  EXPECT_EQ(route.target(), "b");
  EXPECT_FALSE(route.hopeless());
  route.OnOpened();
  EXPECT_EQ(route.Candidates(), (std::vector<std::string>{"b", "a"}));
}

TEST(AttachRoute, WhatIsGoneIsGoneThoughAHostSaysWhereItWent) {
  AttachRoute route = OpenAtA();
  route.OnMoved("b");
  route.OnOpened();
  route.OnBroken();
  int tries = 0;
  for (; !route.hopeless() && tries < 100; ++tries) {
    route.OnRefused(route.target() == "a" ? WentToB() : kNotFound);
  }
  EXPECT_LT(tries, 100);
}

TEST(AttachRoute, ABreakWithoutMigrationComesBackToTheSameHost) {
  AttachRoute route = OpenAtA();
  route.OnBroken();
  EXPECT_EQ(route.target(), "a");
  EXPECT_EQ(route.delay(), milliseconds(0));
  route.OnRefused(kAway);
  EXPECT_EQ(route.target(), "a");
  EXPECT_GT(route.delay(), milliseconds(0));
  EXPECT_FALSE(route.hopeless());
}

TEST(AttachRoute, MovedGoesToTheDestinationAndBackIfItIsNotThere) {
  AttachRoute route = OpenAtA();
  route.OnMoved("b");
  EXPECT_EQ(route.target(), "b");
  route.OnRefused(kNotFound);
  EXPECT_EQ(route.target(), "a");
  route.OnRefused(kNotFound);
  EXPECT_EQ(route.target(), "b");
  route.OnOpened();
  EXPECT_EQ(route.target(), "b");
  EXPECT_EQ(route.delay(), milliseconds(0));
}

TEST(AttachRoute, ABreakInAMigrationTriesTheDestinationFirst) {
  AttachRoute route = OpenAtA();
  route.OnMigrationOpened("b");
  EXPECT_EQ(route.target(), "a");
  route.OnBroken();
  EXPECT_EQ(route.target(), "b");
}

TEST(AttachRoute, AMigrationCalledOffIsForgotten) {
  AttachRoute route = OpenAtA();
  route.OnMigrationOpened("b");
  route.OnMigrationClosed();
  route.OnBroken();
  EXPECT_EQ(route.target(), "a");
}

TEST(AttachRoute, FollowsForEverAndTheLastAddressesWin) {
  AttachRoute route = OpenAtA();
  for (int i = 0; i < 5; ++i) {
    route.OnMoved("b");
    route.OnOpened();
    EXPECT_EQ(route.target(), "b");
    route.OnMoved("a");
    route.OnOpened();
    EXPECT_EQ(route.target(), "a");
  }
  route.OnMoved("c");
  EXPECT_EQ(route.Candidates(), (std::vector<std::string>{"c", "a", "b"}));
}

TEST(AttachRoute, DelaysGrowAndEnd) {
  AttachRoute route = OpenAtA();
  route.OnBroken();
  milliseconds last(0);
  for (int i = 0; i < 20; ++i) {
    route.OnRefused(kAway);
    EXPECT_GE(route.delay(), last);
    last = route.delay();
  }
  EXPECT_EQ(last, milliseconds(1000));
  EXPECT_FALSE(route.hopeless());
}

TEST(AttachRoute, GoneEverywhereIsGone) {
  AttachRoute route = OpenAtA();
  route.OnMoved("b");
  int tries = 0;
  while (!route.hopeless() && tries < 100) {
    route.OnRefused(kNotFound);
    ++tries;
  }
  EXPECT_GT(tries, 4);
  EXPECT_LT(tries, 100);
}

TEST(AttachRoute, ASavedVmIsWaitedForAtItsHost) {
  AttachRoute route = OpenAtA();
  route.OnMoved("b");
  route.OnOpened();
  EXPECT_FALSE(route.waits_for_restore());
  route.OnBroken();
  for (int i = 0; i < 1000; ++i) {
    route.OnRefused(kSaved);
    ASSERT_TRUE(route.waits_for_restore());
    ASSERT_FALSE(route.hopeless());
    ASSERT_EQ(route.target(), "b");
    ASSERT_GT(route.delay(), milliseconds(0));
    ASSERT_LE(route.delay(), milliseconds(1000));
  }
  route.OnOpened();
  EXPECT_FALSE(route.waits_for_restore());
  EXPECT_EQ(route.delay(), milliseconds(0));
}

TEST(AttachRoute, AnyOtherAnswerEndsTheWaitForARestore) {
  for (const absl::Status& status : {kAway, kNotFound, WentToB()}) {
    AttachRoute route = OpenAtA();
    route.OnBroken();
    route.OnRefused(kSaved);
    EXPECT_TRUE(route.waits_for_restore());
    route.OnRefused(status);
    EXPECT_FALSE(route.waits_for_restore()) << status;
    EXPECT_FALSE(route.hopeless());
  }
}

TEST(AttachRoute, WhatWasDiscardedWhileItWasSavedIsGone) {
  AttachRoute route = OpenAtA();
  for (int i = 0; i < 50; ++i) route.OnRefused(kSaved);
  int tries = 0;
  for (; !route.hopeless() && tries < 100; ++tries) route.OnRefused(kNotFound);
  EXPECT_GT(tries, 1);
  EXPECT_LT(tries, 100);
}

TEST(AttachRoute, OnlyWhoeverWasAttachedWaitsForARestore) {
  AttachRoute stranger("a", false);
  stranger.OnRefused(kSaved);
  EXPECT_FALSE(stranger.waits_for_restore());
  EXPECT_TRUE(stranger.hopeless());
  // It was there a moment ago: this client has started it.
  AttachRoute starter("a", true);
  starter.OnRefused(kSaved);
  EXPECT_TRUE(starter.waits_for_restore());
  EXPECT_FALSE(starter.hopeless());
}

TEST(AttachRoute, AnotherAttacherIsFinal) {
  AttachRoute route = OpenAtA();
  route.OnBroken();
  route.OnRefused(absl::AlreadyExistsError("another client is attached"));
  EXPECT_TRUE(route.hopeless());
}

}  // namespace
}  // namespace ferry::ctl
