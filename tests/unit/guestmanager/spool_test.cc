#include "guestmanager/spool.h"

#include <gtest/gtest.h>

#include <limits>

namespace ferry::guest {
namespace {

constexpr uint64_t kNobody = std::numeric_limits<uint64_t>::max();

TEST(SpoolTest, KeepsTheNewestWithAbsoluteOffsets) {
  Spool spool(4);
  spool.Append("abcdef", kNobody);
  EXPECT_EQ(spool.start(), 2u);
  EXPECT_EQ(spool.end(), 6u);
  EXPECT_EQ(spool.Read(3, 2), "de");
  EXPECT_EQ(spool.Read(1, 2), "");
  EXPECT_EQ(spool.Read(6, 2), "");
}

TEST(SpoolTest, ProtectedBytesStayAndStopTheSource) {
  Spool spool(4);
  spool.Append("abc", 1);
  EXPECT_TRUE(spool.HasRoom(1));
  spool.Append("def", 1);
  EXPECT_EQ(spool.start(), 1u);
  EXPECT_FALSE(spool.HasRoom(1));
  EXPECT_TRUE(spool.HasRoom(3));
  EXPECT_TRUE(spool.HasRoom(kNobody));
}

TEST(SpoolTest, RestoredSpoolGoesOn) {
  Spool spool(10, 100, "xyz");
  spool.Append("!", kNobody);
  EXPECT_EQ(spool.Read(100, 10), "xyz!");
}

}  // namespace
}  // namespace ferry::guest
