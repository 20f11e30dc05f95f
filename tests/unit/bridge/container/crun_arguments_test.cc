#include "bridge/container/crun_arguments.h"

#include <gtest/gtest.h>

#include "absl/strings/str_join.h"

namespace ferry::bridge {
namespace {

constexpr char kGlobal[] =
    "/usr/bin/crun --root /run/crun --cgroup-manager cgroupfs --log /run/w/1.log ";

class CrunArgumentsTest : public testing::Test {
 protected:
  static void Expect(const std::vector<std::string>& words, const std::string& rest) {
    EXPECT_EQ(absl::StrJoin(words, " "), kGlobal + rest);
  }
  const CrunCommands commands_{"/usr/bin/crun", "/run/crun"};
  const CrunFiles files_{"/run/w/1"};
};

TEST_F(CrunArgumentsTest, Create) {
  Expect(commands_.Create(files_, "id", "/b", false),
         "create --bundle /b --pid-file /run/w/1.pid id");
  Expect(commands_.Create(files_, "id", "/b", true),
         "create --bundle /b --pid-file /run/w/1.pid --console-socket /run/w/1.console id");
}

TEST_F(CrunArgumentsTest, Exec) {
  Expect(commands_.Exec(files_, "id", false),
         "exec --detach --process /run/w/1.json --pid-file /run/w/1.pid id");
  Expect(commands_.Exec(files_, "id", true),
         "exec --detach --process /run/w/1.json --pid-file /run/w/1.pid "
         "--console-socket /run/w/1.console id");
}

TEST_F(CrunArgumentsTest, TheRest) {
  Expect(commands_.Simple(files_, "pause", "id"), "pause id");
  Expect(commands_.Update(files_, "id"), "update --resources /run/w/1.json id");
  Expect(commands_.Delete(files_, "id"), "delete --force id");
}

TEST_F(CrunArgumentsTest, WhatItSaysIsItsLastLineWithoutTheTime) {
  EXPECT_EQ(LastLogLine(""), "");
  EXPECT_EQ(LastLogLine("2026-01-02T03:04:05.678Z: first\n2026-01-02T03:04:06.678Z: no such: Z\n"),
            "no such: Z");
  EXPECT_EQ(LastLogLine("plain"), "plain");
}

}  // namespace
}  // namespace ferry::bridge
