#include "tools/ferryd/config.h"

#include <gmock/gmock.h>

#include <fstream>

namespace ferry::tools {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

absl::StatusOr<FerrydConfig> Parse(std::vector<std::string> words) {
  words.insert(words.begin(), "ferryd");
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  int exit_code = 0;
  return ParseCommandLine(static_cast<int>(argv.size()), argv.data(), &exit_code);
}

class ConfigFileTest : public ::testing::Test {
 protected:
  ConfigFileTest()
      : path_(::testing::TempDir() + "ferryd-" + std::to_string(::getpid()) + ".yaml") {}
  ~ConfigFileTest() override { ::unlink(path_.c_str()); }

  absl::StatusOr<FerrydConfig> ParseFile(const std::string& text,
                                         std::vector<std::string> more = {}) {
    std::ofstream(path_) << text;
    more.insert(more.begin(), {"--config", path_});
    return Parse(more);
  }
  std::string Error(const std::string& text) {
    auto config = ParseFile(text);
    EXPECT_TRUE(absl::IsInvalidArgument(config.status())) << config.status();
    return std::string(config.status().message());
  }

  std::string path_;
};

TEST(ConfigTest, APlainDaemonServesWhereAPlainClientLooks) {
  EXPECT_EQ(Parse({})->socket, rpc::kDefaultSocket);
  EXPECT_EQ(Parse({})->advertise, std::string("unix:") + rpc::kDefaultSocket);
  EXPECT_EQ(Parse({"--state-dir", "/srv/ferry"})->socket, "/srv/ferry/ferryd.sock");
  const std::string longest = "/" + std::string(79, 'd');
  EXPECT_TRUE(Parse({"--state-dir", longest}).ok());
  EXPECT_THAT(std::string(Parse({"--state-dir", longest + "d"}).status().message()),
              HasSubstr("a path of 81 bytes"));
  EXPECT_EQ(Parse({"--socket", "/tmp/s"})->socket, "/tmp/s");
}

TEST(ConfigTest, LocksLieWhereItIsSaid) {
  EXPECT_EQ(Parse({})->fence_lock_dir, "");
  EXPECT_EQ(Parse({"--fence-lock-dir", "/srv/locks"})->fence_lock_dir, "/srv/locks");
  EXPECT_THAT(std::string(Parse({"--fence-lock-dir", "locks"}).status().message()),
              HasSubstr("absolute path"));
}

TEST(ConfigTest, WhatBecomesOfVmsWhenTheirHostGoesDown) {
  const auto plain = Parse({});
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_FALSE(plain->stop_vms || plain->save_on_stop);
  EXPECT_EQ(plain->stop_vms_within, milliseconds(300'000));
  EXPECT_EQ(plain->unattended_save, "shutdown");
  const auto config = Parse(
      {"--stop-vms", "--stop-vms-within", "2.5", "--unattended-save", "require", "--save-on-stop"});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(config->stop_vms && config->save_on_stop);
  EXPECT_EQ(config->stop_vms_within, milliseconds(2'500));
  EXPECT_EQ(config->unattended_save, "require");
  for (const char* bad : {"0", "0.9", "-1", "86401", "soon"}) {
    EXPECT_FALSE(Parse({"--stop-vms-within", bad}).ok()) << bad;
  }
  EXPECT_FALSE(Parse({"--unattended-save", "maybe"}).ok());
}

TEST(ConfigTest, BridgesMayHaveOtherNamesHere) {
  EXPECT_TRUE(Parse({})->bridges.empty());
  const auto config = Parse({"--bridge", "br0=lan0", "--bridge", "br1=wan0"});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->bridges,
            (std::map<std::string, std::string>{{"br0", "lan0"}, {"br1", "wan0"}}));
  for (const char* bad :
       {"", "br0", "br0=", "=lan0", "br0=a=b", "br0=lan 0", "br0=lan%d", "br0=sixteen-letters-"}) {
    EXPECT_FALSE(Parse({"--bridge", bad}).ok()) << bad;
  }
  EXPECT_FALSE(Parse({"--bridge", "br0=lan0", "--bridge", "br0=lan1"}).ok());
}

TEST(ConfigTest, AgentsAreReachedOverVsockWhereItWorksUnlessSomebodyChose) {
  int asked = 0;
  const auto uses = [&asked](std::vector<std::string> words, bool works) {
    const auto config = Parse(std::move(words));
    EXPECT_TRUE(config.ok()) << config.status();
    return UsesVsock(*config, [&asked, works] {
      ++asked;
      return works;
    });
  };
  EXPECT_TRUE(uses({}, true));
  EXPECT_FALSE(uses({}, false));
  EXPECT_TRUE(uses({"--guest-link", "auto"}, true));
  EXPECT_FALSE(uses({"--guest-link", "auto"}, false));
  EXPECT_EQ(asked, 4);
  EXPECT_TRUE(uses({"--guest-link", "vsock"}, false));
  EXPECT_FALSE(uses({"--guest-link", "virtio-serial"}, true));
  EXPECT_EQ(asked, 4);
  EXPECT_FALSE(Parse({"--guest-link", "tcp"}).ok());
}

TEST(ConfigTest, EveryTcpListenerNeedsCertificatesOrConsent) {
  for (const char* flag : {"--listen", "--migration-listen"}) {
    const auto refused = Parse({flag, "127.0.0.1:7700"});
    EXPECT_THAT(std::string(refused.status().message()), HasSubstr("needs certificates")) << flag;
    EXPECT_TRUE(Parse({flag, "127.0.0.1:7700", "--insecure-tcp"}).ok()) << flag;
    EXPECT_TRUE(
        Parse({flag, "127.0.0.1:7700", "--tls-ca", "a", "--tls-cert", "b", "--tls-key", "c"}).ok())
        << flag;
  }
  // Where nobody asked for TCP, migrations do not open a port either.
  EXPECT_EQ(Parse({})->migration_listen, "");
  EXPECT_NE(Parse({"--insecure-tcp"})->migration_listen, "");
}

TEST_F(ConfigFileTest, GivesValuesAndFlagsWin) {
  auto config = ParseFile("state-dir: /srv/a\nlisten:\n  - h:1\n  - h:2\ninsecure-tcp: true\n",
                          {"--state-dir", "/srv/b"});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->state_dir, "/srv/b");
  EXPECT_EQ(config->listen, (std::vector<std::string>{"h:1", "h:2"}));
  EXPECT_TRUE(config->insecure_tcp);
  EXPECT_TRUE(ParseFile("").ok());
}

TEST_F(ConfigFileTest, SaysWhatBecomesOfVmsWhenTheirHostGoesDown) {
  const auto config = ParseFile(
      "stop-vms: true\nstop-vms-within: 60\nunattended-save: require\nsave-on-stop: true\n");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(config->stop_vms && config->save_on_stop);
  EXPECT_EQ(config->stop_vms_within, milliseconds(60'000));
  EXPECT_EQ(config->unattended_save, "require");
  EXPECT_FALSE(ParseFile("unattended-save: maybe\n").ok());
  EXPECT_FALSE(ParseFile("stop-vms-within: 0\n").ok());
}

TEST_F(ConfigFileTest, UnknownKeyIsNamedWithItsLineAndTheNearest) {
  EXPECT_EQ(Error("state-dir: /srv/a\n\nsokcet: /tmp/s\n"),
            path_ + ":3: unknown key `sokcet`; did you mean `socket`?");
  EXPECT_THAT(Error("state_dir: /srv/a\n"), HasSubstr("did you mean `state-dir`?"));
  EXPECT_THAT(Error("colour: blue\n"), HasSubstr(":1: unknown key `colour`; ferryd --help"));
  // Flags of the command line alone.
  EXPECT_THAT(Error("config: /other\n"), HasSubstr("unknown key `config`"));
  EXPECT_THAT(Error("help: true\n"), HasSubstr("unknown key `help`"));
}

TEST_F(ConfigFileTest, OtherMistakesAreNamedWithTheirLine) {
  EXPECT_THAT(Error("socket: /a\nsocket: /b\n"), HasSubstr(":2: `socket` stands here a second"));
  EXPECT_THAT(Error("qemu: {a: b}\n"), HasSubstr(":1: `qemu` must have a value"));
  EXPECT_THAT(Error("qemu:\n"), HasSubstr(":1: `qemu` must have a value"));
  EXPECT_THAT(Error("listen: [[a]]\n"), HasSubstr(":1: `listen` must have a value"));
  EXPECT_THAT(Error("- a\n- b\n"), HasSubstr("`name: value` lines"));
  EXPECT_THAT(Error("socket: [\n"), HasSubstr("no YAML"));
  EXPECT_THAT(Error("socket: [\n"), Not(HasSubstr("--help")));
}

TEST_F(ConfigFileTest, AMissingFileIsNamed) {
  auto config = Parse({"--config", "/no/such/file.yaml"});
  EXPECT_THAT(config.status().message(), HasSubstr("/no/such/file.yaml"));
}

}  // namespace
}  // namespace ferry::tools
