#include "tools/ferryctl/log_positions.h"

#include <gtest/gtest.h>

namespace ferry::ctl {
namespace {

v1::ReadOutputResponse::Part Part(v1::StdioStream stream, uint64_t offset, const std::string& data,
                                  uint64_t end, bool ended) {
  v1::ReadOutputResponse::Part part;
  part.set_stream(stream);
  part.set_generation(7);
  part.set_offset(offset);
  part.set_data(data);
  part.set_end(end);
  part.set_ended(ended);
  return part;
}

TEST(LogPositionsTest, OneOffsetIsForBothStreams) {
  const auto both = LogPositions::Parse("4096");
  ASSERT_TRUE(both.ok());
  EXPECT_EQ(both->stdout_next(), 4096u);
  EXPECT_EQ(both->stderr_next(), 4096u);
  const auto each = LogPositions::Parse("10,0");
  ASSERT_TRUE(each.ok());
  EXPECT_EQ(each->stdout_next(), 10u);
  EXPECT_EQ(each->stderr_next(), 0u);
}

TEST(LogPositionsTest, OtherThingsAreRefused) {
  for (const char* text : {"", "x", "-1", "1,", ",1", "1,2,3", "10m", "2026-01-31"}) {
    const auto parsed = LogPositions::Parse(text);
    EXPECT_FALSE(parsed.ok()) << text;
    EXPECT_NE(parsed.status().message().find("number of bytes"), std::string::npos) << text;
  }
}

TEST(LogPositionsTest, TellsWhatIsMissingAndWhatIsLeft) {
  LogPositions positions = *LogPositions::Parse("10");
  EXPECT_EQ(positions.Take(Part(v1::STDIO_STREAM_STDOUT, 15, "abc", 20, true)), 5u);
  EXPECT_EQ(positions.Take(Part(v1::STDIO_STREAM_STDERR, 10, "", 10, true)), 0u);
  EXPECT_FALSE(positions.caught_up());
  EXPECT_EQ(positions.stdout_next(), 18u);
  EXPECT_EQ(positions.Take(Part(v1::STDIO_STREAM_STDOUT, 18, "de", 20, true)), 0u);
  EXPECT_TRUE(positions.caught_up());
  EXPECT_TRUE(positions.ended());
  EXPECT_EQ(positions.Rest().std_out->offset(), 20u);
  EXPECT_EQ(positions.Rest().std_out->generation(), 7u);
}

TEST(LogPositionsTest, OneThatLiesBehindTheEndStaysThere) {
  LogPositions positions = *LogPositions::Parse("100");
  EXPECT_EQ(positions.Take(Part(v1::STDIO_STREAM_STDOUT, 20, "", 20, false)), 0u);
  EXPECT_EQ(positions.stdout_next(), 100u);
  EXPECT_EQ(positions.Rest().std_out->offset(), 100u);
  EXPECT_EQ(positions.Rest().std_out->generation(), 7u);
  EXPECT_TRUE(positions.caught_up());
  EXPECT_FALSE(positions.ended());
}

TEST(LogPositionsTest, WhatIsWrittenAgainIsReadAgain) {
  LogPositions positions = *LogPositions::Parse("0");
  positions.Take(Part(v1::STDIO_STREAM_STDOUT, 0, "abc", 3, false));
  v1::ReadOutputResponse::Part again = Part(v1::STDIO_STREAM_STDOUT, 0, "a", 1, false);
  again.set_generation(8);
  positions.Take(again);
  EXPECT_EQ(positions.stdout_next(), 1u);
}

TEST(LogPositionsTest, AfterAVmWentBackItGoesOnWhereThatBegins) {
  LogPositions positions = *LogPositions::Parse("0");
  EXPECT_FALSE(positions.GoesBack(Part(v1::STDIO_STREAM_STDOUT, 0, "abcdef", 6, false)));
  positions.Take(Part(v1::STDIO_STREAM_STDOUT, 0, "abcdef", 6, false));
  // As it is asked for: behind all that is there now.
  v1::ReadOutputResponse::Part later = Part(v1::STDIO_STREAM_STDOUT, 4, "", 4, false);
  later.set_generation(8);
  later.set_went_back_at(3);
  EXPECT_TRUE(positions.GoesBack(later));
  EXPECT_EQ(positions.stdout_next(), 3u);
  EXPECT_FALSE(positions.caught_up());
  EXPECT_FALSE(positions.GoesBack(later));
}

TEST(LogPositionsTest, WhoHasNotReadSoFarMissesNothing) {
  LogPositions positions = *LogPositions::Parse("0");
  positions.Take(Part(v1::STDIO_STREAM_STDOUT, 0, "abc", 10, false));
  v1::ReadOutputResponse::Part later = Part(v1::STDIO_STREAM_STDOUT, 3, "defg", 7, false);
  later.set_generation(8);
  later.set_went_back_at(6);
  EXPECT_TRUE(positions.GoesBack(later));
  EXPECT_EQ(positions.stdout_next(), 3u);
}

TEST(LogPositionsTest, WhatIsKeptOfAnEndedProcessIsNoEarlierState) {
  LogPositions positions = *LogPositions::Parse("0");
  positions.Take(Part(v1::STDIO_STREAM_STDOUT, 0, "abc", 3, false));
  v1::ReadOutputResponse::Part kept = Part(v1::STDIO_STREAM_STDOUT, 3, "de", 5, true);
  kept.set_generation(0);
  EXPECT_FALSE(positions.GoesBack(kept));
}

TEST(LogPositionsTest, GoesOnWhereAWatcherCameTo) {
  LogPositions positions = *LogPositions::Parse("0");
  WatchFrom came_to = positions.Rest();
  came_to.std_out->set_offset(30);
  came_to.std_err.reset();
  positions.GoOnFrom(came_to);
  EXPECT_EQ(positions.stdout_next(), 30u);
  EXPECT_EQ(positions.stderr_next(), 0u);
}

}  // namespace
}  // namespace ferry::ctl
