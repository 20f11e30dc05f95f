// What migration options do above the backend, and how the two sides agree on them.
#include "tests/unit/migration/controller/driven_fixture.h"

namespace ferry::migration {
namespace {

class OptionsTest : public DrivenTest {
 protected:
  static v1::InitializeOptions Tcp() {
    v1::InitializeOptions options;
    options.set_memory_transport(v1::MEMORY_TRANSPORT_TCP);
    return options;
  }

  absl::StatusOr<std::string> ExportWith(const std::string& id,
                                         const std::optional<v1::InitializeOptions>& options) {
    v1::PrepareAndExportSandboxRequest request;
    request.set_session_id(id);
    request.set_vm("web");
    request.set_destination("host-b:1");
    if (options) *request.mutable_options() = *options;
    return Await(a_.sessions->PrepareAndExport(request));
  }

  absl::StatusOr<v1::PrepareSandboxResponse> PrepareWith(
      const std::string& id, const std::optional<v1::InitializeOptions>& options) {
    v1::PrepareSandboxRequest request;
    request.set_session_id(id);
    if (options) *request.mutable_init_options() = *options;
    return Await(b_.sessions->Prepare(request));
  }

  // Begins a migration that has one millisecond for its memory, of which no page moves.
  std::string MigrateWithLimit(v1::TimeoutAction action) {
    a_.host.backend.script().Block("Page");
    v1::MigrateRequest request = MigrateRequest();
    request.set_timeout_ms(1);
    request.set_on_timeout(action);
    return Migrate(request);
  }
};

TEST_F(OptionsTest, BothSidesMayGiveNone) {
  auto vm = Boot();
  auto plan = ExportWith("s1", std::nullopt);
  ASSERT_TRUE(plan.ok()) << plan.status();
  ASSERT_TRUE(Import("s1", *plan).ok());
  auto prepared = PrepareWith("s1", std::nullopt);
  ASSERT_TRUE(prepared.ok()) << prepared.status();
}

TEST_F(OptionsTest, GivenOptionsNeedTheTransport) {
  Boot();
  EXPECT_EQ(ExportWith("s1", v1::InitializeOptions()).status().code(),
            absl::StatusCode::kInvalidArgument);
  v1::MigrateRequest request = MigrateRequest();
  request.mutable_options()->set_memory_transport(static_cast<v1::MemoryTransport>(2));
  EXPECT_EQ(Await(a_.sessions->Migrate(request)).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(OptionsTest, SidesThatContradictEachOtherAreRefusedAndMayCorrectIt) {
  auto vm = Boot();
  v1::InitializeOptions source = Tcp();
  source.mutable_compression_settings()->set_throttle_worker_count(2);
  auto plan = ExportWith("s1", source);
  ASSERT_TRUE(plan.ok()) << plan.status();
  ASSERT_TRUE(Import("s1", *plan).ok());
  v1::InitializeOptions destination = source;
  destination.mutable_compression_settings()->set_throttle_worker_count(3);
  destination.set_checksum_verification(true);
  const absl::Status refused = PrepareWith("s1", destination).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.message()),
              HasSubstr("compression_settings, checksum_verification"));
  EXPECT_EQ(State(b_, "s1"), v1::SESSION_STATE_DESTINATION_IMPORTED);
  EXPECT_TRUE(PrepareWith("s1", source).ok());
}

TEST_F(OptionsTest, UnknownProfileAndActionAreRefused) {
  Boot();
  v1::MigrateRequest request = MigrateRequest();
  request.set_profile(static_cast<v1::MigrationProfile>(7));
  EXPECT_EQ(Await(a_.sessions->Migrate(request)).status().code(),
            absl::StatusCode::kInvalidArgument);
  request = MigrateRequest();
  request.set_on_timeout(static_cast<v1::TimeoutAction>(7));
  EXPECT_EQ(Await(a_.sessions->Migrate(request)).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(a_.sessions->List("").empty());
}

TEST_F(OptionsTest, ATimeLimitCallsOffBeforeTheSwitchover) {
  auto vm = Boot();
  const v1::Session session = Wait(a_, MigrateWithLimit(v1::TIMEOUT_ACTION_UNSPECIFIED));
  EXPECT_EQ(session.reason(), "timed_out");
  EXPECT_EQ(session.outcome(), v1::SESSION_OUTCOME_CANCELLED);
  EXPECT_THAT(session.error(), HasSubstr("limit of 1 ms"));
  EXPECT_EQ(session.vm_location(), "host-a:1");
  ExpectRolledBack(vm);
}

TEST_F(OptionsTest, ATimeLimitForcesTheSwitchover) {
  auto vm = Boot();
  vm::FakeComputeSystem* system = a_.host.System(*vm);
  const std::string id = MigrateWithLimit(v1::TIMEOUT_ACTION_FORCE);
  Until([&] { return system->forced().has_value(); });
  EXPECT_EQ(system->forced(), vm::SwitchoverForce::kLiftLimits);
  EXPECT_TRUE(system->Step());
  a_.host.backend.script().Release("Page");
  const v1::Session session = Wait(a_, id);
  EXPECT_EQ(session.vm_location(), "host-b:1");
  EXPECT_TRUE(session.statistics().switchover_forced());
}

TEST_F(OptionsTest, ATimeLimitThatIsOverBeforeMemoryMovesCountsThen) {
  auto vm = Boot();
  vm::FakeComputeSystem* system = a_.host.System(*vm);
  peer_->Block("Import");
  const std::string id = MigrateWithLimit(v1::TIMEOUT_ACTION_FORCE);
  Await(peer_->WaitBlocked("Import"));
  // The limit began before this does, so it is over first.
  Await(Delay(milliseconds(1)));
  peer_->Release("Import");
  Until([&] { return system->forced().has_value(); });
  a_.host.backend.script().Release("Page");
  EXPECT_TRUE(Wait(a_, id).statistics().switchover_forced());
}

TEST_F(OptionsTest, ATimeLimitPausesTheGuestAndItRunsAgainThere) {
  auto vm = Boot();
  vm::FakeComputeSystem* system = a_.host.System(*vm);
  const std::string id = MigrateWithLimit(v1::TIMEOUT_ACTION_PAUSE);
  Until([&] { return system->forced().has_value(); });
  EXPECT_FALSE(system->Step());
  a_.host.backend.script().Release("Page");
  EXPECT_EQ(Wait(a_, id).vm_location(), "host-b:1");
  auto there = *b_.host.inventory->Find("web");
  EXPECT_EQ(there->state(), v1::VM_STATE_RUNNING);
  EXPECT_TRUE(b_.host.System(*there)->Step());
}

TEST_F(OptionsTest, AGuestPausedByItsTimeLimitRunsOnWhereTheRestCannotMove) {
  auto vm = Boot();
  vm::FakeComputeSystem* system = a_.host.System(*vm);
  const std::string id = MigrateWithLimit(v1::TIMEOUT_ACTION_PAUSE);
  Until([&] { return system->forced().has_value(); });
  EXPECT_TRUE(Cancel(a_, id).ok());
  Wait(a_, id);
  ExpectRolledBack(vm);
}

v1::MigrateRequest WithThreshold(v1::MigrateRequest request, uint32_t ms) {
  request.mutable_options()->set_cancel_if_blackout_threshold_exceeds(true);
  request.mutable_options()
      ->mutable_memory_transfer_throttle_params()
      ->set_blackout_time_threshold_for_cancelling_migration(ms);
  return request;
}

TEST_F(OptionsTest, ABlackoutThatWouldBeTooLongIsNotBegun) {
  auto vm = Boot();
  a_.host.backend.script().shape_progress = [](vm::TransferProgress& progress) {
    progress.remaining_bytes = 3000;
    progress.bytes_per_second = 1000;
  };
  const v1::Session session = Wait(a_, Migrate(WithThreshold(MigrateRequest(), 2999)));
  EXPECT_EQ(session.reason(), "blackout_threshold_exceeded");
  EXPECT_EQ(session.outcome(), v1::SESSION_OUTCOME_CANCELLED);
  EXPECT_THAT(session.error(), HasSubstr("about 3000 ms"));
  ExpectRolledBack(vm);
  Wait(a_, Migrate(WithThreshold(MigrateRequest(), 3000)));
  ExpectMoved(vm, 2);
}

TEST_F(OptionsTest, ABlackoutThatTakesTooLongIsCalledOff) {
  auto vm = Boot();
  a_.host.backend.script().Block("SwitchOver");
  const v1::Session session = Wait(a_, Migrate(WithThreshold(MigrateRequest(), 1)));
  EXPECT_EQ(session.reason(), "blackout_threshold_exceeded");
  EXPECT_THAT(session.error(), HasSubstr("threshold of 1 ms"));
  ExpectRolledBack(vm);
}

TEST_F(OptionsTest, NoBlackoutIsTooLongOnceItIsCommitted) {
  auto vm = Boot();
  AsyncEvent go_on(io_.get_executor());
  HoldAppend(a_, "COMMIT", go_on);
  const std::string id = Migrate(WithThreshold(MigrateRequest(), 1500));
  // A commit that hangs in the disk for longer than the threshold.
  const auto over = std::chrono::steady_clock::now() + milliseconds(2500);
  Until([&] { return std::chrono::steady_clock::now() > over; });
  go_on.Set();
  EXPECT_EQ(Wait(a_, id).vm_location(), "host-b:1");
  ExpectMoved(vm, 2);
}

TEST_F(OptionsTest, WhatDoesNotConvergeSaysSo) {
  auto vm = Boot();
  a_.host.backend.script().pages = 100'000;
  uint64_t pass = 0;
  a_.host.backend.script().shape_progress = [&pass](vm::TransferProgress& progress) {
    progress.pass = ++pass;
    progress.remaining_bytes = 5000;
    progress.throttle_percent = 99;
  };
  const v1::Session session = Wait(a_, Migrate());
  EXPECT_EQ(session.reason(), "not_converging");
  EXPECT_EQ(session.statistics().throttle_percent(), 99u);
  EXPECT_EQ(session.progress().throttle_percent(), 99u);
  ExpectRolledBack(vm);
}

TEST_F(OptionsTest, AVerifiedMigrationSaysHowMuchOfItWas) {
  Boot();
  v1::MigrateRequest request = MigrateRequest();
  request.mutable_options()->set_checksum_verification(true);
  const std::string id = Migrate(request);
  const uint64_t verified = Wait(a_, id).statistics().verified_bytes();
  EXPECT_GT(verified, 8u * 64);
  EXPECT_EQ(Describe(b_, id).statistics().verified_bytes(), verified);
  auto back = Await(b_.sessions->Migrate(MigrateRequest("web", "host-a:1")));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(Wait(b_, back->session_id()).statistics().verified_bytes(), 0u);
}

TEST_F(OptionsTest, BothSidesKeepATraceOfATracedSession) {
  Boot();
  v1::MigrateRequest request = MigrateRequest();
  request.mutable_options()->set_perf_tracing_enabled(true);
  const std::string id = Migrate(request);
  Wait(a_, id);
  auto source = a_.sessions->Trace(id);
  ASSERT_TRUE(source.ok()) << source.status();
  for (const char* name : {"Transferring", "COMMIT", "RELEASED", "pass 1", "device state", "cut"}) {
    EXPECT_THAT(*source, HasSubstr(name));
  }
  auto destination = b_.sessions->Trace(id);
  ASSERT_TRUE(destination.ok()) << destination.status();
  for (const char* name : {"PREPARED", "GRANTED", "resume"}) {
    EXPECT_THAT(*destination, HasSubstr(name));
  }
  ASSERT_TRUE(Cleanup(a_, id).ok());
  EXPECT_TRUE(a_.sessions->Trace(id).ok());
}

TEST_F(OptionsTest, WithoutTracingThereIsNone) {
  Boot();
  const std::string id = Migrate();
  Wait(a_, id);
  EXPECT_EQ(a_.sessions->Trace(id).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(a_.sessions->Trace("s7").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(OptionsTest, ThePatientModeWaitsLonger) {
  const ControllerLimits limits;
  schema::MigrationInitializeOptions options;
  EXPECT_EQ(limits.For(options).vote, limits.vote);
  options.prepare_memory_transfer_mode = true;
  EXPECT_EQ(limits.For(options).cut, limits.cut * 4);
  EXPECT_EQ(limits.For(options).vote, limits.vote * 4);
  EXPECT_EQ(limits.For(options).stall, limits.stall * 4);
  EXPECT_EQ(limits.For(options).decision, limits.decision);
}

TEST_F(OptionsTest, ThePatientModeOutlastsALateVote) {
  auto vm = Boot();
  a_.deps->limits.vote = milliseconds(700);
  AsyncEvent go_on(io_.get_executor());
  HoldAppend(b_, "PREPARED", go_on);
  v1::MigrateRequest request = MigrateRequest();
  request.mutable_options()->set_prepare_memory_transfer_mode(true);
  const std::string id = Migrate(request);
  Until([&] { return State(a_, id) == v1::SESSION_STATE_TRANSFERRING; });
  const auto late = std::chrono::steady_clock::now() + milliseconds(1000);
  Until([&] { return std::chrono::steady_clock::now() > late; });
  go_on.Set();
  Wait(a_, id);
  ExpectMoved(vm, 2);
}

}  // namespace
}  // namespace ferry::migration
