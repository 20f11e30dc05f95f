#include "bridge/guest/container_host.h"

#include <gtest/gtest.h>
#include <sys/wait.h>

#include "absl/strings/str_cat.h"
#include "bridge/container/fake_container_runtime.h"
#include "bridge/container/fake_volumes.h"
#include "bridge/guest/orphan_reaper.h"
#include "bridge/transport/fake_guest_transport.h"
#include "tests/unit/bridge/task_test.h"

namespace ferry::bridge {
namespace {

const std::string kId(64, '1');

class ContainerHostTest : public TaskTest {
 protected:
  ContainerHostTest() {
    ContainerParts parts;
    parts.runtime = &runtime_;
    parts.volumes = &volumes_;
    host_.emplace(io_.get_executor(), transport_, parts,
                  [this](const ContainerNotification&) { ++notified_; });
  }

  ~ContainerHostTest() override {
    host_.reset();
    for (const pid_t child : ListChildren()) {
      kill(child, SIGKILL);
      waitpid(child, nullptr, 0);
    }
  }

  Task<absl::Status> Create(const std::string& user = "", const std::string& more = "") {
    ContainerConfig config;
    config.oci_bundle_path = "/run/gcs/c/1";
    config.oci_specification =
        absl::StrCat(R"({"ociVersion":"1","process":{"args":["sh"])", UserMember(user),
                     R"(},"root":{"path":"rootfs"})", more, "}");
    return host_->Create(kId, config, kNullGuid);
  }

  Task<absl::Status> Start() {
    return host_->StartInit(kId, ContainerHost::StartCall(), ProcessParameters(),
                            [this](std::shared_ptr<GuestProcess> init) { init_ = init; });
  }

  static std::string UserMember(const std::string& user) {
    if (user.empty()) return "";
    return absl::StrCat(R"(,"user":{"uid":0,"gid":0,"username":")", user, R"("})");
  }

  Task<absl::Status> Exec(const std::string& user = "") {
    ProcessParameters parameters;
    parameters.oci_process = absl::StrCat(R"({"args":["sh"])", UserMember(user), "}");
    return host_->Exec(kId, parameters, StdioRelaySettings(), [](std::shared_ptr<GuestProcess>) {});
  }

  void MakeRunning() {
    EXPECT_TRUE(Await(Create()).ok());
    EXPECT_TRUE(Await(Start()).ok());
  }

  // Nobody has noticed yet.
  void KillInit() {
    kill(init_->kernel_pid(), SIGKILL);
    siginfo_t info = {};
    waitid(P_PID, static_cast<id_t>(init_->kernel_pid()), &info, WEXITED | WNOWAIT);
  }

