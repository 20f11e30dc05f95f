#include "vmmanager/rpc/caller.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>

#include "bridge/runtime/unique_fd.h"

namespace ferry::rpc {
namespace {

TEST(CallerTest, WhoCallsLocallyIsRootOrTheDaemonsUser) {
  constexpr uid_t kDaemon = 12345;
  int pair[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  const UniqueFd ours(pair[0]);
  const UniqueFd other(pair[1]);
  const std::string address = "fd:" + std::to_string(ours.get());
  EXPECT_EQ(LocalUser(address, kDaemon), ::geteuid() == 0 ? 0 : kDaemon);
  // A daemon of root serves nobody else, whatever has become of the descriptor.
  EXPECT_EQ(LocalUser(address, 0), 0u);
  EXPECT_EQ(LocalUser("fd:1000000", 0), 0u);
  for (const char* gone : {"fd:1000000", "fd:", "fd:x", "fd:-1"}) {
    EXPECT_EQ(LocalUser(gone, kDaemon), kDaemon) << gone;
  }
}

TEST(CallerTest, WhoCannotBeToldHasNoRole) {
  const Caller caller = CallerWithCertificate({"ferry://a/admin", "ferry://b/admin"});
  EXPECT_EQ(caller.way, Caller::Way::kCertificate);
  EXPECT_EQ(caller.identity.name, "");
  EXPECT_TRUE(caller.identity.roles.empty());
  EXPECT_EQ(CallerWithCertificate({"ferry://a/admin"}).identity.name, "a");
}

}  // namespace
}  // namespace ferry::rpc
