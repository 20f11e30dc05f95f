#include "migration/session/session_state.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <utility>

namespace ferry::migration {
namespace {

using ::testing::HasSubstr;
using v1::SessionState;

absl::StatusOr<SessionState> Follow(SessionState state, std::initializer_list<SessionCall> calls) {
  for (SessionCall call : calls) {
    auto transition = Apply(state, call);
    if (!transition.ok()) return transition.status();
    state = transition->next;
  }
  return state;
}

TEST(SessionState, SourceLife) {
  EXPECT_EQ(*Follow(v1::SESSION_STATE_IDLE,
                    {SessionCall::kPrepareSource, SessionCall::kExport, SessionCall::kTransfer,
                     SessionCall::kSocketArrived, SessionCall::kTransferDone,
                     SessionCall::kFinalize, SessionCall::kFinalizeDone}),
            v1::SESSION_STATE_FINALIZED);
}

TEST(SessionState, DestinationLifeWithTheSocketFirst) {
  EXPECT_EQ(*Follow(v1::SESSION_STATE_IDLE, {SessionCall::kImport, SessionCall::kPrepareDestination,
                                             SessionCall::kSocketArrived, SessionCall::kTransfer,
                                             SessionCall::kTransferDone}),
            v1::SESSION_STATE_TRANSFER_COMPLETED);
}

TEST(SessionState, TransferIsANoOpOnceUnderWay) {
  for (SessionState state : {v1::SESSION_STATE_SOCKET_WAITING, v1::SESSION_STATE_TRANSFERRING,
                             v1::SESSION_STATE_TRANSFER_COMPLETED}) {
    auto transition = Apply(state, SessionCall::kTransfer);
    ASSERT_TRUE(transition.ok());
    EXPECT_TRUE(transition->repeated);
    EXPECT_EQ(transition->next, state);
  }
}

TEST(SessionState, CancelWinsOverARunningTransfer) {
  auto state =
      Follow(v1::SESSION_STATE_TRANSFERRING,
             {SessionCall::kCancel, SessionCall::kTransferDone, SessionCall::kTransferFailed});
  EXPECT_EQ(*state, v1::SESSION_STATE_CANCELLING);
  EXPECT_EQ(*Follow(*state, {SessionCall::kCancelDone, SessionCall::kTransferDone}),
            v1::SESSION_STATE_CANCELLED);
}

TEST(SessionState, AFailedSessionCanAlwaysBeFinalizedOrCancelled) {
  EXPECT_EQ(*Follow(v1::SESSION_STATE_FAILED, {SessionCall::kFinalize, SessionCall::kFinalizeDone}),
            v1::SESSION_STATE_FINALIZED);
  EXPECT_EQ(*Follow(v1::SESSION_STATE_TRANSFERRING,
                    {SessionCall::kCancel, SessionCall::kCancelFailed, SessionCall::kCancel}),
            v1::SESSION_STATE_CANCELLING);
  EXPECT_EQ(*Follow(v1::SESSION_STATE_FAILED, {SessionCall::kCancel, SessionCall::kCancelDone}),
            v1::SESSION_STATE_CANCELLED);
}

TEST(SessionState, RefusalsNameCallAndState) {
  auto result = Apply(v1::SESSION_STATE_IDLE, SessionCall::kTransfer);
  EXPECT_EQ(result.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(result.status().message()),
              HasSubstr("Transfer is not possible while the session is Idle"));
}

// The calls and the only states in which each is legal; everything else must be refused.
TEST(SessionState, EveryCallInEveryState) {
  const std::map<SessionCall, std::set<SessionState>> legal = {
      {SessionCall::kPrepareSource, {v1::SESSION_STATE_IDLE}},
      {SessionCall::kExport,
       {v1::SESSION_STATE_SOURCE_PREPARED, v1::SESSION_STATE_SOURCE_EXPORTED,
        v1::SESSION_STATE_SOCKET_WAITING, v1::SESSION_STATE_SOCKET_READY,
        v1::SESSION_STATE_TRANSFERRING, v1::SESSION_STATE_TRANSFER_COMPLETED}},
      {SessionCall::kImport,
       {v1::SESSION_STATE_IDLE, v1::SESSION_STATE_DESTINATION_IMPORTED,
        v1::SESSION_STATE_DESTINATION_PREPARED, v1::SESSION_STATE_SOCKET_WAITING,
        v1::SESSION_STATE_SOCKET_READY, v1::SESSION_STATE_TRANSFERRING,
        v1::SESSION_STATE_TRANSFER_COMPLETED}},
      {SessionCall::kPrepareDestination,
       {v1::SESSION_STATE_DESTINATION_IMPORTED, v1::SESSION_STATE_DESTINATION_PREPARED,
        v1::SESSION_STATE_SOCKET_WAITING, v1::SESSION_STATE_SOCKET_READY,
        v1::SESSION_STATE_TRANSFERRING, v1::SESSION_STATE_TRANSFER_COMPLETED}},
      {SessionCall::kTransferDone,
       {v1::SESSION_STATE_TRANSFERRING, v1::SESSION_STATE_CANCELLING, v1::SESSION_STATE_CANCELLED}},
      {SessionCall::kTransferFailed,
       {v1::SESSION_STATE_SOURCE_PREPARED, v1::SESSION_STATE_SOURCE_EXPORTED,
        v1::SESSION_STATE_DESTINATION_IMPORTED, v1::SESSION_STATE_DESTINATION_PREPARED,
        v1::SESSION_STATE_SOCKET_WAITING, v1::SESSION_STATE_SOCKET_READY,
        v1::SESSION_STATE_TRANSFERRING, v1::SESSION_STATE_TRANSFER_COMPLETED,
        v1::SESSION_STATE_FAILED, v1::SESSION_STATE_CANCELLING, v1::SESSION_STATE_CANCELLED}},
      {SessionCall::kCancelDone, {v1::SESSION_STATE_CANCELLING, v1::SESSION_STATE_CANCELLED}},
      {SessionCall::kCancelFailed, {v1::SESSION_STATE_CANCELLING}},
      {SessionCall::kFinalizeDone,
       {v1::SESSION_STATE_SOURCE_PREPARED, v1::SESSION_STATE_SOURCE_EXPORTED,
        v1::SESSION_STATE_DESTINATION_IMPORTED, v1::SESSION_STATE_DESTINATION_PREPARED,
        v1::SESSION_STATE_SOCKET_READY, v1::SESSION_STATE_TRANSFER_COMPLETED,
        v1::SESSION_STATE_CANCELLED, v1::SESSION_STATE_FAILED, v1::SESSION_STATE_FINALIZED}},
      {SessionCall::kTransfer,
       {v1::SESSION_STATE_SOURCE_EXPORTED, v1::SESSION_STATE_DESTINATION_PREPARED,
        v1::SESSION_STATE_SOCKET_READY, v1::SESSION_STATE_SOCKET_WAITING,
        v1::SESSION_STATE_TRANSFERRING, v1::SESSION_STATE_TRANSFER_COMPLETED}},
      {SessionCall::kSocketArrived,
       {v1::SESSION_STATE_SOURCE_EXPORTED, v1::SESSION_STATE_DESTINATION_PREPARED,
        v1::SESSION_STATE_SOCKET_WAITING}},
      {SessionCall::kCancel,
       {v1::SESSION_STATE_SOURCE_PREPARED, v1::SESSION_STATE_SOURCE_EXPORTED,
        v1::SESSION_STATE_DESTINATION_IMPORTED, v1::SESSION_STATE_DESTINATION_PREPARED,
        v1::SESSION_STATE_SOCKET_WAITING, v1::SESSION_STATE_SOCKET_READY,
        v1::SESSION_STATE_TRANSFERRING, v1::SESSION_STATE_TRANSFER_COMPLETED,
        v1::SESSION_STATE_FAILED, v1::SESSION_STATE_CANCELLING, v1::SESSION_STATE_CANCELLED}},
      {SessionCall::kFinalize,
       {v1::SESSION_STATE_SOURCE_PREPARED, v1::SESSION_STATE_SOURCE_EXPORTED,
        v1::SESSION_STATE_DESTINATION_IMPORTED, v1::SESSION_STATE_DESTINATION_PREPARED,
        v1::SESSION_STATE_SOCKET_READY, v1::SESSION_STATE_TRANSFER_COMPLETED,
        v1::SESSION_STATE_CANCELLED, v1::SESSION_STATE_FAILED, v1::SESSION_STATE_FINALIZED}},
  };
  for (const auto& [call, states] : legal) {
    for (int state = v1::SESSION_STATE_IDLE; state <= v1::SESSION_STATE_FINALIZED; ++state) {
      const auto session_state = static_cast<SessionState>(state);
      const auto transition = Apply(session_state, call);
      EXPECT_EQ(transition.ok(), states.contains(session_state))
          << ToString(call) << " in " << ToString(session_state);
      // What has taken effect already changes nothing.
      if (transition.ok() && transition->repeated) {
        EXPECT_EQ(transition->next, session_state);
      }
    }
  }
}

TEST(SessionState, CleanupNeedsAnEndedSession) {
  EXPECT_TRUE(CanCleanUp(v1::SESSION_STATE_FINALIZED, v1::MIGRATION_ORIGIN_SOURCE));
  EXPECT_FALSE(CanCleanUp(v1::SESSION_STATE_IDLE, v1::MIGRATION_ORIGIN_SOURCE));
  EXPECT_FALSE(CanCleanUp(v1::SESSION_STATE_IDLE, v1::MIGRATION_ORIGIN_DESTINATION));
  EXPECT_TRUE(CanCleanUp(v1::SESSION_STATE_CANCELLED, v1::MIGRATION_ORIGIN_DESTINATION));
  EXPECT_FALSE(CanCleanUp(v1::SESSION_STATE_CANCELLED, v1::MIGRATION_ORIGIN_SOURCE));
  EXPECT_FALSE(CanCleanUp(v1::SESSION_STATE_TRANSFERRING, v1::MIGRATION_ORIGIN_DESTINATION));
}

}  // namespace
}  // namespace ferry::migration
