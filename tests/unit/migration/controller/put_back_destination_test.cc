// A destination whose journal was put back to an earlier state, witness and all. It refuses what it
// cannot prove to have been granted, and says that this is no refusal like any other.
#include "tests/unit/migration/controller/driven_fixture.h"

namespace ferry::migration {
namespace {

class DestinationPutBackTest : public DrivenTest {
 protected:
  // Up to the destination's vote, over a wire that can be cut.
  void VoteOn(const std::string& id, const std::string& vm = "web") {
    v1::PrepareSandboxResponse prepared = PrepareBoth(id, vm);
    prepared.set_session_address(UseWire().LeadTo(prepared.session_address()));
    EXPECT_TRUE(Transfer(b_, id).ok());
    EXPECT_TRUE(Transfer(a_, id, prepared).ok());
    Until([&] { return State(a_, id) == v1::SESSION_STATE_TRANSFER_COMPLETED; });
  }

  // The destination's daemon dies; its journal ends with the record of that kind when it is back.
  void PutBackTo(const std::string& kind) {
    wire_->Cut();
    Settle();
    std::vector<vm::JournalRecord>& journal = b_.host.store.journal();
    while (journal.back().kind != kind) journal.pop_back();
    Restart(b_);
    Settle();
  }

  int PutBackEvents() {
    int count = 0;
    Settle();
    const auto events = Await(b_.host.store.ReadEvents(0, 1000));
    for (const vm::EventRow& event : *events) {
      if (event.type == "journal.put_back") ++count;
    }
    return count;
  }

  // The source's word on a session that is at QUIESCED or COMMIT there, with what it was told.
  v1::SettleSessionRequest Word(const std::string& id, ProofKind kind, uint64_t epoch) {
    const auto records = Await(a_.host.store.ReadJournal(id));
    state::v1::CommitDetail detail;
    EXPECT_TRUE(detail.ParseFromString(records->back().detail));
    const auto told = Await(b_.host.store.ReadJournal(id));
    Proof proof;
    proof.kind = kind;
    proof.session_id = id;
    proof.vm_id = records->back().vm_id;
    proof.epoch = epoch;
    proof.plan_digest = detail.plan_sha256();
    proof.journal_id = a_.host.store.journal_id();
    proof.heard_sequence = told->back().sequence;
    proof.heard_hash = told->back().hash;
    v1::SettleSessionRequest request;
    request.set_session_id(id);
    request.set_proof(EncodeProof(proof, detail.plan_sha256()));
    return request;
  }
};

TEST_F(DestinationPutBackTest, ALostGrantIsNoOrdinaryRefusal) {
  auto vm = Boot();
  VoteOn("s1");
  auto go = Stop(a_, "s1");
  ASSERT_TRUE(go.ok()) << go.status();
  b_.host.backend.script().FailNext("FinalizeLiveMigration", absl::InternalError("not yet"));
  EXPECT_FALSE(Resume(b_, "s1", *go).ok());
  ASSERT_EQ(Kinds(b_, "s1").back(), "GRANTED");
  PutBackTo("LISTENING");
  EXPECT_EQ(Kinds(b_, "s1").back(), "REFUSED");
  EXPECT_EQ(PutBackEvents(), 0);

  // The source's word tells what is lost.
  EXPECT_FALSE(Resume(b_, "s1", *go).ok());
  EXPECT_EQ(PutBackEvents(), 1);
  EXPECT_FALSE(Resume(b_, "s1", *go).ok());
  EXPECT_EQ(PutBackEvents(), 1);
  auto refused = Stop(b_, "s1");
  ASSERT_TRUE(refused.ok()) << refused.status();
  ASSERT_TRUE(Resume(a_, "s1", *refused).ok());
  EXPECT_EQ(Kinds(a_, "s1").back(), "RECLAIMED");
  EXPECT_EQ(Describe(a_, "s1").reason(), "journal_put_back");
  EXPECT_THAT(Describe(a_, "s1").error(), HasSubstr("the journal of host-b:1 was put back"));
  ExpectRolledBack(vm);
}

TEST_F(DestinationPutBackTest, IsNoticedByWhateverTheSourceSays) {
  for (const auto& [kind, epoch] :
       {std::pair(ProofKind::kAbort, uint64_t{1}), std::pair(ProofKind::kForced, uint64_t{4})}) {
    const std::string id(ToString(kind));
    auto vm = Boot(id);
    VoteOn(id, id);
    const int before = PutBackEvents();
    const v1::SettleSessionRequest word = Word(id, kind, epoch);
    PutBackTo("IMPORTED");
    EXPECT_EQ(PutBackEvents(), before);
    const auto answer = Await(b_.sessions->Settle(word, "", MayForce::kYes));
    ASSERT_TRUE(answer.ok()) << answer.status();
    EXPECT_EQ(PutBackEvents(), before + 1);
    EXPECT_EQ(Kinds(b_, id).back(), "REFUSED");
    EXPECT_TRUE(Resume(a_, id).ok());
  }
}

TEST_F(DestinationPutBackTest, WhatIsNotPutBackIsRefusedAsEver) {
  auto vm = Boot();
  VoteOn("s1");
  const v1::SettleSessionRequest word = Word("s1", ProofKind::kAbort, 1);
  PutBackTo("PREPARED");
  ASSERT_TRUE(Await(b_.sessions->Settle(word)).ok());
  EXPECT_EQ(Kinds(b_, "s1").back(), "REFUSED");
  EXPECT_EQ(PutBackEvents(), 0);
  EXPECT_NE(Describe(b_, "s1").reason(), "journal_put_back");
  EXPECT_TRUE(Resume(a_, "s1").ok());
  ExpectRolledBack(vm);
}

}  // namespace
}  // namespace ferry::migration
