#include "tools/ferryctl/command.h"

#include <gtest/gtest.h>

#include <vector>

#include "tools/ferryctl/exit_codes.h"

namespace ferry::ctl {
namespace {

int Ferryctl(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "ferryctl");
  return RunFerryctl(static_cast<int>(arguments.size()), arguments.data());
}

TEST(RunFerryctl, WrongUsageIsTwo) {
  EXPECT_EQ(Ferryctl({}), kUsage);
  EXPECT_EQ(Ferryctl({"nonsense"}), kUsage);
  EXPECT_EQ(Ferryctl({"vm", "create"}), kUsage);
  EXPECT_EQ(Ferryctl({"vm", "create", "web", "--memory", "12Q"}), kUsage);
  EXPECT_EQ(Ferryctl({"vm", "create", "web", "--disk", "nofile"}), kUsage);
  EXPECT_EQ(Ferryctl({"--output", "xml", "list"}), kUsage);
  EXPECT_EQ(Ferryctl({"migrate", "web", "--to", "nowhere"}), kUsage);
  EXPECT_EQ(Ferryctl({"migrate", "web", "--to", "b:1", "--downtime-limit", "10"}), kUsage);
  EXPECT_EQ(Ferryctl({"kill", "-s", "WHAT", "web", "1"}), kUsage);
}

// 2 may be the command's own status.
TEST(RunFerryctl, WrongUsageOfExecAndAttachIs125) {
  EXPECT_EQ(Ferryctl({"exec"}), kExecFailed);
  EXPECT_EQ(Ferryctl({"exec", "web"}), kExecFailed);
  EXPECT_EQ(Ferryctl({"exec", "--nonsense", "web", "--", "ls"}), kExecFailed);
  EXPECT_EQ(Ferryctl({"exec", "-e", "NOVALUE", "web", "--", "ls"}), kExecFailed);
  EXPECT_EQ(Ferryctl({"--output", "xml", "exec", "web", "--", "ls"}), kExecFailed);
  EXPECT_EQ(Ferryctl({"--host", "x", "exec", "web", "--", "ls"}), kExecFailed);
  EXPECT_EQ(Ferryctl({"attach"}), kExecFailed);
  EXPECT_EQ(Ferryctl({"attach", "web", "seven"}), kExecFailed);
  EXPECT_EQ(Ferryctl({"attach", "web", "7", "8"}), kExecFailed);
}

TEST(RunFerryctl, HelpAndVersionAreFine) {
  EXPECT_EQ(Ferryctl({"--help"}), kOk);
  EXPECT_EQ(Ferryctl({"exec", "--help"}), kOk);
  EXPECT_EQ(Ferryctl({"version"}), kOk);
}

TEST(RunFerryctl, AnAbsentDaemonIsThreeAndForExec125) {
  const char* host = "unix:/nonexistent/ferryd.sock";
  EXPECT_EQ(Ferryctl({"--host", host, "list"}), kUnreachable);
  EXPECT_EQ(Ferryctl({"--host", host, "vm", "list"}), kUnreachable);
  EXPECT_EQ(Ferryctl({"--host", host, "--output", "json", "host"}), kUnreachable);
  EXPECT_EQ(Ferryctl({"--host", host, "start", "web"}), kUnreachable);
  EXPECT_EQ(Ferryctl({"--host", host, "events"}), kUnreachable);
  EXPECT_EQ(Ferryctl({"--host", host, "migration", "list"}), kUnreachable);
  EXPECT_EQ(Ferryctl({"--host", host, "migrate", "web", "--to", "b:1"}), kUnreachable);
  EXPECT_EQ(Ferryctl({"--host", host, "exec", "web", "--", "ls", "-l"}), kExecFailed);
  EXPECT_EQ(Ferryctl({"--host", host, "attach", "web", "7"}), kExecFailed);
}

TEST(RunFerryctl, ABadHostAddressIsUsage) { EXPECT_EQ(Ferryctl({"--host", "x", "list"}), kUsage); }

}  // namespace
}  // namespace ferry::ctl
