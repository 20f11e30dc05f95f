#include "bridge/container/oci_spec.h"

#include <gtest/gtest.h>

#include <boost/json/parse.hpp>

#include "absl/strings/str_cat.h"

namespace ferry::bridge {
namespace {

namespace json = boost::json;

const std::string kContainer(64, 'a');
const std::string kSandboxId(64, 'b');
const NamespacePaths kSandboxPaths{"/n/net", "/n/ipc", "/n/uts", "/n/pid"};

std::string Spec(const std::string& rest) {
  return absl::StrCat(R"({"ociVersion":"1.0.2","process":{"args":["sh"],"terminal":true},)",
                      R"("root":{"path":"/run/c/rootfs"})", rest, "}");
}

json::value Cgroup() { return json::string(absl::StrCat("/containers/", kContainer)); }

std::string PodAnnotations(const std::string& sandbox) {
  return absl::StrCat(R"(,"annotations":{"io.kubernetes.cri.container-type":"container",)",
                      R"("io.kubernetes.cri.sandbox-id":")", sandbox, R"("})");
}

TEST(OciSpecTest, ReadsWhatTheAgentMustKnow) {
  const auto plain = ReadSpec(Spec(""));
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_TRUE(plain->terminal);
  EXPECT_EQ(plain->sandbox_id, "");
  EXPECT_EQ(ReadSpec(Spec(PodAnnotations(kSandboxId)))->sandbox_id, kSandboxId);
  const auto sandbox =
      ReadSpec(Spec(R"(,"annotations":{"io.kubernetes.cri.container-type":"sandbox",)"
                    R"("io.kubernetes.cri.sandbox-id":"whatever"})"));
  EXPECT_EQ(sandbox->sandbox_id, "");
}

TEST(OciSpecTest, RefusesWhatItCannotRun) {
  for (const char* text :
       {"nonsense", "[]", R"({"process":{"args":["sh"]},"root":{"path":"/r"}})",
        R"({"ociVersion":"1","root":{"path":"/r"}})",
        R"({"ociVersion":"1","process":{"args":[]},"root":{"path":"/r"}})",
        R"({"ociVersion":"1","process":{"args":[""]},"root":{"path":"/r"}})",
        R"({"ociVersion":"1","process":{"args":["sh"]}})",
        R"({"ociVersion":"1","process":{"args":["sh"]},"root":{"path":"/r/../x"}})",
        R"({"ociVersion":"1","process":{"args":["sh"]},"root":{"path":"../x"}})",
        R"({"ociVersion":"1","process":{"args":["sh"]},"root":{"path":"/r"},"linux":[]})"}) {
    EXPECT_FALSE(ReadSpec(text).ok()) << text;
  }
  EXPECT_FALSE(ReadSpec(Spec(PodAnnotations("short"))).ok());
  EXPECT_TRUE(
      ReadSpec(R"({"ociVersion":"1","process":{"args":["sh"]},"root":{"path":"rootfs"}})").ok());
}

TEST(OciSpecTest, GivesAContainerItsCgroupAndLeavesTheRest) {
  const auto text = CompleteSpec(
      Spec(R"(,"hostname":"h","windows":{"x":1},"linux":{"namespaces":[{"type":"network"}],)"
           R"("cgroupsPath":"/elsewhere"})"),
      kContainer, nullptr);
  ASSERT_TRUE(text.ok()) << text.status();
  const json::object spec = json::parse(*text).as_object();
  EXPECT_EQ(spec.at("linux").at("cgroupsPath"), Cgroup());
  EXPECT_EQ(spec.at("linux").at("namespaces"), json::parse(R"([{"type":"network"}])"));
  EXPECT_EQ(spec.at("hostname"), "h");
  EXPECT_FALSE(spec.contains("windows"));
  EXPECT_EQ(json::parse(*CompleteSpec(Spec(""), kContainer, nullptr)).at("linux").at("cgroupsPath"),
            Cgroup());
}

TEST(OciSpecTest, AContainerOfAPodSharesTheSandboxsNamespaces) {
  const auto text = CompleteSpec(
      Spec(R"(,"hostname":"own","linux":{"namespaces":[{"type":"mount"},{"type":"pid"},)"
           R"({"type":"network"},{"type":"ipc","path":"/proc/1/ns/ipc"},{"type":"uts"}]})"),
      kContainer, &kSandboxPaths);
  ASSERT_TRUE(text.ok()) << text.status();
  const json::object spec = json::parse(*text).as_object();
  EXPECT_EQ(spec.at("linux").at("namespaces"), json::parse(R"([{"type":"mount"},{"type":"pid"},)"
                                                           R"({"type":"network","path":"/n/net"},)"
                                                           R"({"type":"ipc","path":"/n/ipc"},)"
                                                           R"({"type":"uts","path":"/n/uts"}])"));
  EXPECT_FALSE(spec.contains("hostname"));
}

TEST(OciSpecTest, AContainerOfAPodSharesPidsOnlyIfItAsks) {
  const auto text =
      CompleteSpec(Spec(R"(,"linux":{"namespaces":[{"type":"pid","path":"/proc/7/ns/pid"}]})"),
                   kContainer, &kSandboxPaths);
  const json::value namespaces = json::parse(*text).at("linux").at("namespaces");
  EXPECT_EQ(namespaces.as_array()[0], json::parse(R"({"type":"pid","path":"/n/pid"})"));
}

TEST(OciSpecTest, AnExecIsGivenWhatItsProcessLeavesOut) {
  ProcessParameters parameters;
  parameters.oci_process = R"({"args":["sh"],"env":["A=1"]})";
  const auto made = CompleteProcess(parameters);
  ASSERT_TRUE(made.ok()) << made.status();
  const json::object plain = json::parse(made->json).as_object();
  EXPECT_EQ(plain.at("cwd"), "/");
  EXPECT_EQ(plain.at("env"), json::parse(R"(["A=1"])"));
  EXPECT_FALSE(plain.contains("consoleSize"));
  parameters.oci_process = R"({"args":[]})";
  EXPECT_FALSE(CompleteProcess(parameters).ok());
  parameters.oci_process = R"({"args":["sh"],"terminal":1})";
  EXPECT_FALSE(CompleteProcess(parameters).ok());
}

// hcsshim's hosts never set EmulateConsole for an OCI process.
TEST(OciSpecTest, AnExecHasATerminalIfTheRequestOrItsProcessSaysSo) {
  for (const bool asked : {false, true}) {
    for (const char* own : {"false", "true"}) {
      ProcessParameters parameters;
      parameters.oci_process = absl::StrCat(R"({"args":["sh"],"terminal":)", own, "}");
      parameters.emulate_console = asked;
      const auto made = CompleteProcess(parameters);
      ASSERT_TRUE(made.ok()) << made.status();
      EXPECT_EQ(made->terminal, asked || std::string(own) == "true");
      EXPECT_EQ(json::parse(made->json).at("terminal"), made->terminal);
    }
  }
}

TEST(OciSpecTest, AConsolesSizeIsTheRequestsAndWithinBounds) {
  ProcessParameters parameters;
  parameters.oci_process = R"({"args":["sh"],"terminal":true})";
  parameters.console_rows = 24;
  parameters.console_columns = 80;
  EXPECT_EQ(json::parse(CompleteProcess(parameters)->json).at("consoleSize"),
            json::parse(R"({"height":24,"width":80})"));
  parameters.console_columns = 65536;
  EXPECT_TRUE(absl::IsInvalidArgument(CompleteProcess(parameters).status()));
}

TEST(OciSpecTest, TellsWhichUserIsToBeLookedUp) {
  const auto named = ReadSpec(R"({"ociVersion":"1","root":{"path":"rootfs"},)"
                              R"("process":{"args":["sh"],"user":{"username":"web"}}})");
  ASSERT_TRUE(named.ok()) << named.status();
  EXPECT_EQ(named->user_name, "web");
  EXPECT_EQ(named->root, "rootfs");
  EXPECT_EQ(ReadSpec(Spec(""))->user_name, "");
  ProcessParameters parameters;
  parameters.oci_process = R"({"args":["sh"],"user":{"username":"web"}})";
  EXPECT_EQ(CompleteProcess(parameters)->user_name, "web");
  parameters.oci_process = R"({"args":["sh"],"user":{"username":7}})";
  EXPECT_FALSE(CompleteProcess(parameters).ok());
}

TEST(OciSpecTest, ANameThatIsRootsHasRootsCapabilities) {
  const std::string process = R"({"capabilities":{"bounding":["CAP_KILL"]}})";
  ResolvedUser user;
  const json::value root = json::parse(*SetProcessUser(process, user));
  EXPECT_EQ(root.at("capabilities").at("effective"), json::parse(R"(["CAP_KILL"])"));
  EXPECT_EQ(root.at("capabilities").at("permitted"), json::parse(R"(["CAP_KILL"])"));
  const json::value given = json::parse(
      *SetProcessUser(R"({"capabilities":{"bounding":["CAP_KILL"],"effective":[]}})", user));
  EXPECT_EQ(given.at("capabilities").at("effective"), json::array());
  EXPECT_FALSE(given.at("capabilities").as_object().contains("permitted"));
  user.uid = 33;
  const json::value web = json::parse(*SetProcessUser(process, user));
  EXPECT_EQ(web.at("capabilities"), json::parse(process).at("capabilities"));
}

TEST(OciSpecTest, PutsAUserInTheNamesPlace) {
  ResolvedUser user;
  user.uid = 33;
  user.gid = 34;
  user.additional_gids = {6, 29};
  user.home = "/srv/web";
  const auto process = SetProcessUser(
      R"({"args":["sh"],"user":{"uid":0,"umask":18,"username":"web","additionalGids":[29]}})",
      user);
  ASSERT_TRUE(process.ok()) << process.status();
  EXPECT_EQ(json::parse(*process), json::parse(R"({"args":["sh"],"env":["HOME=/srv/web"],)"
                                               R"("user":{"uid":33,"gid":34,"umask":18,)"
                                               R"("additionalGids":[29,6]}})"));
  const auto spec =
      SetSpecUser(R"({"process":{"env":["A=b","HOME=/own"],"user":{"username":"web"}}})", user);
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(json::parse(*spec), json::parse(R"({"process":{"env":["A=b","HOME=/own"],)"
                                            R"("user":{"uid":33,"gid":34,)"
                                            R"("additionalGids":[6,29]}}})"));
}

}  // namespace
}  // namespace ferry::bridge
