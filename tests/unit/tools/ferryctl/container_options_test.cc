#include "tools/ferryctl/container_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ferry::ctl {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(ParseAssignment, NeedsANameAndTakesAnyValue) {
  EXPECT_EQ(*ParseAssignment("A=b=c"), std::make_pair(std::string("A"), std::string("b=c")));
  EXPECT_EQ(*ParseAssignment("A="), std::make_pair(std::string("A"), std::string()));
  for (const char* bad : {"", "A", "=b"}) EXPECT_FALSE(ParseAssignment(bad).ok()) << bad;
}

TEST(ParseCpus, TakesThousandths) {
  EXPECT_EQ(*ParseCpus("2"), 2000u);
  EXPECT_EQ(*ParseCpus("0.5"), 500u);
  EXPECT_EQ(*ParseCpus("1.25"), 1250u);
  EXPECT_EQ(*ParseCpus("0.001"), 1u);
  EXPECT_EQ(*ParseCpus("99999.999"), 99999999u);
  for (const char* bad : {"", "0", "0.0", ".5", "1.", "-1", "+1", "1.2.3", "0.0001", "1e3", "two",
                          "100000", "99999999999999999999", " 1", "1 "}) {
    EXPECT_FALSE(ParseCpus(bad).ok()) << bad;
  }
}

TEST(ParseContainerSize, KnowsUnitsInBothCases) {
  EXPECT_EQ(*ParseContainerSize("64m"), 64u << 20);
  EXPECT_EQ(*ParseContainerSize("64M"), 64u << 20);
  EXPECT_EQ(*ParseContainerSize("65536"), 65536u);
  for (const char* bad : {"", "m", "1gb", "1.5g", "-1"}) {
    EXPECT_FALSE(ParseContainerSize(bad).ok()) << bad;
  }
}

TEST(VmForLimits, HasRoomForTheGuestToo) {
  v1::ContainerLimits limits;
  // Without limits it is the host's default.
  EXPECT_EQ(VmForLimits(limits).memory_mb(), 0u);
  EXPECT_EQ(VmForLimits(limits).cpus(), 0u);
  limits.set_memory_bytes(16 << 20);
  limits.set_cpu_millis(500);
  EXPECT_EQ(VmForLimits(limits).memory_mb(), 256u);
  EXPECT_EQ(VmForLimits(limits).cpus(), 1u);
  limits.set_memory_bytes(uint64_t{1} << 30);
  limits.set_cpu_millis(2500);
  EXPECT_EQ(VmForLimits(limits).memory_mb(), 1024u + 32 + 128);
  EXPECT_EQ(VmForLimits(limits).cpus(), 3u);
  limits.set_memory_bytes(~uint64_t{0});
  EXPECT_GT(VmForLimits(limits).memory_mb(), uint64_t{1} << 40);
}

RunOptions Full() {
  RunOptions options;
  options.image = "web:1";
  options.name = "shop";
  options.command = {"sh", "-c", "x"};
  options.environment = {"A=b=c"};
  options.labels = {"k=v", "e="};
  options.working_directory = "/srv";
  options.user = "7:8";
  options.entrypoint = "/bin/init";
  options.limits.memory = "64m";
  options.limits.cpus = "1.5";
  options.limits.pids = 20;
  options.scratch_folder = "/shared";
  options.scratch_size = "1G";
  options.interactive = options.terminal = options.detached = options.remove = true;
  return options;
}

