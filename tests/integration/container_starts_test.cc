#include <algorithm>
#include <csignal>

#include "bridge/container/fake_container_runtime.h"
#include "bridge/container/fake_volumes.h"
#include "guestmanager/guest_containers.h"
#include "tests/integration/guest_link_fixture.h"

// Starts of containers that are cut by a move, with both real ends. Only the runtime is a fake.
namespace ferry::guest {
namespace {

const std::string kId(64, '1');

using StartStatus = std::optional<absl::StatusOr<std::shared_ptr<Process>>>;

Task<void> StartInto(Guest* guest, ProcessSpec spec, StartStatus* status) {
  *status = co_await guest->StartContainer(std::move(spec));
}

class ContainerStartsLinkTest : public GuestLinkTest {
 protected:
  bridge::GuestServer::Options AgentOptions() override {
    bridge::GuestServer::Options options;
    bridge::ContainerParts& parts = options.containers.emplace();
    parts.runtime = &runtime_;
    parts.volumes = &volumes_;
    parts.cgroup_root = testing::TempDir();
    parts.collect_orphans = [this] {
      bridge::CollectOrphans([this](uint32_t pid) { return server_->Owns(pid); });
    };
    return options;
  }

  void SetUp() override {
    runtime_.init_script = "echo first words; exec cat";
    GuestLinkTest::SetUp();
    NewContainer container;
    container.id = kId;
    container.bundle_path = "/run/gcs/c/1";
    container.oci_specification =
        R"({"ociVersion":"1.0.2","process":{"args":["sh"]},"root":{"path":"rootfs"}})";
    const absl::Status created = Await(guest().container_host().Create(container));
    ASSERT_TRUE(created.ok()) << created;
  }

  static ProcessSpec Init() {
    ProcessSpec spec;
    spec.container_id = kId;
    spec.command = {"sh"};
    spec.has_stdin = true;
    return spec;
  }

  void BeginStart(StartStatus* status) {
    asio::co_spawn(io_, StartInto(&guest(), Init(), status), asio::detached);
    RunReady(io_);
    EXPECT_FALSE(status->has_value());
  }

  // The init that came is the one that was started, once, and its streams and its exit come along.
  void ExpectInit(const absl::StatusOr<std::shared_ptr<Process>>& found) {
    ASSERT_TRUE(found.ok()) << found.status();
    const std::shared_ptr<Process> init = *found;
    ASSERT_NE(init, nullptr);
    EXPECT_EQ(std::count(runtime_.calls.begin(), runtime_.calls.end(), kStart), 1);
    const auto client = MakeClient();
    client->SetInput("and last", /*finish=*/true);
    client->AttachTo(*init);
    EXPECT_TRUE(RunUntil([&] { return client->exited.has_value(); }));
    EXPECT_EQ(client->out, "first words\nand last");
    EXPECT_EQ(client->exited, (ExitStatus{ExitStatus::Kind::kCode, 0}));
  }

  static inline const std::string kStart = "start 1";
  bridge::FakeContainerRuntime runtime_{io_.get_executor()};
  bridge::FakeVolumes volumes_;
};

TEST_F(ContainerStartsLinkTest, ARequestThatNeverLeftIsMadeByTheNextHost) {
  guest().Freeze();
  StartStatus starting;
  BeginStart(&starting);
  const GuestState state = Migrate();
  EXPECT_EQ(state.starting.size(), 1u);
  EXPECT_EQ(std::count(runtime_.calls.begin(), runtime_.calls.end(), kStart), 0);
  ExpectInit(Await(guest().AwaitStart(kId)));
}

TEST_F(ContainerStartsLinkTest, AnAnswerThatDidNotArriveIsGivenToTheNextHost) {
  runtime_.go().Reset();
  StartStatus starting;
  BeginStart(&starting);
  ASSERT_TRUE(RunUntil(
      [this] { return std::count(runtime_.calls.begin(), runtime_.calls.end(), kStart) == 1; }));
  // What the agent says is on its way when the VM moves.
  line_->Hold(true);
  runtime_.go().Set();
  RunReady(io_);
  const GuestState state = Migrate([this] { line_->Hold(false); });
  EXPECT_EQ(state.starting.size(), 1u);
  ExpectInit(Await(guest().AwaitStart(kId)));
}

TEST_F(ContainerStartsLinkTest, OneThatTheAgentIsAtIsAwaitedByTheNextHost) {
  runtime_.go().Reset();
  StartStatus starting;
  BeginStart(&starting);
  ASSERT_TRUE(RunUntil(
      [this] { return std::count(runtime_.calls.begin(), runtime_.calls.end(), kStart) == 1; }));
  Migrate();
  ASSERT_TRUE(RunUntil([this] { return guest().ready(); }));
  StartStatus joined;
  BeginStart(&joined);
  runtime_.go().Set();
  ASSERT_TRUE(RunUntil([&] { return joined.has_value(); }));
  ExpectInit(*joined);
}

}  // namespace
}  // namespace ferry::guest
