#include "vmmanager/rpc/authorization.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "ferry/v1/checkpoint.pb.h"
#include "ferry/v1/container.pb.h"
#include "ferry/v1/migration.pb.h"
#include "ferry/v1/vm.pb.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/rpc/printable.h"

namespace ferry::rpc {
namespace {

using identity::Role;
using identity::Roles;

constexpr Roles kEverybody = {Role::kViewer, Role::kOperator, Role::kAdmin, Role::kPeer};
constexpr Roles kLookers = {Role::kViewer, Role::kOperator, Role::kAdmin};
constexpr Roles kOperators = {Role::kOperator, Role::kAdmin};
constexpr Roles kOperatorsAndPeers = {Role::kOperator, Role::kAdmin, Role::kPeer};
constexpr Roles kAdmins = {Role::kAdmin};

constexpr size_t kMaxMethod = 128;

constexpr bool kRead = false;
constexpr bool kChange = true;

absl::Status Refused(const Caller& caller, absl::string_view what, Roles roles) {
  return ErrorWithReason(
      absl::StatusCode::kPermissionDenied,
      absl::StrCat(caller.ToString(), " may not call ", what, ": it takes the role ",
                   absl::StrJoin(roles.Names(), " or "), ", and the certificate has ",
                   caller.identity.roles.empty()
                       ? "none"
                       : absl::StrJoin(caller.identity.roles.Names(), " and ")),
      "role_missing",
      "use a certificate with that role; ferryctl pki show FILE tells what one has");
}

// Whether it asks for a new VM with folders of the host.
bool SharesFolders(const google::protobuf::Message& request) {
  if (request.GetDescriptor() == v1::CreateVmRequest::descriptor()) {
    return !static_cast<const v1::CreateVmRequest&>(request).spec().shares().empty();
  }
  if (request.GetDescriptor() == v1::CreateContainerRequest::descriptor()) {
    return !static_cast<const v1::CreateContainerRequest&>(request).new_vm().shares().empty();
  }
  return false;
}

// Whether it has the daemon read or write a file of the caller's choice.
bool NamesHostFiles(const google::protobuf::Message& request) {
  const auto names_file = [](const v1::CheckpointDiskWish& wish) { return !wish.file().empty(); };
  if (request.GetDescriptor() == v1::StartVmRequest::descriptor()) {
    const auto& start = static_cast<const v1::StartVmRequest&>(request);
    return !start.from_file().empty() || !start.key_file().empty();
  }
  if (request.GetDescriptor() == v1::SaveVmRequest::descriptor()) {
    const auto& save = static_cast<const v1::SaveVmRequest&>(request);
    return !save.to_file().empty() || !save.options().key_file().empty();
  }
  if (request.GetDescriptor() == v1::StopVmRequest::descriptor()) {
    return !static_cast<const v1::StopVmRequest&>(request).save_options().key_file().empty();
  }
  if (request.GetDescriptor() == v1::CreateCheckpointRequest::descriptor()) {
    const auto& create = static_cast<const v1::CreateCheckpointRequest&>(request);
    return !create.memory_file().empty() || !create.options().key_file().empty() ||
           std::any_of(create.disks().begin(), create.disks().end(), names_file);
  }
  if (request.GetDescriptor() == v1::RestoreCheckpointAsRequest::descriptor()) {
    const auto& restore = static_cast<const v1::RestoreCheckpointAsRequest&>(request);
    return std::any_of(restore.disks().begin(), restore.disks().end(), names_file);
  }
  return false;
}

// Whether ferryd is to forget files that it makes, so that nobody but the host's users can remove
// them.
bool LeavesFiles(const google::protobuf::Message& request) {
  if (request.GetDescriptor() != v1::CreateCheckpointRequest::descriptor()) return false;
  return static_cast<const v1::CreateCheckpointRequest&>(request).no_metadata();
}

}  // namespace

const std::vector<Rule>& Rules() {
  static const auto& rules = *new std::vector<Rule>{
      {"/ferry.v1.VmService/CreateVm", kOperators, kChange},
      {"/ferry.v1.VmService/GetVm", kLookers, kRead},
      {"/ferry.v1.VmService/ListVms", kLookers, kRead},
      {"/ferry.v1.VmService/StartVm", kOperators, kChange},
      {"/ferry.v1.VmService/StopVm", kOperators, kChange},
      {"/ferry.v1.VmService/RestartVm", kOperators, kChange},
      {"/ferry.v1.VmService/PauseVm", kOperators, kChange},
      {"/ferry.v1.VmService/ResumeVm", kOperators, kChange},
      {"/ferry.v1.VmService/SaveVm", kOperators, kChange},
      {"/ferry.v1.VmService/SetVm", kOperators, kChange},
      {"/ferry.v1.VmService/DeleteVm", kAdmins, kChange},
      {"/ferry.v1.VmService/GetProperties", kLookers, kRead},

      {"/ferry.v1.GuestService/CreateProcess", kOperators, kChange},
      {"/ferry.v1.GuestService/ListProcesses", kLookers, kRead},
      {"/ferry.v1.GuestService/SignalProcess", kOperators, kChange},
      {"/ferry.v1.GuestService/ReadOutput", kOperators, kRead},
      {"/ferry.v1.GuestService/Attach", kOperators, kChange},

      {"/ferry.v1.ImageService/ImportImage", kOperators, kChange},
      {"/ferry.v1.ImageService/ListImages", kLookers, kRead},
      {"/ferry.v1.ImageService/GetImage", kLookers, kRead},
      {"/ferry.v1.ImageService/RemoveImage", kOperators, kChange},

      {"/ferry.v1.ContainerService/CreateContainer", kOperators, kChange},
      {"/ferry.v1.ContainerService/StartContainer", kOperators, kChange},
      {"/ferry.v1.ContainerService/StopContainer", kOperators, kChange},
      {"/ferry.v1.ContainerService/PauseContainer", kOperators, kChange},
      {"/ferry.v1.ContainerService/ResumeContainer", kOperators, kChange},
      {"/ferry.v1.ContainerService/UpdateContainer", kOperators, kChange},
      {"/ferry.v1.ContainerService/RemoveContainer", kOperators, kChange},
      {"/ferry.v1.ContainerService/GetContainer", kLookers, kRead},
      {"/ferry.v1.ContainerService/ListContainers", kLookers, kRead},
      {"/ferry.v1.ContainerService/GetContainerStats", kLookers, kRead},
      {"/ferry.v1.ContainerService/ReadContainerOutput", kOperators, kRead},

      {"/ferry.v1.JobService/ListJobs", kLookers, kRead},
      {"/ferry.v1.JobService/GetJob", kLookers, kRead},
      {"/ferry.v1.JobService/WatchJob", kLookers, kRead},
      {"/ferry.v1.JobService/CancelJob", kOperators, kChange},
      {"/ferry.v1.JobService/DismissJob", kOperators, kChange},

      {"/ferry.v1.SnapshotService/SaveSnapshot", kOperators, kChange},
      {"/ferry.v1.SnapshotService/LoadSnapshot", kOperators, kChange},
      {"/ferry.v1.SnapshotService/DeleteSnapshot", kOperators, kChange},
      {"/ferry.v1.SnapshotService/ListSnapshots", kLookers, kRead},

      {"/ferry.v1.DiskService/CreateDisk", kAdmins, kChange},
      {"/ferry.v1.DiskService/ListDisks", kLookers, kRead},
      {"/ferry.v1.DiskService/AttachDisk", kOperators, kChange},
      {"/ferry.v1.DiskService/DetachDisk", kOperators, kChange},
      {"/ferry.v1.DiskService/ResizeDisk", kOperators, kChange},
      {"/ferry.v1.DiskService/MoveDisk", kAdmins, kChange},

      {"/ferry.v1.CheckpointService/CreateCheckpoint", kOperators, kChange},
      {"/ferry.v1.CheckpointService/RevertToCheckpoint", kOperators, kChange},
      {"/ferry.v1.CheckpointService/DeleteCheckpoint", kOperators, kChange},
      {"/ferry.v1.CheckpointService/ListCheckpoints", kLookers, kRead},
      {"/ferry.v1.CheckpointService/RestoreCheckpointAs", kOperators, kChange},
      {"/ferry.v1.CheckpointService/DefineCheckpoint", kAdmins, kChange},

      {"/ferry.v1.HostService/GetHost", kEverybody, kRead},
      {"/ferry.v1.HostService/WatchEvents", kLookers, kRead},

      {"/ferry.v1.MigrationService/Migrate", kOperators, kChange},
      {"/ferry.v1.MigrationService/PrepareAndExportSandbox", kOperators, kChange},
      {"/ferry.v1.MigrationService/ImportSandbox", kOperatorsAndPeers, kChange},
      {"/ferry.v1.MigrationService/BindContainer", kOperatorsAndPeers, kChange},
      {"/ferry.v1.MigrationService/ReceiveLayers", kOperatorsAndPeers, kChange},
      {"/ferry.v1.MigrationService/SendLayers", kOperators, kChange},
      {"/ferry.v1.MigrationService/PrepareSandbox", kOperatorsAndPeers, kChange},
      {"/ferry.v1.MigrationService/ReceiveDisks", kOperatorsAndPeers, kChange},
      {"/ferry.v1.MigrationService/SendDisks", kOperators, kChange},
      {"/ferry.v1.MigrationService/TransferSandbox", kOperatorsAndPeers, kChange},
      {"/ferry.v1.MigrationService/FinalizeSandbox", kOperators, kChange},
      {"/ferry.v1.MigrationService/Notifications", kLookers, kRead},
      {"/ferry.v1.MigrationService/CreateDuplicateSocket", kOperators, kChange},
      {"/ferry.v1.MigrationService/Cancel", kOperatorsAndPeers, kChange},
      {"/ferry.v1.MigrationService/Cleanup", kOperatorsAndPeers, kChange},
      {"/ferry.v1.MigrationService/SettleSession", kOperatorsAndPeers, kChange},
      {"/ferry.v1.MigrationService/Preflight", kOperators, kRead},
      {"/ferry.v1.MigrationService/PreflightIncoming", kOperatorsAndPeers, kRead},
      // With `force` it takes more; see AuthorizeRequest.
      {"/ferry.v1.MigrationService/RecoverSession", kEverybody, kChange},
      {"/ferry.v1.MigrationService/GetTrace", kLookers, kRead},
      {"/ferry.v1.MigrationService/GetSession", kEverybody, kRead},
      {"/ferry.v1.MigrationService/ListSessions", kLookers, kRead},

      {"/grpc.health.v1.Health/Check", kEverybody, kRead},
      {"/grpc.health.v1.Health/Watch", kEverybody, kRead},
      {"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", kLookers, kRead},
  };
  return rules;
}

const Rule* RuleFor(absl::string_view method) {
  for (const Rule& rule : Rules()) {
    if (rule.method == method) return &rule;
  }
  return nullptr;
}

absl::Status Authorize(const Caller& caller, absl::string_view method) {
  const Rule* rule = RuleFor(method);
  if (rule == nullptr) {
    return ErrorWithReason(absl::StatusCode::kPermissionDenied,
                           absl::StrCat("nobody may call ", Printable(method, kMaxMethod)),
                           "method_not_listed");
  }
  if (!caller.Has(rule->roles)) return Refused(caller, method, rule->roles);
  return absl::OkStatus();
}

absl::Status AuthorizeRequest(const Caller& caller, const google::protobuf::Message& request) {
  // Those folders are served with ferryd's own rights.
  if (SharesFolders(request) && !caller.Has(kAdmins)) {
    return Refused(caller, "for a VM that shares folders of this host", kAdmins);
  }
  if (NamesHostFiles(request) && !caller.Has(kAdmins)) {
    return Refused(caller, "with a file of this host", kAdmins);
  }
  if (LeavesFiles(request) && !caller.Has(kAdmins)) {
    return Refused(caller, "CreateCheckpoint with no_metadata", kAdmins);
  }
  if (request.GetDescriptor() != v1::RecoverSessionRequest::descriptor()) return absl::OkStatus();
  const auto& recover = static_cast<const v1::RecoverSessionRequest&>(request);
  if (recover.force() && !caller.Has(kAdmins)) {
    return Refused(caller, "RecoverSession with force", kAdmins);
  }
  // A daemon asks another one for what that one knows, and not for its questions to third ones.
  if (!recover.local_only() && !caller.Has(kLookers)) {
    return Refused(caller, "RecoverSession beyond this host", kLookers);
  }
  return absl::OkStatus();
}

bool SeesSecrets(const Caller& caller) { return caller.Has(kOperators); }

bool Changes(const Rule& rule, const google::protobuf::Message& request) {
  if (request.GetDescriptor() == v1::RecoverSessionRequest::descriptor()) {
    return static_cast<const v1::RecoverSessionRequest&>(request).force();
  }
  return rule.changes;
}

}  // namespace ferry::rpc
