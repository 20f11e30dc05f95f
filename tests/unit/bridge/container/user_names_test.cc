#include "bridge/container/user_names.h"

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace ferry::bridge {
namespace {

using Ids = std::vector<uint32_t>;

const UserFiles kFiles{
    "root:x:0:0:root:/root:/bin/sh\n"
    "# a remark\n"
    "broken:x:no:7:::\n"
    "short:x:8\n"
    "web:x:33:34:Web:/srv/web:/bin/false\n"
    "homeless:x:40:41:\n"
    "homeless:x:42:41:::\n"
    "1000:x:50:51::/home/number:\n",
    "root:x:0:\n"
    "web:x:34:\n"
    "disk:x:6:root,web\n"
    "audio:x:29:web\n"
    "again:x:29:web\n"
    "webmasters:x:60:webmaster\n"
    "bad:x:-1:web\n"};

TEST(UserNamesTest, ANameIsWhatThePasswdFileSays) {
  const auto web = ResolveUser("web", kFiles);
  ASSERT_TRUE(web.ok()) << web.status();
  EXPECT_EQ(web->uid, 33u);
  EXPECT_EQ(web->gid, 34u);
  EXPECT_EQ(web->home, "/srv/web");
  EXPECT_EQ(web->additional_gids, (Ids{6, 29}));
}

TEST(UserNamesTest, ANumberIsLookedUpToo) {
  const auto web = ResolveUser("33", kFiles);
  ASSERT_TRUE(web.ok()) << web.status();
  EXPECT_EQ(web->gid, 34u);
  EXPECT_EQ(web->additional_gids, (Ids{6, 29}));
  // A name that looks like a number is a name first.
  EXPECT_EQ(ResolveUser("1000", kFiles)->uid, 50u);
}

TEST(UserNamesTest, ANumberThatNobodyKnowsIsTakenAsItIs) {
  for (const UserFiles& files : {kFiles, UserFiles()}) {
    const auto user = ResolveUser("4242", files);
    ASSERT_TRUE(user.ok()) << user.status();
    EXPECT_EQ(user->uid, 4242u);
    EXPECT_EQ(user->gid, 0u);
    EXPECT_EQ(user->home, "/");
    EXPECT_TRUE(user->additional_gids.empty());
  }
}

TEST(UserNamesTest, AGivenGroupIsTheOnlyOne) {
  for (const char* text : {"web:disk", "33:6", "web:6"}) {
    const auto user = ResolveUser(text, kFiles);
    ASSERT_TRUE(user.ok()) << text << ": " << user.status();
    EXPECT_EQ(user->uid, 33u) << text;
    EXPECT_EQ(user->gid, 6u) << text;
    EXPECT_TRUE(user->additional_gids.empty()) << text;
  }
  EXPECT_EQ(ResolveUser("7:4242", kFiles)->gid, 4242u);
}

TEST(UserNamesTest, AnUnknownNameIsRefusedByItsName) {
  const auto user = ResolveUser("nobody", kFiles);
  EXPECT_TRUE(absl::IsInvalidArgument(user.status()));
  EXPECT_NE(user.status().message().find("/etc/passwd knows no user 'nobody'"),
            absl::string_view::npos);
  const auto group = ResolveUser("web:wheel", kFiles);
  EXPECT_TRUE(absl::IsInvalidArgument(group.status()));
  EXPECT_NE(group.status().message().find("/etc/group knows no group 'wheel'"),
            absl::string_view::npos);
  EXPECT_FALSE(ResolveUser("root", UserFiles()).ok());
}

TEST(UserNamesTest, LinesThatCannotBeReadArePassedOver) {
  EXPECT_FALSE(ResolveUser("broken", kFiles).ok());
  EXPECT_FALSE(ResolveUser("short", kFiles).ok());
  const auto homeless = ResolveUser("homeless", kFiles);
  ASSERT_TRUE(homeless.ok()) << homeless.status();
  EXPECT_EQ(homeless->uid, 42u);
  EXPECT_EQ(homeless->home, "/");
}

TEST(UserNamesTest, RefusesWhatIsNoUser) {
  for (const std::string& text :
       {std::string(), std::string(":"), std::string(":0"), std::string("web:"),
        std::string("web:disk:6"), std::string("a b"), std::string("a\nb"), std::string("-1"),
        std::string("4294967295"), std::string("4294967296"), std::string("0:4294967295"),
        std::string(257, 'a')}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ResolveUser(text, kFiles).status())) << text;
  }
}

TEST(UserNamesTest, RefusesMoreGroupsThanAProcessShouldHave) {
  UserFiles files = kFiles;
  for (int gid = 1; gid <= 1025; ++gid) absl::StrAppend(&files.group, "g:x:", gid, ":web\n");
  EXPECT_TRUE(absl::IsInvalidArgument(ResolveUser("web", files).status()));
  EXPECT_TRUE(ResolveUser("root", files).ok());
}

}  // namespace
}  // namespace ferry::bridge
