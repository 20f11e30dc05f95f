#include "bridge/protocol/log_record.h"

#include <gtest/gtest.h>

namespace ferry::bridge {
namespace {

TEST(LogRecordTest, ComesBackAsItWas) {
  const LogRecord record{.sequence = 12, .level = LogLevel::kWarning, .message = "a \"b\"\n\x01"};
  const std::string line = Encode(record);
  EXPECT_EQ(line.back(), '\n');
  EXPECT_EQ(line.find('\n'), line.size() - 1);
  EXPECT_EQ(DecodeLogLine(std::string_view(line).substr(0, line.size() - 1)), record);
}

TEST(LogRecordTest, OfHcsshimsAgentIsUnderstood) {
  const LogRecord record =
      DecodeLogLine(R"({"level":"error","msg":"no disk","time":"2026-01-01T00:00:00Z","cid":"a"})");
  EXPECT_EQ(record.level, LogLevel::kError);
  EXPECT_EQ(record.message, "no disk");
  EXPECT_EQ(record.sequence, 0u);
}

TEST(LogRecordTest, WhatIsNoRecordIsAMessage) {
  for (const char* text : {"panic: it is over", "{\"level\":\"info\"}", "{\"msg\":7}", "[]", "{"}) {
    const LogRecord record = DecodeLogLine(text);
    EXPECT_EQ(record.message, text);
    EXPECT_EQ(record.sequence, 0u);
  }
}

TEST(LogRecordTest, AcknowledgementsAreNumbers) {
  EXPECT_EQ(EncodeLogAck(77), "77\n");
  EXPECT_EQ(DecodeLogAck("77"), 77u);
  for (const char* text : {"", "x", "-1", "99999999999999999999", "1 2"}) {
    EXPECT_EQ(DecodeLogAck(text), std::nullopt) << text;
  }
}

TEST(LogLinesTest, LinesArriveInPieces) {
  LogLines lines;
  lines.Append("on");
  EXPECT_EQ(lines.Next(), std::nullopt);
  lines.Append("e\ntwo\n\nthr");
  EXPECT_EQ(lines.Next(), "one");
  EXPECT_EQ(lines.Next(), "two");
  EXPECT_EQ(lines.Next(), "");
  EXPECT_EQ(lines.Next(), std::nullopt);
}

TEST(LogLinesTest, ALineThatDoesNotEndIsCut) {
  LogLines lines;
  int told = 0;
  for (int i = 0; i < 1000; ++i) {
    lines.Append(std::string(1000, 'x'));
    while (const auto line = lines.Next()) {
      EXPECT_EQ(line->size(), kMaxLogLine);
      ++told;
    }
  }
  EXPECT_EQ(told, 1);
  lines.Append("\nnext\n");
  EXPECT_EQ(lines.Next(), "next");
}

}  // namespace
}  // namespace ferry::bridge
