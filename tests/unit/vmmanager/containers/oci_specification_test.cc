#include "vmmanager/containers/oci_specification.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <csignal>

#include "vmmanager/containers/container_limits.h"

namespace ferry::vm {
namespace {

namespace json = boost::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class OciSpecificationTest : public testing::Test {
 protected:
  OciSpecificationTest() {
    image_.cmd = {"serve"};
    spec_.set_image("web");
  }
  std::vector<std::string> Arguments() { return *ContainerArguments(spec_, image_); }
  absl::StatusOr<json::object> Make() {
    OciInputs inputs;
    inputs.id = std::string(64, 'a');
    inputs.root_path = "/run/root";
    inputs.sandbox_id = sandbox_;
    inputs.spec = &spec_;
    inputs.image = &image_;
    const absl::StatusOr<OciTexts> made = MakeOciSpecification(inputs);
    if (!made.ok()) return made.status();
    process_ = made->process;
    return json::parse(made->specification).as_object();
  }
  json::value At(const char* pointer) {
    auto made = Make();
    EXPECT_TRUE(made.ok()) << made.status();
    const json::value whole = *made;
    boost::system::error_code missing;
    const json::value* found = whole.find_pointer(pointer, missing);
    return found == nullptr ? json::value() : *found;
  }
  void ExpectRefused(const std::string& text) {
    const absl::Status refused = Make().status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(refused.message()), HasSubstr(text));
  }

