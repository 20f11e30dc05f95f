#include "tools/ferryctl/detach_keys.h"

#include <gtest/gtest.h>

namespace ferry::ctl {
namespace {

// Everything that passes, typed in one go and key by key, up to where it is left.
std::string Pass(DetachKeys keys, const std::string& typed, bool* left) {
  DetachKeys again = keys;
  const std::string at_once = keys.Pass(typed, left);
  std::string one_by_one;
  bool over = false;
  for (const char key : typed) {
    if (!over) one_by_one += again.Pass(std::string(1, key), &over);
  }
  EXPECT_EQ(at_once, one_by_one);
  EXPECT_EQ(*left, over);
  return at_once;
}

TEST(DetachKeysTest, OnlyAllOfThemLeave) {
  bool left = false;
  EXPECT_EQ(Pass(DetachKeys(), "ls\r", &left), "ls\r");
  EXPECT_FALSE(left);
  EXPECT_EQ(Pass(DetachKeys(), "ls\x10\x11rest", &left), "ls");
  EXPECT_TRUE(left);
  // A lone one is passed on with the key that follows.
  EXPECT_EQ(Pass(DetachKeys(), "\x10", &left), "");
  EXPECT_FALSE(left);
  EXPECT_EQ(Pass(DetachKeys(), "\x10x", &left), "\x10x");
  EXPECT_EQ(Pass(DetachKeys(), "\x11\x10", &left), "\x11");
  EXPECT_FALSE(left);
  EXPECT_EQ(Pass(DetachKeys(), "\x10\x10\x11", &left), "\x10");
  EXPECT_TRUE(left);
}

TEST(DetachKeysTest, ABeginningInTheMiddleCounts) {
  bool left = false;
  const DetachKeys keys = *DetachKeys::Parse("a,a,b");
  EXPECT_EQ(Pass(keys, "aaab", &left), "a");
  EXPECT_TRUE(left);
  EXPECT_EQ(Pass(keys, "aac", &left), "aac");
  EXPECT_FALSE(left);
}

TEST(DetachKeysTest, KeysHaveNames) {
  bool left = false;
  EXPECT_EQ(
      Pass(*DetachKeys::Parse("ctrl-@,ctrl-_,CTRL-a,~"), std::string("x\0\x1f\x01~", 5), &left),
      "x");
  EXPECT_TRUE(left);
  for (const char* wrong : {"ctrl-", "ctrl-1", "alt-x", "ctrl-p,", ",", "\n", "ab"}) {
    EXPECT_FALSE(DetachKeys::Parse(wrong).ok()) << wrong;
  }
}

TEST(DetachKeysTest, WithoutKeysEverythingPasses) {
  bool left = false;
  EXPECT_EQ(Pass(*DetachKeys::Parse(""), "\x10\x11", &left), "\x10\x11");
  EXPECT_FALSE(left);
}

}  // namespace
}  // namespace ferry::ctl
