#pragma once

#include <memory>
#include <string>
#include <utility>

#include "tests/unit/migration/controller/driven_fixture.h"

namespace ferry::migration {

inline constexpr auto kRunHere = v1::FORCED_DECISION_RUN_HERE;
inline constexpr auto kGiveUp = v1::FORCED_DECISION_GIVE_UP;

// A person decides about a VM that is in doubt, without the destination's word.
class ForcingTest : public DrivenTest {
 protected:
  // These hosts share nothing: what a person decides is all there is.
  void SetUp() override {
    DrivenTest::SetUp();
    b_.host.fence.Share(std::make_shared<vm::FakeClaims>());
  }

  // A migration whose source is committed and hears nothing more: its questions wait, and the
  // destination is just being told to run the VM.
  std::string MigrateIntoDoubt(const v1::MigrateRequest& request = MigrateRequest()) {
    a_.deps->limits.release = milliseconds(5);
    a_.deps->limits.ask_again = milliseconds(5);
    peer_->Block("Settle");
    FakeWire& wire = UseWire();
    b_.host.backend.script().Block("FinalizeLiveMigration");
    const std::string id = Migrate(request);
    Await(b_.host.backend.script().WaitBlocked("FinalizeLiveMigration"));
    wire.Cut();
    Await(peer_->WaitBlocked("Settle"));
    return id;
  }

  // The same, and the VM runs at the destination already.
  std::string MigrateAndLoseDone() {
    const std::string id = MigrateIntoDoubt();
    b_.host.backend.script().Release("FinalizeLiveMigration");
    Until([&] { return Kinds(b_, id).back() == "RUNNING"; });
    Settle();
    return id;
  }

  absl::StatusOr<v1::RecoverSessionResponse> Recover(
      MigrationHost& host, const std::string& id, const std::string& vm = "",
      v1::ForcedDecision decision = v1::FORCED_DECISION_UNSPECIFIED) {
    v1::RecoverSessionRequest request;
    request.set_session_id(id);
    request.set_force(!vm.empty());
    request.set_vm_name(vm);
    request.set_decision(decision);
    return Await(host.sessions->RecoverSession(std::move(request)));
  }

  // Whether that host's copy executes.
  static bool Runs(MigrationHost& host, const std::string& vm_id) {
    auto vm = host.host.inventory->Find(vm_id);
    return vm.ok() && (*vm)->system() != nullptr && host.host.System(**vm)->Step();
  }

  // Whether it is held there, to be ended.
  static bool IsHeld(MigrationHost& host, const std::string& vm_id) {
    auto vm = host.host.inventory->Find(vm_id);
    return vm.ok() && !(*vm)->RefuseIfMigrating("started").ok();
  }

  // Until the destination has answered to it.
  void AwaitTold(const std::string& id) {
    Until([&] { return Describe(a_, id).error().find("has no copy of it") != std::string::npos; });
    Settle();
  }

  // What the source tells, as somebody may repeat it.
  v1::SettleSessionRequest ForcedRequest(const std::string& id) {
    const auto records = Await(a_.host.store.ReadJournal(id));
    const vm::JournalRecord& last = records->back();
    EXPECT_EQ(last.kind, "FORCED");
    state::v1::CommitDetail detail;
    EXPECT_TRUE(detail.ParseFromString(last.detail));
    Proof proof;
    proof.kind = ProofKind::kForced;
    proof.session_id = id;
    proof.vm_id = last.vm_id;
    proof.epoch = last.epoch;
    proof.plan_digest = detail.plan_sha256();
    proof.journal_id = a_.host.store.journal_id();
    v1::SettleSessionRequest request;
    request.set_session_id(id);
    request.set_vm_id(last.vm_id);
    request.set_epoch(detail.epoch());
    request.set_plan_sha256(detail.plan_sha256());
    request.set_proof(EncodeProof(proof, detail.plan_sha256()));
    return request;
  }
  absl::StatusOr<v1::SettleSessionResponse> SayForced(const std::string& id,
                                                      MayForce may_force = MayForce::kYes) {
    return Await(b_.sessions->Settle(ForcedRequest(id), "", may_force));
  }

  // The destination has nothing of the session but its journal.
  void DropRecord(const std::string& id) {
    ASSERT_TRUE(Cleanup(b_, id).ok());
    Settle();
    ASSERT_TRUE(Await(b_.host.store.DeleteSession(id)).ok());
    Reload(b_);
  }

  // The destination's disk turns out to be full once `go_on` is set.
  void FailLater(AsyncEvent& go_on) {
    b_.host.store.before_append = [event = &go_on](vm::JournalRecord) {
      return WaitAndFail(event);
    };
  }
  static Task<absl::Status> WaitAndFail(AsyncEvent* event) {
    co_await event->Wait();
    co_return absl::ResourceExhaustedError("the disk is full");
  }

  // A session of the destination's with the VM, as its journal tells of it.
  void WriteOnward(const std::string& vm_id, const std::string& kind, uint64_t epoch) {
    vm::SessionRow row;
    row.id = "onward";
    row.vm_id = vm_id;
    row.is_source = true;
    row.decided = true;
    v1::Session session;
    session.set_session_id(row.id);
    session.set_destination("host-c:1");
    row.session_bytes = session.SerializeAsString();
    ASSERT_TRUE(Await(b_.host.store.PutSession(row)).ok());
    ASSERT_TRUE(Await(b_.host.store.Append({0, row.id, vm_id, kind, epoch, "", ""}, {})).ok());
  }

  void ExpectRunsAtSourceOnly(const std::shared_ptr<vm::UtilityVm>& vm) {
    Settle();
    EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
    EXPECT_EQ(vm->epoch(), 4u);
    EXPECT_TRUE(Runs(a_, vm->id()));
    EXPECT_TRUE(Await(vm->UsableGuest()).ok());
    ExpectEmpty(b_);
  }

  void ExpectRunsAtSourceOnly(const std::shared_ptr<vm::UtilityVm>& vm, const std::string& id) {
    ExpectRunsAtSourceOnly(vm);
    for (MigrationHost* host : {&a_, &b_}) {
      const v1::Session session = Describe(*host, id);
      EXPECT_TRUE(session.done());
      EXPECT_EQ(session.vm_location(), "host-a:1");
      EXPECT_EQ(session.outcome(), v1::SESSION_OUTCOME_FAILED);
    }
    EXPECT_EQ(Describe(a_, id).reason(), "forced");
  }

  // The last phase that a subscriber of the source's session is told, once that has ended.
  Task<v1::MigrationPhase> LastPhase(std::string id) {
    auto notifier = co_await a_.sessions->Notifications(id);
    auto phase = v1::MIGRATION_PHASE_UNSPECIFIED;
    uint32_t last = 0;
    while (notifier.ok()) {
      auto next = co_await (*notifier)->Next(last);
      if (!next.ok() || next->empty()) break;
      last = next->back().message_id();
      phase = next->back().notification().phase();
    }
    co_return phase;
  }

  std::shared_ptr<vm::FakeScript> fresh_peer_ =
      std::make_shared<vm::FakeScript>(io_.get_executor());
};

}  // namespace ferry::migration
