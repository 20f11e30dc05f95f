#include "migration/session/session_state.h"

#include <initializer_list>

#include "absl/status/status.h"
#include "bridge/runtime/str_cat.h"

namespace ferry::migration {
namespace {

using v1::SessionState;

constexpr SessionState kIdle = v1::SESSION_STATE_IDLE;
constexpr SessionState kSourcePrepared = v1::SESSION_STATE_SOURCE_PREPARED;
constexpr SessionState kSourceExported = v1::SESSION_STATE_SOURCE_EXPORTED;
constexpr SessionState kImported = v1::SESSION_STATE_DESTINATION_IMPORTED;
constexpr SessionState kDestinationPrepared = v1::SESSION_STATE_DESTINATION_PREPARED;
constexpr SessionState kSocketWaiting = v1::SESSION_STATE_SOCKET_WAITING;
constexpr SessionState kSocketReady = v1::SESSION_STATE_SOCKET_READY;
constexpr SessionState kTransferring = v1::SESSION_STATE_TRANSFERRING;
constexpr SessionState kTransferCompleted = v1::SESSION_STATE_TRANSFER_COMPLETED;
constexpr SessionState kCancelling = v1::SESSION_STATE_CANCELLING;
constexpr SessionState kCancelled = v1::SESSION_STATE_CANCELLED;
constexpr SessionState kFailed = v1::SESSION_STATE_FAILED;
constexpr SessionState kFinalized = v1::SESSION_STATE_FINALIZED;

struct Rule {
  SessionCall call;
  SessionState from;
  Transition to;
};

// A call that is in no rule for a state is refused there.
constexpr Rule kRules[] = {
    {SessionCall::kPrepareSource, kIdle, {kSourcePrepared}},
    {SessionCall::kExport, kSourcePrepared, {kSourceExported}},
    {SessionCall::kImport, kIdle, {kImported}},
    {SessionCall::kPrepareDestination, kImported, {kDestinationPrepared}},

    // Asked for again by a caller that lost the answer: the same answer, as long as it is of use.
    {SessionCall::kExport, kSourceExported, {kSourceExported, true}},
    {SessionCall::kExport, kSocketWaiting, {kSocketWaiting, true}},
    {SessionCall::kExport, kSocketReady, {kSocketReady, true}},
    {SessionCall::kExport, kTransferring, {kTransferring, true}},
    {SessionCall::kExport, kTransferCompleted, {kTransferCompleted, true}},
    {SessionCall::kImport, kImported, {kImported, true}},
    {SessionCall::kImport, kDestinationPrepared, {kDestinationPrepared, true}},
    {SessionCall::kImport, kSocketWaiting, {kSocketWaiting, true}},
    {SessionCall::kImport, kSocketReady, {kSocketReady, true}},
    {SessionCall::kImport, kTransferring, {kTransferring, true}},
    {SessionCall::kImport, kTransferCompleted, {kTransferCompleted, true}},
    {SessionCall::kPrepareDestination, kDestinationPrepared, {kDestinationPrepared, true}},
    {SessionCall::kPrepareDestination, kSocketWaiting, {kSocketWaiting, true}},
    {SessionCall::kPrepareDestination, kSocketReady, {kSocketReady, true}},
    {SessionCall::kPrepareDestination, kTransferring, {kTransferring, true}},
    {SessionCall::kPrepareDestination, kTransferCompleted, {kTransferCompleted, true}},

    {SessionCall::kTransfer, kSourceExported, {kSocketWaiting}},
    {SessionCall::kTransfer, kDestinationPrepared, {kSocketWaiting}},
    {SessionCall::kTransfer, kSocketReady, {kTransferring}},
    {SessionCall::kTransfer, kSocketWaiting, {kSocketWaiting, true}},
    {SessionCall::kTransfer, kTransferring, {kTransferring, true}},
    {SessionCall::kTransfer, kTransferCompleted, {kTransferCompleted, true}},

    {SessionCall::kSocketArrived, kSourceExported, {kSocketReady}},
    {SessionCall::kSocketArrived, kDestinationPrepared, {kSocketReady}},
    {SessionCall::kSocketArrived, kSocketWaiting, {kTransferring}},

    {SessionCall::kTransferDone, kTransferring, {kTransferCompleted}},
    // A cancel that came first wins; the transfer's outcome changes nothing any more.
    {SessionCall::kTransferDone, kCancelling, {kCancelling, true}},
    {SessionCall::kTransferDone, kCancelled, {kCancelled, true}},

    {SessionCall::kTransferFailed, kSourcePrepared, {kFailed}},
    {SessionCall::kTransferFailed, kSourceExported, {kFailed}},
    {SessionCall::kTransferFailed, kImported, {kFailed}},
    {SessionCall::kTransferFailed, kDestinationPrepared, {kFailed}},
    {SessionCall::kTransferFailed, kSocketWaiting, {kFailed}},
    {SessionCall::kTransferFailed, kSocketReady, {kFailed}},
    {SessionCall::kTransferFailed, kTransferring, {kFailed}},
    {SessionCall::kTransferFailed, kTransferCompleted, {kFailed}},
    {SessionCall::kTransferFailed, kCancelling, {kCancelling, true}},
    {SessionCall::kTransferFailed, kCancelled, {kCancelled, true}},
    {SessionCall::kTransferFailed, kFailed, {kFailed, true}},

    {SessionCall::kCancel, kSourcePrepared, {kCancelling}},
    {SessionCall::kCancel, kSourceExported, {kCancelling}},
    {SessionCall::kCancel, kImported, {kCancelling}},
    {SessionCall::kCancel, kDestinationPrepared, {kCancelling}},
    {SessionCall::kCancel, kSocketWaiting, {kCancelling}},
    {SessionCall::kCancel, kSocketReady, {kCancelling}},
    {SessionCall::kCancel, kTransferring, {kCancelling}},
    {SessionCall::kCancel, kTransferCompleted, {kCancelling}},
    {SessionCall::kCancel, kFailed, {kCancelling}},
    {SessionCall::kCancel, kCancelling, {kCancelling, true}},
    {SessionCall::kCancel, kCancelled, {kCancelled, true}},

    {SessionCall::kCancelDone, kCancelling, {kCancelled}},
    {SessionCall::kCancelDone, kCancelled, {kCancelled, true}},
    {SessionCall::kCancelFailed, kCancelling, {kFailed}},

    // Which action is right in which state is the controller's to say; it knows where the VM is.
    {SessionCall::kFinalize, kSourcePrepared, {kSourcePrepared}},
    {SessionCall::kFinalize, kSourceExported, {kSourceExported}},
    {SessionCall::kFinalize, kImported, {kImported}},
    {SessionCall::kFinalize, kDestinationPrepared, {kDestinationPrepared}},
    {SessionCall::kFinalize, kSocketReady, {kSocketReady}},
    {SessionCall::kFinalize, kTransferCompleted, {kTransferCompleted}},
    {SessionCall::kFinalize, kCancelled, {kCancelled}},
    {SessionCall::kFinalize, kFailed, {kFailed}},
    {SessionCall::kFinalize, kFinalized, {kFinalized, true}},

    {SessionCall::kFinalizeDone, kSourcePrepared, {kFinalized}},
    {SessionCall::kFinalizeDone, kSourceExported, {kFinalized}},
    {SessionCall::kFinalizeDone, kImported, {kFinalized}},
    {SessionCall::kFinalizeDone, kDestinationPrepared, {kFinalized}},
    {SessionCall::kFinalizeDone, kSocketReady, {kFinalized}},
    {SessionCall::kFinalizeDone, kTransferCompleted, {kFinalized}},
    {SessionCall::kFinalizeDone, kCancelled, {kFinalized}},
    {SessionCall::kFinalizeDone, kFailed, {kFinalized}},
    {SessionCall::kFinalizeDone, kFinalized, {kFinalized, true}},
};

}  // namespace

absl::StatusOr<Transition> Apply(SessionState state, SessionCall call) {
  for (const Rule& rule : kRules) {
    if (rule.call == call && rule.from == state) return rule.to;
  }
  return absl::FailedPreconditionError(
      StrCat(ToString(call), " is not possible while the session is ", ToString(state)));
}

bool CanCleanUp(SessionState state, v1::MigrationOrigin origin) {
  // One that is idle is just being set up.
  if (state == kFinalized) return true;
  return state == kCancelled && origin == v1::MIGRATION_ORIGIN_DESTINATION;
}

std::string_view ToString(SessionCall call) {
  switch (call) {
    case SessionCall::kPrepareSource:
      return "PrepareAndExport";
    case SessionCall::kExport:
      return "Export";
    case SessionCall::kImport:
      return "Import";
    case SessionCall::kPrepareDestination:
      return "Prepare";
    case SessionCall::kTransfer:
      return "Transfer";
    case SessionCall::kSocketArrived:
      return "CreateDuplicateSocket";
    case SessionCall::kTransferDone:
      return "completing the transfer";
    case SessionCall::kTransferFailed:
      return "failing the transfer";
    case SessionCall::kCancel:
      return "Cancel";
    case SessionCall::kCancelDone:
      return "completing Cancel";
    case SessionCall::kCancelFailed:
      return "failing Cancel";
    case SessionCall::kFinalize:
      return "Finalize";
    case SessionCall::kFinalizeDone:
      return "completing Finalize";
  }
  return "?";
}

std::string_view ToString(SessionState state) {
  switch (state) {
    case kIdle:
      return "Idle";
    case kSourcePrepared:
      return "SourcePrepared";
    case kSourceExported:
      return "SourceExported";
    case kImported:
      return "DestinationImported";
    case kDestinationPrepared:
      return "DestinationPrepared";
    case kSocketWaiting:
      return "SocketWaiting";
    case kSocketReady:
      return "SocketReady";
    case kTransferring:
      return "Transferring";
    case kTransferCompleted:
      return "TransferCompleted";
    case kCancelling:
      return "Cancelling";
    case kCancelled:
      return "Cancelled";
    case kFailed:
      return "Failed";
    case kFinalized:
      return "Finalized";
    default:
      return "Unspecified";
  }
}

}  // namespace ferry::migration
