#include "vmmanager/rpc/printable.h"

#include <gtest/gtest.h>

namespace ferry::rpc {
namespace {

TEST(PrintableTest, WhatIsUtf8Stays) {
  const std::string text = "a\u00e9\u20ac\U0001f600\n\"";
  EXPECT_EQ(Printable(text, 100), text);
}

TEST(PrintableTest, OtherBytesAreEscaped) {
  for (const char* bad : {"\x80", "\xc0", "\xc1", "\xf5", "\xff", "\xc3", "\xe2\x82"}) {
    const std::string printable = Printable(bad, 100);
    EXPECT_EQ(printable.substr(0, 2), "\\x") << printable;
  }
  // Too long a form, half of a pair, and more than there is.
  EXPECT_EQ(Printable("\xe0\x80\x80", 100), "\\xe0\\x80\\x80");
  EXPECT_EQ(Printable("\xed\xa0\x80", 100), "\\xed\\xa0\\x80");
  EXPECT_EQ(Printable("\xf4\x90\x80\x80", 100), "\\xf4\\x90\\x80\\x80");
  EXPECT_EQ(Printable("\xf0\x80\x80\x80", 100), "\\xf0\\x80\\x80\\x80");
  EXPECT_EQ(Printable("a\xffz", 100), "a\\xffz");
}

TEST(PrintableTest, OneLineSteersNoTerminal) {
  EXPECT_EQ(PrintableLine("a\x1b[2J\r\nb\x7f", 100), "a?[2J??b?");
  EXPECT_EQ(PrintableLine("a\xc2\x9b"
                          "31m",
                          100),
            "a?31m");
  EXPECT_EQ(PrintableLine("na\xc3\xafve", 100), "na\xc3\xafve");
}

TEST(PrintableTest, CutsBetweenCharacters) {
  EXPECT_EQ(Printable("abc", 2), "ab");
  EXPECT_EQ(Printable("a\u20ac", 3), "a");
  EXPECT_EQ(Printable("a\u20ac", 4), "a\u20ac");
  EXPECT_EQ(Printable("a\xff", 4), "a");
}

}  // namespace
}  // namespace ferry::rpc
