#include "vmmanager/state/saved_state.h"

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

#include "vmmanager/schema/compute_system.h"
#include "vmmanager/state/any_payload.h"
#include "vmmanager/state/container_check.h"
#include "vmmanager/state/envelope.h"
#include "vmmanager/state/guest_payload.h"

namespace ferry::vm {
namespace {

constexpr size_t kSha256Bytes = 32;
constexpr size_t kMaxTextBytes = 4096;
constexpr size_t kMaxVmIdBytes = 128;
constexpr size_t kMaxBlobBytes = 1024 * 1024;
constexpr size_t kMaxPackedStore = 2 * 1024 * 1024;
constexpr int kMaxDevices = 1024;
constexpr int kMaxCpuFeatures = 4096;

absl::Status Need(bool good, std::string_view problem) {
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(StrCat("the saved state is not valid: ", problem));
}

bool IsText(const std::string& text) { return !text.empty() && text.size() <= kMaxTextBytes; }

// Files and folders are named by it.
bool IsVmId(const std::string& id) {
  return id.size() <= kMaxVmIdBytes && id[0] != '.' && id.find('/') == std::string::npos &&
         id.find('\0') == std::string::npos;
}

absl::Status CheckVm(const state::v1::VmPayload& vm) {
  RETURN_IF_ERROR(Need(IsText(vm.vm_id()), "it names no VM"));
  RETURN_IF_ERROR(Need(IsVmId(vm.vm_id()), "its VM's id cannot be one"));
  RETURN_IF_ERROR(Need(vm.vm_name().size() <= kMaxTextBytes, "the VM's name is too long"));
  RETURN_IF_ERROR(Need(vm.has_fingerprint(), "it has no fingerprint"));
  RETURN_IF_ERROR(
      Need(vm.compat_info().size() <= kMaxBlobBytes && vm.spec_json().size() <= kMaxBlobBytes,
           "a part of the VM's description is too large"));
  const state::v1::Fingerprint& fingerprint = vm.fingerprint();
  RETURN_IF_ERROR(Need(fingerprint.cpus() != 0, "its fingerprint has no CPUs"));
  RETURN_IF_ERROR(Need(fingerprint.memory_mb() != 0, "its fingerprint has no memory"));
  RETURN_IF_ERROR(Need(fingerprint.devices_size() <= kMaxDevices, "it has too many devices"));
  RETURN_IF_ERROR(Need(vm.disks_size() <= kMaxDevices, "it has too many disks"));
  RETURN_IF_ERROR(Need(fingerprint.cpu_features_size() <= kMaxCpuFeatures,
                       "its fingerprint has too many CPU features"));
  for (const std::string* digest : {&fingerprint.kernel_sha256(), &fingerprint.initrd_sha256(),
                                    &fingerprint.firmware_sha256()}) {
    RETURN_IF_ERROR(Need(digest->empty() || digest->size() == kSha256Bytes,
                         "an image's digest has the wrong length"));
  }
  ASSIGN_OR_RETURN(const schema::ComputeSystem document,
                   schema::ComputeSystemFromJson(vm.hcs_document_json()));
  const bool has_store = document.virtual_machine.chipset.uefi.has_value();
  RETURN_IF_ERROR(Need(has_store != vm.firmware_store().empty(),
                       "it needs what is in the variable store of a UEFI firmware, and only then"));
  RETURN_IF_ERROR(Need(vm.firmware_store().size() <= kMaxPackedStore,
                       "the firmware's variable store is too large"));
  return CheckContainers(vm, document);
}

absl::Status CheckPlan(const PlanState& plan) {
  RETURN_IF_ERROR(Need(IsText(plan.session_id), "it names no session"));
  RETURN_IF_ERROR(Need(plan.source_address.size() <= kMaxTextBytes, "an address is too long"));
  RETURN_IF_ERROR(
      Need(plan.source_journal_id.size() <= kMaxTextBytes, "the journal's id is too long"));
  return CheckVm(plan.vm);
}

absl::Status CheckCut(const CutState& cut) {
  RETURN_IF_ERROR(Need(IsText(cut.session_id), "it names no session"));
  RETURN_IF_ERROR(Need(IsText(cut.vm_id), "it names no VM"));
  RETURN_IF_ERROR(Need(cut.guest_link.size() <= kMaxTextBytes, "the guest link is too long"));
  return Need(cut.plan_sha256.size() == kSha256Bytes, "the plan's digest has the wrong length");
}

// One of a container that does not come would never be taken.
absl::Status CheckStarts(const CutState& cut) {
  std::set<std::string> ids;
  for (const state::v1::ContainerRecord& container : cut.containers) {
    ids.insert(GuestIdOf(container));
  }
  for (const guest::ProcessState& init : cut.guest.starting) {
    if (ids.contains(init.container_id)) continue;
    return absl::InvalidArgumentError(
        StrCat("the cut has a start of container ", init.container_id, ", and no such container"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> EncodePlan(const PlanState& plan) {
  RETURN_IF_ERROR(CheckPlan(plan));
  state::v1::VmPayload vm = plan.vm;
  vm.set_schema_version(kStateSchemaVersion);
  state::v1::Plan message;
  message.set_schema_version(kStateSchemaVersion);
  message.set_session_id(plan.session_id);
  message.mutable_vm()->PackFrom(vm);
  message.set_source_address(plan.source_address);
  message.set_source_journal_id(plan.source_journal_id);
  message.set_init_options_json(plan.init_options_json);
  return Seal(StateKind::kPlan, message.SerializeAsString());
}

absl::StatusOr<PlanState> DecodePlan(std::string_view envelope) {
  ASSIGN_OR_RETURN(const OpenedState opened, Open(StateKind::kPlan, envelope));
  state::v1::Plan message;
  RETURN_IF_ERROR(ParsePayload(opened.message, message));
  PlanState plan;
  plan.session_id = message.session_id();
  plan.source_address = message.source_address();
  plan.source_journal_id = message.source_journal_id();
  plan.init_options_json = message.init_options_json();
  RETURN_IF_ERROR(UnpackPayload(message.vm(), plan.vm));
  RETURN_IF_ERROR(CheckPlan(plan));
  return plan;
}

absl::StatusOr<std::string> EncodeCut(const CutState& cut) {
  RETURN_IF_ERROR(CheckCut(cut));
  ASSIGN_OR_RETURN(state::v1::GuestPayload guest, ToPayload(cut.guest));
  guest.set_guest_link(cut.guest_link);
  state::v1::Cut message;
  message.set_schema_version(kStateSchemaVersion);
  message.set_session_id(cut.session_id);
  message.set_vm_id(cut.vm_id);
  message.set_plan_sha256(cut.plan_sha256);
  message.mutable_guest()->PackFrom(guest);
  message.set_paused_by_user(cut.paused_by_user);
  message.mutable_containers()->Add(cut.containers.begin(), cut.containers.end());
  message.mutable_copied_disks()->Add(cut.copied_disks.begin(), cut.copied_disks.end());
  return Seal(StateKind::kCut, message.SerializeAsString());
}

absl::StatusOr<CutState> DecodeCut(std::string_view envelope, std::string_view plan_envelope) {
  ASSIGN_OR_RETURN(const OpenedState opened, Open(StateKind::kCut, envelope));
  state::v1::Cut message;
  RETURN_IF_ERROR(ParsePayload(opened.message, message));
  state::v1::GuestPayload guest;
  RETURN_IF_ERROR(UnpackPayload(message.guest(), guest));
  CutState cut;
  cut.session_id = message.session_id();
  cut.vm_id = message.vm_id();
  cut.plan_sha256 = message.plan_sha256();
  cut.guest_link = guest.guest_link();
  cut.paused_by_user = message.paused_by_user();
  cut.containers.assign(message.containers().begin(), message.containers().end());
  cut.copied_disks.assign(message.copied_disks().begin(), message.copied_disks().end());
  RETURN_IF_ERROR(CheckCut(cut));
  ASSIGN_OR_RETURN(cut.guest, FromPayload(guest));
  ASSIGN_OR_RETURN(const PlanState plan, DecodePlan(plan_envelope));
  if (cut.plan_sha256 != PlanDigest(plan_envelope) || cut.session_id != plan.session_id ||
      cut.vm_id != plan.vm.vm_id()) {
    return absl::FailedPreconditionError(
        StrCat("the cut of session ", cut.session_id, " does not belong to the plan of session ",
               plan.session_id, "; both must come from one export"));
  }
  RETURN_IF_ERROR(CheckSameContainers(plan.vm, cut.containers));
  RETURN_IF_ERROR(CheckStarts(cut));
  return cut;
}

std::string PlanDigest(std::string_view plan_envelope) { return Sha256(plan_envelope); }

absl::StatusOr<std::string> EncodeGuest(const guest::GuestState& state) {
  ASSIGN_OR_RETURN(const state::v1::GuestPayload payload, ToPayload(state));
  return payload.SerializeAsString();
}

absl::StatusOr<guest::GuestState> DecodeGuest(std::string_view bytes) {
  state::v1::GuestPayload payload;
  RETURN_IF_ERROR(ParsePayload(bytes, payload));
  return FromPayload(payload);
}

absl::Status CheckCutFits(const guest::GuestState& state, size_t limit) {
  ASSIGN_OR_RETURN(const std::string encoded, EncodeGuest(state));
  size_t spools = 0;
  for (const guest::ProcessState& process : state.processes) {
    spools += process.std_out.spool.size() + process.std_err.spool.size();
  }
  // What is not a process's: names, digests, the envelope, and containers.
  constexpr size_t kRest = 4 * 1024 * 1024 + kMaxContainerOutput;
  const size_t may_grow = std::max(guest::SpoolSettings().total, spools) - spools;
  const size_t most = encoded.size() + may_grow + kRest;
  if (most <= limit) return absl::OkStatus();
  return absl::FailedPreconditionError(
      StrCat("the VM's ", state.processes.size(), " processes with their kept output may take ",
             most, " bytes, and a migration carries ", limit, "; end some of them first"));
}

}  // namespace ferry::vm