  v1::ContainerSpec spec_;
  layers::ImageConfig image_;
  std::string sandbox_;
  std::string process_;  // of what was made last
};

TEST_F(OciSpecificationTest, ArgumentsComeFromWhereDockerTakesThem) {
  EXPECT_THAT(Arguments(), ElementsAre("serve"));
  image_.entrypoint = {"/entry", "-v"};
  EXPECT_THAT(Arguments(), ElementsAre("/entry", "-v", "serve"));
  spec_.add_command("other");
  EXPECT_THAT(Arguments(), ElementsAre("/entry", "-v", "other"));
  spec_.add_entrypoint("/mine");
  EXPECT_THAT(Arguments(), ElementsAre("/mine", "other"));
  // The image's arguments were for the image's entry point.
  spec_.clear_command();
  EXPECT_THAT(Arguments(), ElementsAre("/mine"));
  spec_.set_entrypoint(0, "");
  spec_.add_command("sh");
  EXPECT_THAT(Arguments(), ElementsAre("sh"));
  spec_.clear_command();
  ExpectRefused("image web says no command");
}

TEST_F(OciSpecificationTest, TheLastOneToSetAVariableCounts) {
  image_.env = {"PATH=/image", "A=1", "B=2"};
  *spec_.add_environment() = "B=3";
  *spec_.add_environment() = "C=a=b";
  *spec_.add_environment() = "HOSTNAME=mine";
  EXPECT_THAT(*ContainerEnvironment(spec_, image_, "host"),
              ElementsAre("PATH=/image", "HOSTNAME=mine", "A=1", "B=3", "C=a=b"));
  image_.env.clear();
  spec_.clear_environment();
  spec_.set_terminal(true);
  EXPECT_THAT(*ContainerEnvironment(spec_, image_, "host"),
              ElementsAre("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                          "HOSTNAME=host", "TERM=xterm"));
  for (const char* bad : {"", "=x", "NAME"}) {
    spec_.clear_environment();
    spec_.add_environment(bad);
    ExpectRefused("each entry must be NAME=value");
  }
}

TEST_F(OciSpecificationTest, UsersAreNumbersOrTheAgentsToFind) {
  EXPECT_EQ(At("/process/user"), json::parse(R"({"uid":0,"gid":0})"));
  image_.user = "7:8";
  EXPECT_EQ(At("/process/user"), json::parse(R"({"uid":7,"gid":8})"));
  EXPECT_TRUE(At("/process/capabilities/effective").is_null());
  EXPECT_FALSE(At("/process/capabilities/bounding").as_array().empty());
  for (const char* name : {"www-data", "7", "7:mail", "1:2:3", "99999999999:1"}) {
    spec_.set_user(name);
    EXPECT_EQ(At("/process/user/username").as_string(), name);
  }
  for (const char* root : {"root", "0", "00", "+0:0", "0:7"}) {
    spec_.set_user(root);
    EXPECT_FALSE(At("/process/capabilities/effective").as_array().empty()) << root;
  }
  // The agent finds out whether that is root.
  spec_.set_user("toor");
  EXPECT_TRUE(At("/process/capabilities/effective").is_null());
}

TEST_F(OciSpecificationTest, DirectoryAndHostNameAreTheOnesThatWereAskedFor) {
  EXPECT_EQ(At("/process/cwd").as_string(), "/");
  EXPECT_EQ(At("/hostname").as_string(), "aaaaaaaaaaaa");
  image_.working_dir = "/srv";
  EXPECT_EQ(At("/process/cwd").as_string(), "/srv");
  spec_.set_working_directory("/tmp");
  spec_.set_hostname("web-1.example");
  EXPECT_EQ(At("/process/cwd").as_string(), "/tmp");
  EXPECT_EQ(At("/hostname").as_string(), "web-1.example");
  spec_.set_hostname("a b");
  ExpectRefused("host name");
  spec_.clear_hostname();
  spec_.set_working_directory("tmp");
  ExpectRefused("use an absolute path");
}

TEST_F(OciSpecificationTest, AnotherProcessHasWhatTheInitHasUnlessItSaysSomethingElse) {
  image_.env = {"A=1", "B=2"};
  image_.user = "7:8";
  image_.working_dir = "/srv";
  ASSERT_TRUE(Make().ok());
  EXPECT_THAT(ArgumentsOf(process_), ElementsAre("serve"));
  v1::ProcessSpec exec;
  exec.add_command("ls");
  json::object made = json::parse(*MakeExecProcess(process_, exec)).as_object();
  EXPECT_EQ(made["args"], json::parse(R"(["ls"])"));
  EXPECT_EQ(made["cwd"].as_string(), "/srv");
  EXPECT_EQ(made["user"], json::parse(R"({"uid":7,"gid":8})"));
  EXPECT_FALSE(made["terminal"].as_bool());
  exec.set_working_directory("/tmp");
  exec.set_user("root");
  exec.set_terminal(true);
  (*exec.mutable_environment())["B"] = "3";
  made = json::parse(*MakeExecProcess(process_, exec)).as_object();
  EXPECT_EQ(made["cwd"].as_string(), "/tmp");
  EXPECT_EQ(made["user"].as_object()["username"].as_string(), "root");
  EXPECT_TRUE(made["terminal"].as_bool());
  const std::string environment = json::serialize(made["env"]);
  EXPECT_THAT(environment, HasSubstr("\"A=1\""));
  EXPECT_THAT(environment, HasSubstr("\"B=3\""));
  EXPECT_THAT(environment, testing::Not(HasSubstr("B=2")));
  exec.set_working_directory("tmp");
  EXPECT_EQ(MakeExecProcess(process_, exec).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(OciSpecificationTest, TerminalsHaveASize) {
  EXPECT_FALSE(At("/process/terminal").as_bool());
  spec_.set_terminal(true);
  EXPECT_TRUE(At("/process/consoleSize").is_null());
  spec_.mutable_terminal_size()->set_rows(24);
  spec_.mutable_terminal_size()->set_columns(80);
  EXPECT_TRUE(At("/process/terminal").as_bool());
  EXPECT_EQ(At("/process/consoleSize"), json::parse(R"({"height":24,"width":80})"));
  spec_.mutable_terminal_size()->set_columns(5000);
  ExpectRefused("terminal size");
}

TEST_F(OciSpecificationTest, LimitsAreInCgroupsUnits) {
  EXPECT_TRUE(At("/linux/resources/memory").is_null());
  spec_.mutable_limits()->set_memory_bytes(64 << 20);
  spec_.mutable_limits()->set_cpu_millis(1500);
  spec_.mutable_limits()->set_pids(20);
  EXPECT_EQ(At("/linux/resources/memory/limit").to_number<uint64_t>(), 64u << 20);
  EXPECT_EQ(At("/linux/resources/cpu"), json::parse(R"({"quota":150000,"period":100000})"));
  EXPECT_EQ(At("/linux/resources/pids/limit").to_number<int>(), 20);
  spec_.mutable_limits()->set_cpu_millis(9);
  ExpectRefused("CPU limit is 9; use 10 to");
  spec_.mutable_limits()->set_cpu_millis(10);
  spec_.mutable_limits()->set_pids(0);
  ExpectRefused("limit of processes is 0; use 1 to");
  spec_.mutable_limits()->set_pids(1);
  spec_.mutable_limits()->set_memory_bytes(1 << 20);
  ExpectRefused("memory limit is 1048576; use at least 6 MiB");
}

TEST_F(OciSpecificationTest, AChangeOfLimitsLeavesTheOthers) {
  v1::ContainerLimits limits;
  limits.set_memory_bytes(1);
  limits.set_pids(2);
  v1::ContainerLimits changes;
  changes.set_pids(3);
  const v1::ContainerLimits merged = MergeLimits(limits, changes);
  EXPECT_EQ(merged.memory_bytes(), 1u);
  EXPECT_EQ(merged.pids(), 3u);
  EXPECT_FALSE(merged.has_cpu_millis());
}

TEST_F(OciSpecificationTest, PodsShareTheSandboxAndOthersNothing) {
  EXPECT_TRUE(At("/annotations").is_null());
  sandbox_ = std::string(64, 'b');
  EXPECT_EQ(At("/annotations/io.kubernetes.cri.sandbox-id").as_string(), sandbox_);
  EXPECT_EQ(At("/annotations/io.kubernetes.cri.container-type").as_string(), "container");
}

TEST_F(OciSpecificationTest, RootAndMountsAreDockers) {
  EXPECT_EQ(At("/root"), json::parse(R"({"path":"/run/root","readonly":false})"));
  spec_.set_read_only(true);
  EXPECT_TRUE(At("/root/readonly").as_bool());
  EXPECT_EQ(At("/mounts/0/destination").as_string(), "/proc");
  EXPECT_EQ(At("/mounts").as_array().size(), 7u);
  EXPECT_EQ(At("/linux/namespaces").as_array().size(), 6u);
  EXPECT_EQ(At("/linux/namespaces/5/type").as_string(), "network");
  spec_.set_vm_network(true);
  EXPECT_EQ(At("/linux/namespaces").as_array().size(), 5u);
  EXPECT_NE(At("/linux/namespaces/4/type").as_string(), "network");
  EXPECT_EQ(At("/linux/resources/devices/0"), json::parse(R"({"allow":false,"access":"rwm"})"));
}

TEST_F(OciSpecificationTest, WhatDoesNotFitIntoAMessageIsRefused) {
  image_.env = {"A=" + std::string(20'000, 'x')};
  spec_.add_command(std::string(5'000, 'y'));
  ExpectRefused("together they may have");
}

TEST_F(OciSpecificationTest, WhatIsWrittenWithMoreBytesIsMeasuredAsItIsSent) {
  spec_.add_command(std::string(20'000, '"'));
  ExpectRefused("shorten the command");
  v1::ProcessSpec exec;
  exec.add_command(std::string(20'000, '"'));
  EXPECT_TRUE(absl::IsInvalidArgument(MakeExecProcess("{}", exec).status()));
}

TEST_F(OciSpecificationTest, UserFolderAndArgumentsHaveBounds) {
  image_.user = std::string(257, 'u');
  ExpectRefused("container's user");
  spec_.set_user("a b");
  ExpectRefused("container's user");
  spec_.set_user("web");
  image_.working_dir = "/" + std::string(4096, 'd');
  ExpectRefused("working directory has 4097 bytes");
  spec_.set_working_directory("/srv");
  spec_.add_command(std::string("a\0b", 3));
  ExpectRefused("a byte 0");
  v1::ProcessSpec exec;
  exec.add_command("ls");
  exec.set_user(std::string(257, 'u'));
  EXPECT_TRUE(absl::IsInvalidArgument(MakeExecProcess("{}", exec).status()));
}

TEST_F(OciSpecificationTest, WhatIsNoVariableInAnImageIsLeftOut) {
  image_.env = {"GOOD=1", "bad", std::string("ZERO=a\0b", 8)};
  const std::string environment = json::serialize(At("/process/env"));
  EXPECT_THAT(environment, HasSubstr("GOOD=1"));
  EXPECT_THAT(environment, testing::Not(HasSubstr("bad")));
  EXPECT_THAT(environment, testing::Not(HasSubstr("ZERO")));
}

TEST(StopSignalTest, NamesAndNumbers) {
  EXPECT_EQ(StopSignal(""), uint32_t{SIGTERM});
  EXPECT_EQ(StopSignal("SIGINT"), uint32_t{SIGINT});
  EXPECT_EQ(StopSignal("QUIT"), uint32_t{SIGQUIT});
  EXPECT_EQ(StopSignal("9"), 9u);
  EXPECT_EQ(StopSignal("65"), uint32_t{SIGTERM});
  EXPECT_EQ(StopSignal("SIGRTMIN+3"), 37u);
  EXPECT_EQ(StopSignal("SIGNOSUCH"), uint32_t{SIGTERM});
}

}  // namespace
}  // namespace ferry::vm
