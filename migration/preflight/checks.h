#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ferry/v1/host.pb.h"
#include "ferry/v1/migration.pb.h"
#include "vmmanager/fence/fence.h"
#include "vmmanager/identity/certificate.h"
#include "vmmanager/sandbox/host_capacity.h"
#include "vmmanager/sandbox/incoming_machine.h"

// What is checked before a migration, as pure functions from what was found to what a person is
// told: each check passes, warns or fails, and says what to do about it.
namespace ferry::migration {

// A host's certificate; without one it serves plain TCP.
struct CertificateFacts {
  bool used = false;
  absl::StatusOr<identity::CertificateInfo> certificate = identity::CertificateInfo();
};

// Where a host keeps its state.
struct FolderFacts {
  std::string path;
  absl::Status writable;
  absl::StatusOr<vm::Capacity> room;
};

// What a host's fence says of the VM.
struct FenceFacts {
  std::string level;
  absl::StatusOr<vm::FenceSight> sight = vm::FenceSight::kHeld;
};

// What the source knows by itself.
struct SourceFacts {
  int64_t now_unix_ms = 0;
  CertificateFacts certificate;
  v1::VmState vm_state = v1::VM_STATE_UNSPECIFIED;
  std::string other_session;                          // that holds the VM; empty: none
  absl::StatusOr<double> agent_ms = 0;                // how long its answer took
  absl::StatusOr<std::vector<std::string>> blockers;  // why the VMM cannot migrate it
  absl::Status stays;                                 // OK: it was not made to stay here
  absl::Status containers;                            // whether it can move with those it has
  absl::Status plan;  // whether it can be described for a destination
  absl::Status options;
  FolderFacts folder;
  FenceFacts fence;
};
std::vector<v1::PreflightCheck> CheckSource(const SourceFacts& facts);

// Of the way to the destination.
struct PeerFacts {
  std::string destination;
  v1::Host here;
  absl::StatusOr<v1::Host> there;
};
std::vector<v1::PreflightCheck> CheckPeer(const PeerFacts& facts);
// In place of the destination's own checks, which it did not make.
v1::PreflightCheck ExplainNoAnswer(const std::string& destination, const absl::Status& status);

// What the destination finds out about a plan.
struct DestinationFacts {
  int64_t now_unix_ms = 0;
  int64_t source_unix_ms = 0;  // 0: it does not say
  CertificateFacts certificate;
  std::string vmm;  // "qemu 7.2.22"
  state::v1::VmPayload vm;
  vm::IncomingMachine machine;
  absl::Status checkpoints;  // whether it sees the files of those that the VM has
  bool disks_come = false;   // are copied, containers' too
  absl::Status disk_room;    // whether there is room for those
  absl::StatusOr<vm::Capacity> memory;
  std::string taken;  // why the VM's name or id is not free; empty: it is
  std::string other_session;
  absl::Status options;
  std::string session_address;  // that sources are told to dial
  std::string bound_address;
  std::string source_address;
  FolderFacts folder;
  FenceFacts fence;
};
std::vector<v1::PreflightCheck> CheckDestination(const DestinationFacts& facts);
// When the plan cannot even be read.
v1::PreflightCheck ExplainUnreadablePlan(const absl::Status& status);

// Whether none failed.
bool AllowsMigration(const v1::PreflightResponse& response);

}  // namespace ferry::migration
