#pragma once

#include <memory>
#include <utility>

#include "vmmanager/containers/container_machine.h"
#include "vmmanager/containers/container_output.h"
#include "vmmanager/containers/scratch_files.h"
#include "vmmanager/containers/vm_disks.h"
#include "vmmanager/containers/vm_shares.h"
#include "vmmanager/images/image_store.h"
#include "vmmanager/sandbox/vm_inventory.h"

namespace ferry::vm {

// What all containers of a host work with. All must outlive them.
struct ContainerDeps {
  VmInventory& vms;
  ScratchFiles& scratch;
  const ContainerOutput& output;
  ImageStore* images = nullptr;  // none as long as they are not opened

  const Executor& executor() const { return vms.deps().executor; }
  Store& store() const { return vms.deps().store; }
  EventLog& events() const { return vms.deps().events; }
};

// A VM as its containers have it in common.
struct ContainerHome {
  ContainerHome(Executor executor, std::shared_ptr<UtilityVm> its_vm,
                std::unique_ptr<ContainerMachine> its_machine)
      : vm(std::move(its_vm)),
        machine(std::move(its_machine)),
        layers(executor, *machine),
        shares(std::move(executor), *machine) {}

  const std::shared_ptr<UtilityVm> vm;
  const std::unique_ptr<ContainerMachine> machine;
  VmLayers layers;
  VmShares shares;
};

}  // namespace ferry::vm
