#include "vmmanager/sandbox/vm_payload.h"

#include <utility>
#include <vector>

#include "bridge/runtime/status_macros.h"
#include "vmmanager/sandbox/firmware_store.h"
#include "vmmanager/sandbox/incoming_machine.h"

namespace ferry::vm {

Task<absl::StatusOr<state::v1::VmPayload>> DescribeVm(std::shared_ptr<UtilityVm> vm,
                                                      const Backend& backend,
                                                      ImageDigests& digests) {
  ImageDigests* const known = &digests;
  const BackendInfo* const info = &backend.info();
  state::v1::VmPayload payload;
  payload.set_vm_id(vm->id());
  payload.set_vm_name(vm->name());
  payload.set_hcs_document_json(schema::ToJson(vm->document()));
  payload.set_spec_json(vm->spec_json());
  payload.set_epoch(vm->epoch());
  CO_ASSIGN_OR_RETURN(*payload.mutable_fingerprint(),
                      co_await MakeFingerprint(vm->document(), *info, *known));
  if (const auto& uefi = vm->document().virtual_machine.chipset.uefi) {
    CO_ASSIGN_OR_RETURN(*payload.mutable_firmware_store(),
                        co_await ReadStore(&known->reads(), uefi->store_path));
  }
  schema::ComputeSystem document = vm->document();
  CO_ASSIGN_OR_RETURN(const std::vector<state::v1::DiskPayload> disks,
                      co_await DescribeDisks(std::move(document), known->reads()));
  payload.mutable_disks()->Add(disks.begin(), disks.end());
  co_return payload;
}

}  // namespace ferry::vm
