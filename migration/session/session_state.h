#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "ferry/v1/migration.pb.h"

// The life of a migration session on one side, as a pure table.
//
//   source       Idle > SourcePrepared > SourceExported -+
//   destination  Idle > DestinationImported > DestinationPrepared -+
//                                                                  |
//        +---------------------------------------------------------+
//        +-> SocketWaiting (Transfer called, no socket yet) --+
//        +-> SocketReady   (socket there, Transfer not called) +-> Transferring
//                                            > TransferCompleted > Finalized
//   Any state but Finalized can become Cancelling > Cancelled, or Failed; both end in Finalized.
namespace ferry::migration {

enum class SessionCall {
  kPrepareSource,
  kExport,
  kImport,
  kPrepareDestination,
  kTransfer,       // TransferSandbox
  kSocketArrived,  // the session connection stands
  kTransferDone,
  kTransferFailed,
  kCancel,
  kCancelDone,
  kCancelFailed,  // it may be tried again
  kFinalize,
  kFinalizeDone,
};

// What a call does in a state.
struct Transition {
  v1::SessionState next = v1::SESSION_STATE_UNSPECIFIED;
  bool repeated = false;  // it had taken effect before; there is nothing to do
};

// FAILED_PRECONDITION, naming call and state, if the call is not legal there.
absl::StatusOr<Transition> Apply(v1::SessionState state, SessionCall call);

// Whether nothing more happens by itself and Cleanup is legal.
bool CanCleanUp(v1::SessionState state, v1::MigrationOrigin origin);

std::string_view ToString(SessionCall call);
// "SourcePrepared" and so on.
std::string_view ToString(v1::SessionState state);

}  // namespace ferry::migration
