#include "migration/controller/exported_plan.h"

#include "bridge/runtime/status_macros.h"
#include "vmmanager/sandbox/fingerprint.h"
#include "vmmanager/sandbox/incoming_machine.h"

namespace ferry::migration {

Task<absl::StatusOr<vm::PlanState>> DescribeForExport(const ControllerDeps& deps,
                                                      std::shared_ptr<vm::UtilityVm> machine,
                                                      std::string session_id) {
  const ControllerDeps* const host = &deps;
  vm::PlanState plan;
  plan.session_id = session_id;
  plan.source_address = host->own_address();
  plan.source_journal_id = host->store().journal_id();
  plan.vm.set_vm_id(machine->id());
  plan.vm.set_vm_name(machine->name());
  plan.vm.set_hcs_document_json(schema::ToJson(machine->document()));
  plan.vm.set_spec_json(machine->spec_json());
  plan.vm.set_epoch(machine->epoch());
  CO_ASSIGN_OR_RETURN(
      *plan.vm.mutable_fingerprint(),
      co_await vm::MakeFingerprint(machine->document(), host->inventory.deps().backend.info(),
                                   host->digests));
  schema::ComputeSystem document = machine->document();
  CO_ASSIGN_OR_RETURN(const std::vector<state::v1::DiskPayload> disks,
                      co_await vm::DescribeDisks(std::move(document), host->digests.reads()));
  plan.vm.mutable_disks()->Add(disks.begin(), disks.end());
  if (host->exports != nullptr) {
    const std::vector<state::v1::ContainerRecord> containers =
        host->exports->Describe(machine->id());
    plan.vm.mutable_containers()->Add(containers.begin(), containers.end());
  }
  co_return plan;
}

}  // namespace ferry::migration
