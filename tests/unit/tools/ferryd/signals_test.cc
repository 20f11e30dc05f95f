#include "tools/ferryd/signals.h"

#include <gtest/gtest.h>

#include <csignal>

namespace ferry::tools {
namespace {

TEST(SignalsTest, WhatOnlyTellsOfSomethingEndsNothing) {
  EXPECT_EXIT(
      {
        IgnoreTellingSignals();
        std::raise(SIGPIPE);
        std::raise(SIGIO);
        std::_Exit(7);
      },
      ::testing::ExitedWithCode(7), "");
}

}  // namespace
}  // namespace ferry::tools
