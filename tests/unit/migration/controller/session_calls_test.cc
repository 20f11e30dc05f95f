// Every call of a session in every state in which it can rest.
#include "tests/unit/migration/controller/driven_fixture.h"

namespace ferry::migration {
namespace {

using absl::StatusCode;

constexpr StatusCode kOk = StatusCode::kOk;
constexpr StatusCode kNo = StatusCode::kFailedPrecondition;
constexpr StatusCode kArg = StatusCode::kInvalidArgument;  // legal, but the ticket is none
constexpr StatusCode kHas = StatusCode::kAlreadyExists;

struct Row {
  v1::MigrationOrigin side;
  v1::SessionState state;
  StatusCode transfer, stop, resume, cancel, socket, cleanup;
};

constexpr v1::MigrationOrigin kSource = v1::MIGRATION_ORIGIN_SOURCE;
constexpr v1::MigrationOrigin kDestination = v1::MIGRATION_ORIGIN_DESTINATION;

constexpr Row kRows[] = {
    //                                        transfer stop resume cancel socket cleanup
    {kSource, v1::SESSION_STATE_SOURCE_EXPORTED, kOk, kNo, kOk, kOk, kArg, kNo},
    {kSource, v1::SESSION_STATE_SOCKET_WAITING, kOk, kNo, kNo, kOk, kArg, kNo},
    {kSource, v1::SESSION_STATE_SOCKET_READY, kOk, kNo, kOk, kOk, kHas, kNo},
    {kSource, v1::SESSION_STATE_TRANSFERRING, kOk, kNo, kNo, kOk, kHas, kNo},
    {kSource, v1::SESSION_STATE_TRANSFER_COMPLETED, kOk, kOk, kOk, kOk, kHas, kNo},
    {kSource, v1::SESSION_STATE_CANCELLED, kNo, kNo, kOk, kOk, kNo, kNo},
    {kSource, v1::SESSION_STATE_FAILED, kNo, kNo, kOk, kOk, kHas, kOk},
    {kSource, v1::SESSION_STATE_FINALIZED, kNo, kNo, kOk, kOk, kNo, kOk},
    {kDestination, v1::SESSION_STATE_DESTINATION_IMPORTED, kNo, kOk, kNo, kOk, kNo, kNo},
    {kDestination, v1::SESSION_STATE_DESTINATION_PREPARED, kOk, kOk, kNo, kOk, kArg, kNo},
    {kDestination, v1::SESSION_STATE_SOCKET_WAITING, kOk, kOk, kNo, kOk, kArg, kNo},
    {kDestination, v1::SESSION_STATE_SOCKET_READY, kOk, kOk, kNo, kOk, kHas, kNo},
    {kDestination, v1::SESSION_STATE_TRANSFERRING, kOk, kOk, kNo, kOk, kHas, kNo},
    {kDestination, v1::SESSION_STATE_TRANSFER_COMPLETED, kOk, kOk, kNo, kOk, kHas, kNo},
    {kDestination, v1::SESSION_STATE_CANCELLED, kNo, kOk, kNo, kOk, kNo, kOk},
    {kDestination, v1::SESSION_STATE_FAILED, kNo, kOk, kNo, kOk, kHas, kOk},
    {kDestination, v1::SESSION_STATE_FINALIZED, kNo, kOk, kNo, kOk, kNo, kOk},
};

class SessionCallsTest : public DrivenTest, public ::testing::WithParamInterface<Row> {
 protected:
  MigrationHost& Side() { return GetParam().side == kSource ? a_ : b_; }

  void BringSource(v1::SessionState state, const std::string& id) {
    if (state == v1::SESSION_STATE_SOCKET_READY) return BringSocket(id);
    if (state == v1::SESSION_STATE_SOURCE_EXPORTED) {
      ASSERT_TRUE(Export(id, id).ok());
      return;
    }
    if (state == v1::SESSION_STATE_TRANSFERRING) a_.host.backend.script().Block("Transfer");
    if (state == v1::SESSION_STATE_TRANSFER_COMPLETED) return TransferBoth(id, id);
    if (state == v1::SESSION_STATE_TRANSFERRING) {
      StartTransfer(id, id);
      return Await(a_.host.backend.script().WaitBlocked("Transfer"));
    }
    if (state == v1::SESSION_STATE_FAILED) {
      a_.host.backend.script().FailNext("Transfer", absl::InternalError("broken"));
      StartTransfer(id, id);
      return Until([&] { return State(a_, id) == v1::SESSION_STATE_FAILED; });
    }
    ASSERT_TRUE(Export(id, id).ok());
    if (state == v1::SESSION_STATE_SOCKET_WAITING) {
      EXPECT_TRUE(Transfer(a_, id).ok());
    }
    if (state == v1::SESSION_STATE_CANCELLED) {
      EXPECT_TRUE(Cancel(a_, id).ok());
    }
    if (state == v1::SESSION_STATE_FINALIZED) {
      EXPECT_TRUE(Resume(a_, id).ok());
    }
  }

