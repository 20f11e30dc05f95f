#include "vmmanager/identity/identity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ferry::identity {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(IdentityTest, SeveralUrisGiveOneNameWithAllItsRoles) {
  auto who = IdentityFromUris({"https://example.net/x", RoleUri("host-a", Role::kPeer),
                               "ferry://host-a/operator", "spiffe://x/y"});
  ASSERT_TRUE(who.ok()) << who.status();
  EXPECT_EQ(who->name, "host-a");
  EXPECT_TRUE(who->roles.Has(Role::kPeer));
  EXPECT_TRUE(who->roles.Has(Role::kOperator));
  EXPECT_FALSE(who->roles.Has(Role::kAdmin));
  EXPECT_THAT(who->roles.Names(), ElementsAre("operator", "peer"));
}

TEST(IdentityTest, RolesOfALaterVersionPermitNothing) {
  auto who =
      IdentityFromUris({"ferry://host-a/superadmin", "ferry://host-a/", "ferry://host-a/Admin"});
  ASSERT_TRUE(who.ok()) << who.status();
  EXPECT_EQ(who->name, "host-a");
  EXPECT_TRUE(who->roles.empty());
  auto nobody = IdentityFromUris({});
  ASSERT_TRUE(nobody.ok());
  EXPECT_EQ(nobody->name, "");
  EXPECT_TRUE(nobody->roles.empty());
}

TEST(IdentityTest, WhoCannotBeToldIsNobody) {
  for (const char* uri : {"ferry://", "ferry://host-a", "ferry:///admin", "ferry://a b/admin",
                          "ferry://host%2Fa/admin", "ferry://../admin", "ferry://-x/admin"}) {
    EXPECT_EQ(IdentityFromUris({uri}).status().code(), absl::StatusCode::kUnauthenticated) << uri;
  }
  const auto two = IdentityFromUris({"ferry://host-a/peer", "ferry://host-b/admin"});
  EXPECT_EQ(two.status().code(), absl::StatusCode::kUnauthenticated);
  EXPECT_THAT(std::string(two.status().message()), HasSubstr("both host-a and host-b"));
  // What follows the role is part of it, so nothing can be hidden behind it.
  EXPECT_TRUE(IdentityFromUris({"ferry://host-a/admin/x"})->roles.empty());
  EXPECT_TRUE(IdentityFromUris({std::string("ferry://host-a/admin\0x", 22)})->roles.empty());
}

TEST(IdentityTest, RolesAreReadByTheirNames) {
  for (Role role : kAllRoles) EXPECT_EQ(*ParseRole(ToString(role)), role);
  EXPECT_THAT(std::string(ParseRole("root").status().message()),
              HasSubstr("viewer, operator, admin and peer"));
}

}  // namespace
}  // namespace ferry::identity
