#include "migration/preflight/preflight.h"

#include <filesystem>

#include "tests/unit/migration/controller/controller_fixture.h"

namespace ferry::migration {
namespace {

class PreflightTest : public ControllerTest {
 protected:
  void SetUp() override {
    ControllerTest::SetUp();
    // Both are on one machine: the session connection arrives at a loopback address.
    a_.host.settings.advertised_address = "127.0.0.1:1";
    // Whoever asks host-b gets its own answers.
    a_.deps->make_peer = [this](const std::string&) -> absl::StatusOr<std::shared_ptr<PeerClient>> {
      auto peer = std::make_shared<FakePeerClient>(*b_.sessions, peer_, nullptr);
      peer->on_host = [this] {
        return vm::DescribeHost(b_.host.inventory->deps(), {"1", {{"bridge", 4}}});
      };
      peer->on_preflight = [this](v1::PreflightIncomingRequest request) {
        return there_.RunIncoming(std::move(request));
      };
      return peer;
    };
  }

  v1::PreflightResponse Check() {
    v1::PreflightRequest request;
    request.set_vm("web");
    request.set_destination("host-b:1");
    auto response = Await(here_.Run(request));
    EXPECT_TRUE(response.ok()) << response.status();
    return response.ok() ? *response : v1::PreflightResponse();
  }

  static v1::PreflightCheck Find(const v1::PreflightResponse& response, const std::string& name) {
    for (const v1::PreflightCheck& check : response.checks()) {
      if (check.name() == name) return check;
    }
    ADD_FAILURE() << "there is no check " << name << " in " << response.DebugString();
    return {};
  }

  // That check alone fails.
  void ExpectFails(const std::string& name, const std::string& found) {
    const v1::PreflightResponse response = Check();
    EXPECT_FALSE(response.ok());
    for (const v1::PreflightCheck& check : response.checks()) {
      EXPECT_EQ(check.result() == v1::PREFLIGHT_RESULT_FAIL, check.name() == name)
          << check.DebugString();
    }
    EXPECT_THAT(Find(response, name).message(), HasSubstr(found));
  }

  // No session, no VM, no record, no file.
  void ExpectNothingChanged() {
    for (MigrationHost* host : {&a_, &b_}) {
      EXPECT_TRUE(host->sessions->List("").empty());
      EXPECT_TRUE(host->host.store.journal().empty());
      EXPECT_TRUE(std::filesystem::is_empty(host->runtime_dir));
    }
    EXPECT_TRUE(b_.host.inventory->List().empty());
  }