  FakeGuestTransport transport_{io_.get_executor()};
  FakeContainerRuntime runtime_{io_.get_executor()};
  FakeVolumes volumes_;
  std::optional<ContainerHost> host_;
  std::shared_ptr<GuestProcess> init_;
  int notified_ = 0;
};

TEST_F(ContainerHostTest, OneThatHasJustExitedHasStoppedAndIsNotUnknown) {
  MakeRunning();
  KillInit();
  EXPECT_TRUE(absl::IsFailedPrecondition(host_->Shutdown(kId, /*force=*/false)));
  EXPECT_TRUE(absl::IsNotFound(host_->Shutdown(std::string(64, '2'), /*force=*/false)));
}

TEST_F(ContainerHostTest, NoExitIsNotifiedAfterItWasClosed) {
  MakeRunning();
  Await(host_->Close());
  KillInit();
  Until([this] { return init_->exit().has_value(); });
  Settle();
  EXPECT_EQ(notified_, 0);
}

TEST_F(ContainerHostTest, TheInitsUserIsLookedUpInItsOwnFiles) {
  volumes_.user_files.passwd = "web:x:33:34::/srv/web:\n";
  const absl::Status created = Await(Create("web"));
  ASSERT_TRUE(created.ok()) << created;
  EXPECT_EQ(volumes_.calls.front(), "read users /run/gcs/c/1/rootfs");
  const std::string& config = volumes_.bundles["/run/gcs/c/1"];
  EXPECT_NE(config.find(R"("uid":33)"), std::string::npos) << config;
  EXPECT_NE(config.find("HOME=/srv/web"), std::string::npos) << config;
  EXPECT_EQ(config.find("username"), std::string::npos) << config;
}

TEST_F(ContainerHostTest, OneThatSharesAHostNameSharesTheFilesThatSayIt) {
  volumes_.name_files = {"hosts"};
  ASSERT_TRUE(Await(Create("", R"(,"hostname":"shop")")).ok());
  EXPECT_EQ(volumes_.calls.front(), "find names /run/gcs/c/1/rootfs");
  EXPECT_NE(volumes_.bundles["/run/gcs/c/1"].find(R"("/run/gcs/c/1/hosts")"), std::string::npos);
  EXPECT_EQ(volumes_.bundle_files["/run/gcs/c/1"]["hostname"], "shop\n");
  ContainerConfig member;
  member.oci_bundle_path = "/run/gcs/c/2";
  member.oci_specification = absl::StrCat(
      R"({"ociVersion":"1","process":{"args":["sh"]},"root":{"path":"rootfs","readonly":true},)",
      R"("annotations":{"io.kubernetes.cri.container-type":"container",)",
      R"("io.kubernetes.cri.sandbox-id":")", kId, R"("}})");
  const absl::Status made = Await(host_->Create(std::string(64, '2'), member, kNullGuid));
  ASSERT_TRUE(made.ok()) << made;
  EXPECT_EQ(volumes_.calls.back(), "find names /run/gcs/c/2/rootfs ro");
  EXPECT_NE(volumes_.bundles["/run/gcs/c/2"].find(R"("/run/gcs/c/1/hosts")"), std::string::npos);
}

TEST_F(ContainerHostTest, WithTheVmsNetworkItIsToldOfTheVmsNameServers) {
  host_->SetResolver("nameserver 192.0.2.1\n");
  ASSERT_TRUE(Await(Create("")).ok());
  std::string& text = volumes_.bundle_files["/run/gcs/c/1"]["resolv.conf"];
  EXPECT_EQ(text, "nameserver 192.0.2.1\n");
  host_->SetResolver("nameserver 192.0.2.2\n");
  EXPECT_EQ(text, "nameserver 192.0.2.2\n");
  text = "its own";
  host_->SetResolver("nameserver 192.0.2.3\n");
  EXPECT_EQ(text, "its own");
}

TEST_F(ContainerHostTest, WithANetworkOfItsOwnItHasNobodyToAsk) {
  host_->SetResolver("nameserver 192.0.2.1\n");
  ASSERT_TRUE(Await(Create("", R"(,"linux":{"namespaces":[{"type":"network"}]})")).ok());
  host_->SetResolver("nameserver 192.0.2.2\n");
  EXPECT_EQ(volumes_.bundle_files["/run/gcs/c/1"]["resolv.conf"], "");
}

TEST_F(ContainerHostTest, AnUnknownUserLeavesNothingBehind) {
  EXPECT_TRUE(absl::IsInvalidArgument(Await(Create("web"))));
  EXPECT_TRUE(runtime_.calls.empty());
  EXPECT_TRUE(volumes_.bundles.empty());
  EXPECT_FALSE(host_->Has(kId));
}

TEST_F(ContainerHostTest, AnExecsUserIsLookedUpWhereTheInitIs) {
  MakeRunning();
  EXPECT_TRUE(absl::IsInvalidArgument(Await(Exec("web"))));
  EXPECT_EQ(volumes_.calls.back(), absl::StrCat("read users /proc/", init_->kernel_pid(), "/root"));
  volumes_.user_files.passwd = "web:x:33:34::/srv/web:\n";
  const absl::Status status = Await(Exec("web"));
  EXPECT_TRUE(status.ok()) << status;
}

TEST_F(ContainerHostTest, APauseWaitsForTheExecThatIsUnderWay) {
  MakeRunning();
  runtime_.go().Reset();
  const auto exec = Begin(Exec());
  Until([this] { return runtime_.calls.back().substr(0, 4) == "exec"; });
  // crun could not put a process into a frozen cgroup.
  const auto pause = Begin(host_->Pause(kId));
  const auto late = Begin(Exec());
  Settle();
  EXPECT_EQ(runtime_.calls.back().substr(0, 4), "exec");
  runtime_.go().Set();
  EXPECT_TRUE(Finish(exec).ok());
  EXPECT_TRUE(Finish(pause).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(Finish(late)));
  EXPECT_EQ(runtime_.calls.back(), "pause 1");
}

TEST_F(ContainerHostTest, AContainerThatIsStuckHoldsUpNoDiskAndNoOrphan) {
  MakeRunning();
  runtime_.go().Reset();
  const auto pause = Begin(host_->Pause(kId));
  Until([this] { return runtime_.calls.back() == "pause 1"; });
  // What it runs is known, and everybody else's end is seen.
  EXPECT_FALSE(host_->Owns(4'000'000));
  ModifySettingsRequest request;
  request.resource_type = kResourceMappedVirtualDisk;
  request.settings = R"({"MountPath":"/run/layers/1","ReadOnly":true})";
  EXPECT_TRUE(Await(host_->Modify("", request)).ok());
  runtime_.go().Set();
  EXPECT_TRUE(Finish(pause).ok());
}

}  // namespace
}  // namespace ferry::bridge
