// What an export puts into the plan, and what it refuses to leave behind.
#include "tests/unit/migration/controller/driven_fixture.h"
#include "vmmanager/state/saved_state.h"

namespace ferry::migration {
namespace {

using absl::StatusCode;

class ExportTest : public DrivenTest {};

TEST_F(ExportTest, ThePlanCarriesWhatTheBackendSaysOfItsCompatibility) {
  Boot();
  // Bytes that only the backend knows how to read.
  const std::string opaque("only the backend reads \0 this", 29);
  a_.host.backend.script().compatibility_info = opaque;
  const auto sealed = Export("s1");
  ASSERT_TRUE(sealed.ok()) << sealed.status();
  const auto plan = vm::DecodePlan(*sealed);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->vm.compat_info(), opaque);
}

TEST_F(ExportTest, AProcessThatCannotBeCarriedIsNamedAndTheVmRunsOn) {
  auto vm = Boot();
  guest::FakeAgent& agent = guests_.Agent(vm->id());
  agent.breaks_link = true;
  guest::ProcessSpec spec;
  spec.command = {"cat", "-u"};
  auto process = Await((*Await(vm->UsableGuest()))->CreateProcess(spec));
  ASSERT_TRUE(process.ok()) << process.status();
  const std::string name = "process " + std::to_string((*process)->pid()) + " (cat -u)";

  const absl::Status refused = Export("s1").status();
  EXPECT_EQ(refused.code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.message()), HasSubstr(name));
  EXPECT_THAT(Kinds(a_, "s1"), ElementsAre());
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  EXPECT_TRUE(a_.host.System(*vm)->Step());

  // Once its agent is back the process waits again, and moves.
  agent.breaks_link = false;
  guests_.Connect(*a_.host.System(*vm));
  Settle();
  ExpectRolledBack(vm);
  TransferBoth("s1");
  EXPECT_TRUE(Stop(a_, "s1", *Resume(b_, "s1", *Stop(a_, "s1"))).ok());
  ExpectMoved(vm, 2);
}

}  // namespace
}  // namespace ferry::migration