  static constexpr vm::HostMemory kPlenty{8192, 4096};
  Preflight here_{*a_.deps, *a_.sessions, {.program = {"1", {{"bridge", 4}}}}};
  Preflight there_{*b_.deps, *b_.sessions, {}};
};

TEST_F(PreflightTest, WhatWouldBeAcceptedPassesAndChangesNothing) {
  auto vm = Boot();
  const v1::PreflightResponse response = Check();
  EXPECT_TRUE(response.ok()) << response.DebugString();
  EXPECT_EQ(Find(response, "agent").result(), v1::PREFLIGHT_RESULT_PASS);
  EXPECT_EQ(Find(response, "versions").result(), v1::PREFLIGHT_RESULT_PASS);
  EXPECT_EQ(Find(response, "source_certificate").result(), v1::PREFLIGHT_RESULT_WARN);
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  ExpectNothingChanged();
}

TEST_F(PreflightTest, SilentDestinationIsAFailedCheckBesideTheSourcesOwn) {
  Boot();
  peer_->FailNext("Host", absl::UnavailableError("connection refused"));
  const v1::PreflightResponse response = Check();
  EXPECT_FALSE(response.ok());
  EXPECT_EQ(Find(response, "reachability").result(), v1::PREFLIGHT_RESULT_FAIL);
  EXPECT_EQ(Find(response, "agent").result(), v1::PREFLIGHT_RESULT_PASS);
  EXPECT_EQ(Find(response, "vm_state").result(), v1::PREFLIGHT_RESULT_PASS);
}

TEST_F(PreflightTest, HostsThatDifferFailWhatAMigrationWouldBeRefusedFor) {
  Boot();
  b_.host.backend.mutable_info().version = "2";
  ExpectFails("vmm_version", "source 1, destination 2");
  b_.host.backend.mutable_info().version = "1";
  b_.host.backend.mutable_memory() = {8192, 100};
  ExpectFails("memory", "100 MiB available");
  b_.host.backend.mutable_memory() = kPlenty;
  a_.host.backend.script().migration_blockers = {"the device is non-migratable"};
  ExpectFails("migratable", "non-migratable");
  a_.host.backend.script().migration_blockers.clear();
  EXPECT_TRUE(Check().ok());
  ExpectNothingChanged();
}

TEST_F(PreflightTest, TakenNameAndOpenSessionFail) {
  Boot();
  v1::CreateVmRequest create;
  create.mutable_spec()->set_name("web");
  auto other = Await(b_.host.inventory->Create(create));
  ASSERT_TRUE(other.ok());
  ExpectFails("vm_name", "a VM named web");
  ASSERT_TRUE(Await(b_.host.inventory->Delete(*other)).ok());

  peer_->Block("Import");
  const std::string id = Migrate();
  Await(peer_->WaitBlocked("Import"));
  const v1::PreflightResponse response = Check();
  EXPECT_THAT(Find(response, "source_session").message(), HasSubstr(id));
  EXPECT_FALSE(response.ok());
  peer_->Release("Import");
  Wait(a_, id);
}

TEST_F(PreflightTest, AFenceThatSomebodyElseHoldsFails) {
  Boot();
  EXPECT_EQ(Find(Check(), "source_fence").result(), v1::PREFLIGHT_RESULT_PASS);
  EXPECT_EQ(Find(Check(), "destination_fence").result(), v1::PREFLIGHT_RESULT_PASS);
  b_.host.fence.refusal = vm::FenceHeld("process 7 holds it", "end process 7");
  ExpectFails("destination_fence", "process 7 holds it");
  b_.host.fence.refusal = absl::OkStatus();
  a_.host.fence.refusal = absl::UnavailableError("the folder gives no answer");
  ExpectFails("source_fence", "the folder gives no answer");
}

TEST_F(PreflightTest, SilentAgentFailsWithinItsTime) {
  auto vm = Boot();
  guests_.Agent(vm->id()).Stop();
  Settle();
  const v1::PreflightResponse response = Check();
  EXPECT_EQ(Find(response, "agent").result(), v1::PREFLIGHT_RESULT_FAIL);
  EXPECT_FALSE(response.ok());
}

// After a restore, or a restart of the daemon, its link is not there at once.
TEST_F(PreflightTest, AnAgentThatIsJustComingBackIsWaitedFor) {
  auto vm = Boot();
  guests_.Agent(vm->id()).ConnectTo(
      [](uint32_t) { return absl::UnavailableError("there is no link yet"); });
  Settle();
  v1::PreflightRequest request;
  request.set_vm("web");
  request.set_destination("host-b:1");
  auto checking = Begin(here_.Run(request));
  Settle();
  guests_.Connect(*a_.host.System(*vm));
  const auto response = Finish(checking);
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(Find(*response, "agent").result(), v1::PREFLIGHT_RESULT_PASS);
}

TEST_F(PreflightTest, UnknownVmIsAnError) {
  v1::PreflightRequest request;
  request.set_vm("nobody");
  request.set_destination("host-b:1");
  EXPECT_EQ(Await(here_.Run(request)).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(PreflightTest, UnreadablePlanIsAFailedCheck) {
  v1::PreflightIncomingRequest request;
  request.set_config("nonsense");
  auto response = Await(there_.RunIncoming(request));
  ASSERT_TRUE(response.ok());
  EXPECT_FALSE(response->ok());
  EXPECT_EQ(Find(*response, "saved_state").result(), v1::PREFLIGHT_RESULT_FAIL);
}

// The same is refused by the migration itself, before a byte moves.

TEST_F(PreflightTest, MigrationBetweenHostsThatDifferIsRefusedFieldByField) {
  Boot();
  b_.host.backend.mutable_info().accelerator = "other";
  b_.host.backend.mutable_info().cpu_models[0].host_features = {"sub"};
  const v1::Session session = Wait(a_, Migrate());
  EXPECT_EQ(session.reason(), "configuration_differs");
  EXPECT_THAT(session.error(), HasSubstr("accelerator, cpu_features"));
  ASSERT_EQ(session.differences_size(), 2);
  EXPECT_EQ(session.differences(0).field(), "accelerator");
  EXPECT_EQ(session.differences(1).source(), "add");
  ExpectEmpty(b_);
}

TEST_F(PreflightTest, MigrationToAFullHostIsRefusedWithTheNumbers) {
  auto vm = Boot();
  b_.host.backend.mutable_memory() = {8192, 100};
  const v1::Session session = Wait(a_, Migrate());
  EXPECT_EQ(session.reason(), "resource_exhausted");
  EXPECT_THAT(session.error(), HasSubstr("needs 320 MiB of memory"));
  EXPECT_THAT(session.error(), HasSubstr("100 MiB available"));
  ExpectRolledBack(vm);
}

}  // namespace
}  // namespace ferry::migration