TEST(ToCreateRequest, SaysAllThatWasGiven) {
  const absl::StatusOr<v1::CreateContainerRequest> request = ToCreateRequest(Full());
  ASSERT_TRUE(request.ok()) << request.status();
  const v1::ContainerSpec& spec = request->spec();
  EXPECT_EQ(spec.image(), "web:1");
  EXPECT_EQ(spec.name(), "shop");
  EXPECT_THAT(spec.entrypoint(), ElementsAre("/bin/init"));
  EXPECT_THAT(spec.command(), ElementsAre("sh", "-c", "x"));
  EXPECT_THAT(spec.environment(), ElementsAre("A=b=c"));
  EXPECT_EQ(spec.labels().at("k"), "v");
  EXPECT_EQ(spec.labels().at("e"), "");
  EXPECT_EQ(spec.working_directory(), "/srv");
  EXPECT_EQ(spec.user(), "7:8");
  EXPECT_TRUE(spec.has_stdin() && spec.terminal() && spec.detached());
  EXPECT_TRUE(spec.remove_when_stopped());
  EXPECT_EQ(spec.limits().memory_bytes(), 64u << 20);
  EXPECT_EQ(spec.limits().cpu_millis(), 1500u);
  EXPECT_EQ(spec.limits().pids(), 20u);
  EXPECT_EQ(spec.scratch().folder(), "/shared");
  EXPECT_EQ(spec.scratch().size_bytes(), 1u << 30);
  EXPECT_EQ(request->new_vm().cpus(), 2u);
}

TEST(ToCreateRequest, MakesAVmUnlessOneIsNamedOrAPodHasOne) {
  RunOptions options;
  options.image = "web";
  EXPECT_TRUE(ToCreateRequest(options)->has_new_vm());
  // What was not given is the image's.
  const v1::ContainerSpec spec = ToCreateRequest(options)->spec();
  EXPECT_EQ(spec.entrypoint_size() + spec.command_size(), 0);
  EXPECT_FALSE(spec.has_limits() || spec.has_scratch());
  options.pod = "shop";
  EXPECT_EQ(ToCreateRequest(options)->where_case(), v1::CreateContainerRequest::WHERE_NOT_SET);
  options.vm = "one";
  EXPECT_EQ(ToCreateRequest(options)->vm(), "one");
  options.entrypoint = "";
  EXPECT_THAT(ToCreateRequest(options)->spec().entrypoint(), ElementsAre(""));
}

TEST(ToCreateRequest, FoldersOfTheHostAreSharesOfAVmThatStays) {
  RunOptions options;
  options.image = "web";
  options.stays = true;
  options.volumes = {"/a:/x:ro", "/b:/y", "/a:/z", "/c:/w:ro", "/b:/v:ro", "/b:/u:rw"};
  const auto request = ToCreateRequest(options);
  ASSERT_TRUE(request.ok()) << request.status();
  const v1::VmSpec& vm = request->new_vm();
  EXPECT_TRUE(vm.stays());
  ASSERT_EQ(vm.shares_size(), 3);
  EXPECT_EQ(vm.shares(0).host_path(), "/a");
  EXPECT_FALSE(vm.shares(0).read_only());
  EXPECT_FALSE(vm.shares(1).read_only());
  EXPECT_TRUE(vm.shares(2).read_only());
  ASSERT_EQ(request->spec().mounts_size(), 6);
  EXPECT_EQ(request->spec().mounts(0).host_path(), "/a");
  EXPECT_EQ(request->spec().mounts(0).path(), "/x");
  EXPECT_TRUE(request->spec().mounts(0).read_only());
  EXPECT_FALSE(request->spec().mounts(5).read_only());
  // Another VM has said it when it was made.
  options.vm = "one";
  EXPECT_THAT(std::string(ToCreateRequest(options).status().message()), HasSubstr("--stays"));
  options.stays = false;
  EXPECT_EQ(ToCreateRequest(options)->spec().mounts_size(), 6);
}

TEST(ParseMount, TakesTwoAbsolutePathsAndAMode) {
  EXPECT_EQ(ParseMount("/a b:/c")->host_path(), "/a b");
  EXPECT_TRUE(ParseMount("/a:/c:ro")->read_only());
  for (const char* bad : {"", "/a", "/a:", ":/c", "a:/c", "/a:c", "/a:/c:", "/a:/c:rx",
                          "/a:/c:ro:ro", "/a:/c:/d", "volume:/c"}) {
    EXPECT_FALSE(ParseMount(bad).ok()) << bad;
  }
}

