#pragma once

#include <string>

#include "vmmanager/containers/container_inventory.h"
#include "vmmanager/sandbox/checkpoint_steps.h"

namespace ferry::vm {

// Where the containers of a host have their scratch disks. Thread: the executor's only.
class ContainerScratch final : public ScratchPlaces {
 public:
  // As long as it is nullptr there are none.
  explicit ContainerScratch(ContainerInventory* containers = nullptr) : containers_(containers) {}

  // VMs are there before their containers. They must outlive it.
  void set_containers(ContainerInventory* containers) { containers_ = containers; }

  std::string FileOf(const std::string& container_id) const override;
  Task<absl::Status> Put(std::string container_id, std::string file) override;
  std::string OwnerOf(const std::string& vm_id, const std::string& file) const override;

 private:
  ContainerInventory* containers_;
};

}  // namespace ferry::vm
