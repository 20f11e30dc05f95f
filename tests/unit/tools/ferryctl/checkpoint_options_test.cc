#include "tools/ferryctl/checkpoint_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ferry::ctl {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(CheckpointOptionsTest, ADiskIsNamedAndMayBeLeftOutOrGetAFile) {
  const auto plain = ParseDiskWish("root");
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ(plain->name(), "root");
  EXPECT_FALSE(plain->left_out());
  EXPECT_EQ(plain->file(), "");
  const auto out = ParseDiskWish("data,snapshot=no");
  ASSERT_TRUE(out.ok()) << out.status();
  EXPECT_EQ(out->name(), "data");
  EXPECT_TRUE(out->left_out());
  for (const char* text :
       {"root,file=/images/a=b.qcow2", "root,file=/images/a=b.qcow2,snapshot=external",
        "root,snapshot=external,file=/images/a=b.qcow2"}) {
    const auto wish = ParseDiskWish(text);
    ASSERT_TRUE(wish.ok()) << wish.status();
    EXPECT_EQ(wish->name(), "root") << text;
    EXPECT_FALSE(wish->left_out()) << text;
    EXPECT_EQ(wish->file(), "/images/a=b.qcow2") << text;
  }
}

TEST(CheckpointOptionsTest, WhatIsWrongIsNamed) {
  struct Case {
    const char* text;
    const char* why;
  };
  for (const Case& c : {
           Case{"", "the disk's name comes first"},
           Case{",snapshot=no", "the disk's name comes first"},
           Case{"file=/f,root", "the disk's name comes first"},
           Case{"root,", "unknown part \"\""},
           Case{"root,driver=qcow2", "unknown part \"driver=qcow2\""},
           Case{"root,ro", "unknown part \"ro\""},
           Case{"root,snapshot", "snapshot= is no or external"},
           Case{"root,snapshot=", "snapshot= is no or external"},
           Case{"root,snapshot=manual", "snapshot= is no or external"},
           Case{"root,snapshot=no,snapshot=external", "snapshot= is there twice"},
           Case{"root,file=/a,file=/a", "file= is there twice"},
           Case{"root,file=", "absolute path"},
           Case{"root,file=there.qcow2", "absolute path"},
           Case{"root,file=/a,snapshot=no", "left out"},
       }) {
    const absl::Status refused = ParseDiskWish(c.text).status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument) << c.text;
    EXPECT_THAT(std::string(refused.message()), HasSubstr(c.why)) << c.text;
    EXPECT_THAT(std::string(refused.message()), HasSubstr("write NAME[,")) << c.text;
  }
}

TEST(CheckpointOptionsTest, WhatIsInsideOfDisksIsSaidToBeASnapshot) {
  const std::string text(ParseDiskWish("root,snapshot=internal").status().message());
  EXPECT_THAT(text, HasSubstr("ferryctl snapshot save"));
  EXPECT_THAT(text, Not(HasSubstr("write NAME")));
}

TEST(CheckpointOptionsTest, EachDiskIsNamedOnce) {
  const auto wishes = ParseDiskWishes({"root", "data,snapshot=no"});
  ASSERT_TRUE(wishes.ok()) << wishes.status();
  ASSERT_EQ(wishes->size(), 2u);
  EXPECT_EQ((*wishes)[0].name(), "root");
  EXPECT_TRUE((*wishes)[1].left_out());
  EXPECT_TRUE(ParseDiskWishes({})->empty());
  EXPECT_THAT(std::string(ParseDiskWishes({"root", "data", "root,snapshot=no"}).status().message()),
              HasSubstr("disk \"root\" is named twice"));
  EXPECT_FALSE(ParseDiskWishes({"root", "data,x"}).ok());
}

}  // namespace
}  // namespace ferry::ctl