TEST(ToCreateRequest, RefusesWhatCannotBe) {
  RunOptions options = Full();
  options.volumes = {"/a:/b"};
  EXPECT_THAT(std::string(ToCreateRequest(options).status().message()),
              testing::AllOf(HasSubstr("could not move with the container"), HasSubstr("--stays")));
  options = Full();
  options.read_only = true;
  EXPECT_FALSE(ToCreateRequest(options).ok());
  options.scratch_folder.clear();
  options.scratch_size.reset();
  EXPECT_TRUE(ToCreateRequest(options).ok());
  for (const char* size : {"0", "big", "-1G"}) {
    options = Full();
    options.scratch_size = size;
    EXPECT_FALSE(ToCreateRequest(options).ok()) << size;
  }
  options = Full();
  options.environment = {"NOVALUE"};
  EXPECT_FALSE(ToCreateRequest(options).ok());
  options = Full();
  options.labels = {"=v"};
  EXPECT_FALSE(ToCreateRequest(options).ok());
}

TEST(SplitExecWords, TakesTheVmFirst) {
  ExecWords words = SplitExecWords({"web", "--", "ls", "--", "-l"}, false, false);
  EXPECT_EQ(words.vm, "web");
  EXPECT_THAT(words.command, ElementsAre("ls", "--", "-l"));
  words = SplitExecWords({"web", "ls"}, false, false);
  EXPECT_EQ(words.vm, "web");
  EXPECT_THAT(words.command, ElementsAre("ls"));
  EXPECT_TRUE(SplitExecWords({"web"}, false, false).command.empty());
  EXPECT_TRUE(SplitExecWords({"web", "--"}, false, false).command.empty());
}

TEST(SplitExecWords, LetsTheVmBeLeftOutForAContainer) {
  ExecWords words = SplitExecWords({"web", "--", "ls"}, true, false);
  EXPECT_EQ(words.vm, "web");
  EXPECT_THAT(words.command, ElementsAre("ls"));
  words = SplitExecWords({"ls", "-l"}, true, false);
  EXPECT_EQ(words.vm, "");
  EXPECT_THAT(words.command, ElementsAre("ls", "-l"));
  // A "--" of the command's own.
  words = SplitExecWords({"env", "--", "x"}, true, true);
  EXPECT_EQ(words.vm, "");
  EXPECT_THAT(words.command, ElementsAre("env", "--", "x"));
}

TEST(ContainerOptionsTest, PortsOfTheHostAreNotPromised) {
  RunOptions options;
  options.image = "web";
  options.ports = {"8080:80"};
  EXPECT_THAT(ToCreateRequest(options).status().message(), HasSubstr("--nic bridge="));
}

TEST(ContainerOptionsTest, CardsAreTheVmsAndItsNetworkTheContainers) {
  RunOptions options;
  options.image = "web";
  EXPECT_FALSE(ToCreateRequest(options)->spec().vm_network());
  options.nics = {"bridge=br0,address=192.0.2.7/24", "user,name=up0"};
  const auto request = ToCreateRequest(options);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_TRUE(request->spec().vm_network());
  ASSERT_EQ(request->new_vm().nics_size(), 2);
  EXPECT_EQ(request->new_vm().nics(0).bridge(), "br0");
  options.network = "none";
  EXPECT_FALSE(ToCreateRequest(options)->spec().vm_network());
  options.vm = "host1";
  EXPECT_THAT(ToCreateRequest(options).status().message(), HasSubstr("vm create --nic"));
  options.nics.clear();
  options.network = "vm";
  EXPECT_TRUE(ToCreateRequest(options)->spec().vm_network());
  options.pod = "shop";
  EXPECT_THAT(ToCreateRequest(options).status().message(), HasSubstr("the pod's network"));
  options.pod.clear();
  options.network = "host";
  EXPECT_THAT(ToCreateRequest(options).status().message(), HasSubstr("it may be vm or none"));
  options.network.reset();
  options.vm.clear();
  options.nics = {"br0"};
  EXPECT_THAT(ToCreateRequest(options).status().message(), HasSubstr("nic \"br0\""));
}

}  // namespace
}  // namespace ferry::ctl
