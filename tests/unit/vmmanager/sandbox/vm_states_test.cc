// Every operation in every state in which a VM can rest.
#include <map>

#include "tests/unit/vmmanager/sandbox/sandbox_fixture.h"

namespace ferry::vm {
namespace {

using absl::StatusCode;

struct StateCase {
  v1::VmState state;
  const char* told;  // how a refusal names the state
  StatusCode start, stop, force, pause, resume, remove, migrate;
};

constexpr StatusCode kOk = StatusCode::kOk;
constexpr StatusCode kNo = StatusCode::kFailedPrecondition;
constexpr StatusCode kHeld = StatusCode::kAlreadyExists;

constexpr StateCase kCases[] = {
    //                                            start stop force pause resume delete migrate
    {v1::VM_STATE_STOPPED, "STOPPED", kOk, kOk, kOk, kNo, kNo, kOk, kNo},
    {v1::VM_STATE_RUNNING, "RUNNING", kOk, kOk, kOk, kOk, kOk, kNo, kOk},
    {v1::VM_STATE_PAUSED, "PAUSED", kNo, kNo, kOk, kOk, kOk, kNo, kOk},
    {v1::VM_STATE_FAILED, "FAILED", kOk, kOk, kOk, kNo, kNo, kOk, kNo},
    {v1::VM_STATE_MIGRATING_OUT, "MIGRATING_OUT", kOk, kNo, kNo, kOk, kOk, kNo, kHeld},
    {v1::VM_STATE_INCOMING, "INCOMING", kNo, kNo, kNo, kNo, kNo, kNo, kHeld},
    {v1::VM_STATE_IN_DOUBT, "IN_DOUBT", kNo, kNo, kNo, kNo, kOk, kNo, kHeld},
};

class VmStatesTest : public SandboxTest, public ::testing::WithParamInterface<StateCase> {
 protected:
  std::shared_ptr<UtilityVm> Bring(v1::VmState state) {
    auto vm = Create("web");
    if (state == v1::VM_STATE_INCOMING) {
      const schema::MigrationInitializeOptions options;
      MigrationEndpoint endpoint;
      endpoint.unix_path = folder_.path() + "/" + vm->id();
      vm->ExpectMigration("session-1");
      EXPECT_TRUE(Await(vm->PrepareIncoming(options, endpoint)).ok());
      return vm;
    }
    if (state == v1::VM_STATE_STOPPED) return vm;
    EXPECT_TRUE(Await(vm->Start()).ok());
    if (state == v1::VM_STATE_PAUSED) {
      EXPECT_TRUE(Await(vm->Pause()).ok());
    }
    if (state == v1::VM_STATE_FAILED) {
      host_.System(*vm)->Exit(SystemExit::Cause::kCrashed, "");
      Settle();
    }
    if (state == v1::VM_STATE_MIGRATING_OUT || state == v1::VM_STATE_IN_DOUBT) {
      EXPECT_TRUE(vm->OpenMigration("session-1", "host-b:1").ok());
    }
    if (state == v1::VM_STATE_IN_DOUBT) vm->MarkInDoubt();
    return vm;
  }

  void SetUp() override { host_.settings.outcome_wait = milliseconds(20); }

  // Does `operation` to a fresh VM in the state and compares.
  void Check(const char* name, StatusCode expected,
             const std::function<absl::Status(std::shared_ptr<UtilityVm>)>& operation) {
    auto vm = Bring(GetParam().state);
    ASSERT_EQ(vm->state(), GetParam().state);
    const absl::Status status = operation(vm);
    EXPECT_EQ(status.code(), expected) << name << ": " << status;
    if (expected != kOk) {
      EXPECT_EQ(vm->state(), GetParam().state) << name << " was refused, yet did something";
      EXPECT_THAT(std::string(status.message()), HasSubstr("web")) << name;
      // It says what the VM does, or what holds it.
      EXPECT_THAT(std::string(status.message()),
                  ::testing::AnyOf(HasSubstr(GetParam().told), HasSubstr("session-1"),
                                   HasSubstr("is paused")))
          << name;
      EXPECT_THAT(NextStepOf(status), ::testing::AnyOf(HasSubstr("web"), HasSubstr("session-1")))
          << name;
    }
    // Another one must be able to take the name.
    if (!host_.inventory->Find(vm->id()).ok()) return;
    if (vm->current_notice()) vm->ReturnFromMigration(vm->epoch());
    if (vm->state() == v1::VM_STATE_INCOMING) {
      Await(vm->Discard(absl::CancelledError("over")));
      EXPECT_TRUE(Await(host_.inventory->Forget(vm->id(), "")).ok());
      return;
    }
    EXPECT_TRUE(Await(vm->Stop(true, milliseconds(1000))).ok());
    EXPECT_TRUE(Await(host_.inventory->Delete(vm)).ok());
  }
};

TEST_P(VmStatesTest, AllowsOrRefusesEachOperation) {
  const StateCase& c = GetParam();
  const milliseconds limit(60'000);
  Check("start", c.start, [&](auto vm) { return Await(vm->Start()); });
  Check("stop", c.stop, [&](auto vm) { return Await(vm->Stop(false, limit)); });
  Check("force", c.force, [&](auto vm) { return Await(vm->Stop(true, limit)); });
  Check("pause", c.pause, [&](auto vm) { return Await(vm->Pause()); });
  Check("delete", c.remove, [&](auto vm) { return Await(host_.inventory->Delete(vm)); });
  Check("migrate", c.migrate, [&](auto vm) { return vm->OpenMigration("session-2", "host-c:1"); });
  Check("resume", c.resume, [&](auto vm) {
    auto resumed = Begin(vm->Resume());
    Settle();
    // While a migration holds the VM, resuming waits for its outcome.
    EXPECT_EQ(resumed->has_value(), !vm->current_notice().has_value());
    if (!resumed->has_value()) vm->ReturnFromMigration(vm->epoch());
    return Finish(resumed);
  });
}

INSTANTIATE_TEST_SUITE_P(States, VmStatesTest, ::testing::ValuesIn(kCases), [](const auto& info) {
  std::string name = v1::VmState_Name(info.param.state).substr(sizeof("VM_STATE_") - 1);
  std::erase(name, '_');
  return name;
});

}  // namespace
}  // namespace ferry::vm
