#include "vmmanager/state/saved_state.h"

#include <google/protobuf/descriptor.h>
#include <gtest/gtest.h>

#include <functional>

#include "vmmanager/schema/compute_system.h"
#include "vmmanager/state/envelope.h"

namespace ferry::vm {
namespace {

using absl::StatusCode;

PlanState MakePlan() {
  PlanState plan;
  plan.session_id = "session-1";
  plan.source_address = "10.0.0.1:7000";
  plan.vm.set_schema_version(kStateSchemaVersion);
  plan.vm.set_vm_id("vm-1");
  plan.vm.set_hcs_document_json(schema::ToJson(schema::ComputeSystem{}));
  state::v1::Fingerprint& fingerprint = *plan.vm.mutable_fingerprint();
  fingerprint.set_cpus(1);
  fingerprint.set_memory_mb(256);
  fingerprint.add_devices("disk0");
  return plan;
}

guest::GuestState MakeGuest() {
  guest::GuestState state;
  state.next_port = bridge::kFirstStdioPort + 10;
  state.next_message_id = 20;
  state.started_unix_ms = 1'700'000'000'000;
  guest::ProcessState process;
  process.pid = 7;
  process.spec.command = {"cat", "-v"};
  process.spec.environment = {{"A", "b"}};
  process.stdout_port = bridge::kFirstStdioPort + 1;
  process.stderr_port = bridge::kFirstStdioPort + 2;
  process.wait_call_id = 5;
  process.request_id = "the call that made it";
  process.std_out = {{2, 1000}, true, 998, "ab"};
  process.exit_status = {guest::ExitStatus::Kind::kSignal, 9};
  state.processes.push_back(process);
  return state;
}

class SavedStateTest : public testing::Test {
 protected:
  std::string plan_ = *EncodePlan(MakePlan());
  std::string cut_ = *EncodeCut({"session-1", "vm-1", PlanDigest(plan_), MakeGuest(), "mux", true});
};

TEST_F(SavedStateTest, BothPartsRoundTrip) {
  auto plan = DecodePlan(plan_);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->vm.SerializeAsString(), MakePlan().vm.SerializeAsString());
  auto cut = DecodeCut(cut_, plan_);
  ASSERT_TRUE(cut.ok()) << cut.status();
  EXPECT_TRUE(cut->paused_by_user);
  EXPECT_EQ(cut->guest_link, "mux");
  EXPECT_EQ(cut->guest.started_unix_ms, MakeGuest().started_unix_ms);
  ASSERT_EQ(cut->guest.processes.size(), 1u);
  const guest::ProcessState& process = cut->guest.processes[0];
  EXPECT_EQ(process.exit_status, MakeGuest().processes[0].exit_status);
  EXPECT_EQ(process.std_out.spool, "ab");
  EXPECT_EQ(process.std_out.taken, (guest::StreamPosition{2, 1000}));
  EXPECT_EQ(process.spec.environment.at("A"), "b");
  EXPECT_EQ(process.wait_call_id, 5);
  EXPECT_EQ(process.request_id, "the call that made it");
}

TEST_F(SavedStateTest, EveryFlippedByteAndTruncationIsRefused) {
  for (size_t i = 0; i < plan_.size(); ++i) {
    std::string flipped = plan_;
    flipped[i] ^= 1;
    EXPECT_FALSE(DecodePlan(flipped).ok()) << i;
    EXPECT_FALSE(DecodePlan(plan_.substr(0, i)).ok()) << i;
  }
  for (size_t i = 0; i < cut_.size(); ++i) {
    std::string flipped = cut_;
    flipped[i] ^= 0x80;
    EXPECT_FALSE(DecodeCut(flipped, plan_).ok()) << i;
    EXPECT_FALSE(DecodeCut(cut_.substr(0, i), plan_).ok()) << i;
  }
  EXPECT_EQ(DecodePlan("hello").status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(DecodePlan(cut_).status().code(), StatusCode::kFailedPrecondition);
}

TEST_F(SavedStateTest, UnknownContent) {
  state::v1::Plan message;
  ASSERT_TRUE(message.ParseFromString(Open(StateKind::kPlan, plan_)->message));
  auto with = [&](const std::function<void(state::v1::Plan&)>& change) {
    state::v1::Plan changed = message;
    change(changed);
    return DecodePlan(Seal(StateKind::kPlan, changed.SerializeAsString())).status().code();
  };
  auto add = [](google::protobuf::Message& m, int number) {
    m.GetReflection()->MutableUnknownFields(&m)->AddVarint(number, 1);
  };
  EXPECT_EQ(with([&](auto& p) { add(p, 999); }), StatusCode::kFailedPrecondition);
  EXPECT_EQ(with([&](auto& p) { add(p, 1000); }), StatusCode::kOk);
  EXPECT_EQ(with([&](auto& p) { p.set_schema_version(2); }), StatusCode::kFailedPrecondition);
  EXPECT_EQ(with([&](auto& p) { p.clear_vm(); }), StatusCode::kInvalidArgument);
  EXPECT_EQ(with([&](auto& p) { p.mutable_vm()->set_type_url("a/b"); }),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(with([&](auto& p) { p.mutable_vm()->set_value("\xff"); }),
            StatusCode::kInvalidArgument);
  const StateSection later{77, false, "x"};
  auto opened = Open(StateKind::kPlan, Seal(StateKind::kPlan, "m", {later}));
  ASSERT_TRUE(opened.ok());
  EXPECT_EQ(opened->unknown_optional, std::vector<StateSection>{later});
  EXPECT_EQ(Open(StateKind::kPlan, Seal(StateKind::kPlan, "m", {{78, true, "x"}})).status().code(),
            StatusCode::kFailedPrecondition);
}

TEST_F(SavedStateTest, OtherVersionsAreRefusedByName) {
  for (const char version : {0, 2}) {
    std::string changed = plan_.substr(0, plan_.size() - 32);
    changed[8] = version;
    const absl::Status status = DecodePlan(changed + Sha256(changed)).status();
    EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
    EXPECT_NE(status.message().find("neighbouring releases"), std::string::npos) << status;
  }
}

TEST_F(SavedStateTest, AStoreComesWithFirmwareAndOnlyThen) {
  PlanState plan = MakePlan();
  plan.vm.set_firmware_store("packed");
  EXPECT_EQ(EncodePlan(plan).status().code(), StatusCode::kInvalidArgument);
  schema::ComputeSystem document;
  document.virtual_machine.chipset.uefi = {"/code", "/store"};
  plan.vm.set_hcs_document_json(schema::ToJson(document));
  EXPECT_TRUE(EncodePlan(plan).ok());
  plan.vm.clear_firmware_store();
  EXPECT_EQ(EncodePlan(plan).status().code(), StatusCode::kInvalidArgument);
  plan.vm.set_firmware_store(std::string(3 << 20, 'x'));
  EXPECT_EQ(EncodePlan(plan).status().code(), StatusCode::kInvalidArgument);
  // A host that does not know them refuses the VM.
  const auto is_critical = [](const google::protobuf::Descriptor* message, const char* field) {
    return message->FindFieldByName(field)->number() < 1000;
  };
  EXPECT_TRUE(is_critical(state::v1::VmPayload::descriptor(), "firmware_store"));
  EXPECT_TRUE(is_critical(state::v1::Fingerprint::descriptor(), "firmware_sha256"));
}

TEST_F(SavedStateTest, AnIdThatLeadsElsewhereIsNone) {
  for (const std::string& id : {std::string("../../etc/x"), std::string("a/b"), std::string(".."),
                                std::string(200, 'a'), std::string("a\0b", 3)}) {
    PlanState plan = MakePlan();
    plan.vm.set_vm_id(id);
    EXPECT_EQ(EncodePlan(plan).status().code(), StatusCode::kInvalidArgument) << id;
  }
}

TEST_F(SavedStateTest, OptionalContentOfALaterReleaseIsKept) {
  PlanState plan = MakePlan();
  auto later = [](google::protobuf::Message& m) -> google::protobuf::UnknownFieldSet& {
    return *m.GetReflection()->MutableUnknownFields(&m);
  };
  later(plan.vm).AddLengthDelimited(1999, "later");
  auto sealed = EncodePlan(plan);
  ASSERT_TRUE(sealed.ok());
  auto opened = DecodePlan(*sealed);
  ASSERT_TRUE(opened.ok()) << opened.status();
  ASSERT_EQ(later(opened->vm).field_count(), 1);
  EXPECT_EQ(later(opened->vm).field(0).length_delimited(), "later");
  EXPECT_EQ(*EncodePlan(*opened), *sealed);
}

// The release before had a digest there that was always 0, so neither writes it. One that is filled
// would mean something that nobody here checks.
TEST_F(SavedStateTest, TheCutsFormerDigestIsNeverWrittenAndNeverPassedOver) {
  constexpr int kFormerDigest = 7;
  state::v1::Cut message;
  ASSERT_TRUE(message.ParseFromString(Open(StateKind::kCut, cut_)->message));
  EXPECT_TRUE(message.GetReflection()->GetUnknownFields(message).empty());
  EXPECT_EQ(message.GetDescriptor()->FindFieldByNumber(kFormerDigest), nullptr);
  EXPECT_TRUE(message.GetDescriptor()->IsReservedNumber(kFormerDigest));
  message.GetReflection()->MutableUnknownFields(&message)->AddVarint(kFormerDigest, 42);
  EXPECT_EQ(DecodeCut(Seal(StateKind::kCut, message.SerializeAsString()), plan_).status().code(),
            StatusCode::kFailedPrecondition);
}

TEST_F(SavedStateTest, ACutOfAnotherPlanIsRefused) {
  PlanState other = MakePlan();
  other.source_address = "elsewhere";
  EXPECT_EQ(DecodeCut(cut_, *EncodePlan(other)).status().code(), StatusCode::kFailedPrecondition);
}

// The init of a container, on ports behind those of the others.
guest::ProcessState MakeStarting(guest::GuestState& state) {
  guest::ProcessState init;
  init.container_id = std::string(64, 'a');
  init.spec.command = {"serve"};
  init.wait_call_id = state.next_message_id++;
  init.stdout_port = state.next_port++;
  init.stderr_port = state.next_port++;
  return init;
}

TEST_F(SavedStateTest, StartsThatAreNotAnsweredComeBack) {
  guest::GuestState state = MakeGuest();
  state.starting = {MakeStarting(state)};
  const auto encoded = EncodeGuest(state);
  ASSERT_TRUE(encoded.ok()) << encoded.status();
  const auto decoded = DecodeGuest(*encoded);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  ASSERT_EQ(decoded->starting.size(), 1u);
  EXPECT_EQ(decoded->starting[0].container_id, state.starting[0].container_id);
  EXPECT_EQ(decoded->starting[0].wait_call_id, state.starting[0].wait_call_id);
  EXPECT_EQ(decoded->starting[0].stderr_port, state.starting[0].stderr_port);
}

TEST_F(SavedStateTest, AStartOfAContainerThatDoesNotComeIsRefused) {
  CutState cut = *DecodeCut(cut_, plan_);
  cut.guest.starting = {MakeStarting(cut.guest)};
  const auto sealed = EncodeCut(cut);
  ASSERT_TRUE(sealed.ok()) << sealed.status();
  EXPECT_TRUE(absl::IsInvalidArgument(DecodeCut(*sealed, plan_).status()));
}

TEST_F(SavedStateTest, GuestBounds) {
  using guest::GuestState;
  const std::vector<std::function<void(GuestState&)>> breaks = {
      [](GuestState& g) { g.processes[0].pid = 0; },
      [](GuestState& g) { g.processes.push_back(g.processes[0]); },
      [](GuestState& g) { g.processes[0].wait_call_id = 0; },
      [](GuestState& g) { g.processes[0].wait_call_id = 20; },
      [](GuestState& g) { g.processes[0].stdout_port = 0; },
      [](GuestState& g) { g.processes[0].stdout_port = 109; },
      [](GuestState& g) { g.processes[0].stdout_port = g.processes[0].stderr_port; },
      [](GuestState& g) { g.processes[0].stdin_port = bridge::kFirstStdioPort; },
      [](GuestState& g) { g.processes[0].stderr_port = g.next_port; },
      [](GuestState& g) { g.processes[0].std_out.spool.assign(kMaxSpoolBytes + 1, 's'); },
      [](GuestState& g) { g.processes[0].std_out.spool_start = UINT64_MAX; },
      [](GuestState& g) { g.next_message_id = -1; },
      [](GuestState& g) { g.processes.resize(kMaxProcesses + 1); },
      [](GuestState& g) { g.starting = {MakeStarting(g)}, g.starting[0].pid = 7; },
      [](GuestState& g) {
        g.starting = {MakeStarting(g), MakeStarting(g)};
      },
      [](GuestState& g) { g.starting = {MakeStarting(g)}, g.starting[0].container_id.clear(); },
      [](GuestState& g) { g.starting = {MakeStarting(g)}, g.starting[0].wait_call_id = 0; },
      [](GuestState& g) {
        g.starting = {MakeStarting(g)};
        g.starting[0].stdout_port = g.processes[0].stdout_port;
      },
  };
  for (size_t i = 0; i < breaks.size(); ++i) {
    GuestState state = MakeGuest();
    breaks[i](state);
    EXPECT_EQ(EncodeGuest(state).status().code(), StatusCode::kInvalidArgument) << i;
  }
}

TEST_F(SavedStateTest, CutThatCouldNotTravelIsRefusedBeforehand) {
  constexpr size_t kLimit = 64 * 1024 * 1024;
  guest::GuestState state = MakeGuest();
  EXPECT_TRUE(CheckCutFits(state, kLimit).ok());
  // Its spools may fill up until the cut.
  EXPECT_EQ(CheckCutFits(state, guest::SpoolSettings().total).code(),
            StatusCode::kFailedPrecondition);
  // Beyond the count, too, it is known at once.
  state.processes.resize(kMaxProcesses + 1);
  EXPECT_FALSE(CheckCutFits(state, kLimit).ok());
}

}  // namespace
}  // namespace ferry::vm
