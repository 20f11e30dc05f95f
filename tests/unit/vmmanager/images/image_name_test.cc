#include "vmmanager/images/image_name.h"

#include <gtest/gtest.h>

namespace ferry::vm {
namespace {

TEST(ImageNameTest, ATagIsAddedWhereThereIsNone) {
  EXPECT_EQ(*FullImageName("web"), "web:latest");
  EXPECT_EQ(*FullImageName("web:1.2-RC"), "web:1.2-RC");
  EXPECT_EQ(*FullImageName("team/sub_team/web-app:1"), "team/sub_team/web-app:1");
  EXPECT_EQ(*FullImageName("localhost:5000/web"), "localhost:5000/web:latest");
  EXPECT_EQ(*FullImageName("registry.example.net:443/a/b:c"), "registry.example.net:443/a/b:c");
}

TEST(ImageNameTest, AnythingElseIsRefused) {
  for (const std::string& name :
       {std::string(), std::string("Web"), std::string("web:"), std::string(":1"),
        std::string("web:a:b"), std::string("a//b"), std::string("/a"), std::string("a/"),
        std::string("../a"), std::string("a/../b"), std::string("-a"), std::string("a-"),
        std::string("a b"), std::string("a\n"), std::string("a\0b", 3), std::string("a:.x"),
        std::string("a:port/b"), std::string("a@sha256:0"), std::string(300, 'a'),
        "a:" + std::string(129, 't'),
        // These stand for ids.
        std::string(64, 'a'), "sha256:" + std::string(64, '0')}) {
    EXPECT_EQ(FullImageName(name).status().code(), absl::StatusCode::kInvalidArgument) << name;
  }
}

TEST(ImageNameTest, DigitsFromTwelveOnMayBeginAnId) {
  const std::string whole(64, 'a');
  EXPECT_EQ(ImageIdBegin("sha256:" + whole), "sha256:" + whole);
  EXPECT_EQ(ImageIdBegin(whole), "sha256:" + whole);
  EXPECT_EQ(ImageIdBegin("0123456789ab"), "sha256:0123456789ab");
  for (const std::string& other : {std::string("0123456789a"), whole + "a",
                                   std::string("0123456789aB"), std::string("web:0123456789ab")}) {
    EXPECT_EQ(ImageIdBegin(other), "") << other;
  }
}

}  // namespace
}  // namespace ferry::vm
