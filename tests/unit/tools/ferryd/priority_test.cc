#include "tools/ferryd/priority.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <thread>

namespace ferry::tools {
namespace {

int Niceness() { return ::getpriority(PRIO_PROCESS, 0); }

// Each in a thread of its own, which takes its niceness with it.
TEST(SetNiceness, TakesEffectAndSaysWhatWasBefore) {
  const int usual = Niceness();
  std::thread thread([usual] {
    EXPECT_EQ(SetNiceness(usual + 3), usual);
    EXPECT_EQ(Niceness(), usual + 3);
    std::thread child([usual] { EXPECT_EQ(Niceness(), usual + 3); });
    child.join();
  });
  thread.join();
  EXPECT_EQ(Niceness(), usual);
}

TEST(SetNiceness, WhatIsNotPermittedChangesNothing) {
  std::thread thread([] {
    const int usual = Niceness();
    rlimit none{};
    ASSERT_EQ(::setrlimit(RLIMIT_NICE, &none), 0);
    // Some may do it all the same; whoever may not stays as he is.
    const bool permitted = ::setpriority(PRIO_PROCESS, 0, usual - 1) == 0;
    ASSERT_EQ(::setpriority(PRIO_PROCESS, 0, usual), 0);
    EXPECT_EQ(SetNiceness(usual - 1), usual);
    EXPECT_EQ(Niceness(), permitted ? usual - 1 : usual);
  });
  thread.join();
}

}  // namespace
}  // namespace ferry::tools