  void BringSocket(const std::string& id) {
    PrepareBoth(id, id);
    HandOver(id);
    Until([&] { return State(Side(), id) == v1::SESSION_STATE_SOCKET_READY; });
  }

  void BringDestination(v1::SessionState state, const std::string& id) {
    if (state == v1::SESSION_STATE_SOCKET_READY) return BringSocket(id);
    if (state == v1::SESSION_STATE_FAILED) {
      // It cannot even write that it refuses, however often it tries for now.
      b_.host.store.before_append = [](vm::JournalRecord record) {
        return Fail(record.kind == "REFUSED");
      };
      b_.host.backend.script().FailNext("Load", absl::InternalError("broken"));
      StartTransfer(id, id);
      Until([&] { return State(b_, id) == v1::SESSION_STATE_FAILED; });
      Settle();
      b_.host.store.before_append = nullptr;
      return;
    }
    if (state == v1::SESSION_STATE_TRANSFER_COMPLETED) return TransferBoth(id, id);
    if (state == v1::SESSION_STATE_TRANSFERRING) {
      b_.host.backend.script().Block("ReceivePage");
      StartTransfer(id, id);
      return Await(b_.host.backend.script().WaitBlocked("ReceivePage"));
    }
    auto plan = Export(id, id);
    ASSERT_TRUE(plan.ok()) << plan.status();
    ASSERT_TRUE(Import(id, *plan).ok());
    if (state == v1::SESSION_STATE_DESTINATION_IMPORTED) return;
    if (state == v1::SESSION_STATE_CANCELLED) {
      EXPECT_TRUE(Cancel(b_, id).ok());
      return;
    }
    ASSERT_TRUE(Prepare(b_, id).ok());
    if (state == v1::SESSION_STATE_SOCKET_WAITING) {
      EXPECT_TRUE(Transfer(b_, id).ok());
    }
    if (state == v1::SESSION_STATE_FINALIZED) {
      EXPECT_TRUE(Stop(b_, id).ok());
    }
  }

  void Check(const std::string& call, StatusCode expected,
             const std::function<absl::Status(const std::string&)>& make) {
    Boot(call);
    if (GetParam().side == kSource) {
      BringSource(GetParam().state, call);
    } else {
      BringDestination(GetParam().state, call);
    }
    ASSERT_EQ(State(Side(), call), GetParam().state) << call;
    const absl::Status status = make(call);
    EXPECT_EQ(status.code(), expected) << call << ": " << status;
    if (expected == kNo) {
      EXPECT_EQ(State(Side(), call), GetParam().state) << call;
    }
    for (MigrationHost* host : {&a_, &b_}) {
      for (const char* verb : {"Transfer", "ReceivePage"})
        host->host.backend.script().Release(verb);
    }
  }
};

TEST_P(SessionCallsTest, AllowsOrRefusesEachCall) {
  const Row& row = GetParam();
  Check("transfer", row.transfer, [&](auto& id) { return Transfer(Side(), id); });
  Check("stop", row.stop, [&](auto& id) { return Stop(Side(), id).status(); });
  Check("resume", row.resume, [&](auto& id) { return Resume(Side(), id).status(); });
  Check("cancel", row.cancel, [&](auto& id) { return Cancel(Side(), id); });
  Check("socket", row.socket,
        [&](auto& id) { return Await(Session(Side(), id)->AdoptSocket("none")); });
  Check("cleanup", row.cleanup, [&](auto& id) { return Cleanup(Side(), id); });
  // A session is prepared at its destination only, and the same answer given as long as it is of
  // use. The same goes for its plan.
  const bool destination = row.side == kDestination;
  const bool alive = row.state == v1::SESSION_STATE_SOURCE_EXPORTED ||
                     row.state == v1::SESSION_STATE_DESTINATION_IMPORTED ||
                     row.state == v1::SESSION_STATE_DESTINATION_PREPARED ||
                     row.state == v1::SESSION_STATE_SOCKET_WAITING ||
                     row.state == v1::SESSION_STATE_SOCKET_READY ||
                     row.state == v1::SESSION_STATE_TRANSFERRING ||
                     row.state == v1::SESSION_STATE_TRANSFER_COMPLETED;
  Check("prepare", destination && alive ? kOk : kNo,
        [&](auto& id) { return Prepare(Side(), id).status(); });
  if (!destination) {
    const bool over = row.state == v1::SESSION_STATE_FINALIZED;
    Check("export",
          alive  ? kOk
          : over ? kHas
                 : kNo,
          [&](auto& id) { return Export(id, id).status(); });
  }
  Check("nothing", kArg, [&](auto& id) {
    return Await(Session(Side(), id)->Finalize(v1::FINALIZE_ACTION_UNSPECIFIED, "")).status();
  });
}

INSTANTIATE_TEST_SUITE_P(
    States, SessionCallsTest, ::testing::ValuesIn(kRows), [](const auto& info) {
      std::string name = info.param.side == kSource ? "Source" : "Destination";
      name += v1::SessionState_Name(info.param.state).substr(sizeof("SESSION_STATE_") - 1);
      std::erase(name, '_');
      return name;
    });

}  // namespace
}  // namespace ferry::migration
