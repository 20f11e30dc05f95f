#pragma once

#include "vmmanager/jobs/job_registry.h"
#include "vmmanager/sandbox/vm_inventory.h"

namespace ferry::vm {

// What became of jobs with VMs during which ferryd ended, by what the VMs and their checkpoints and
// snapshots are: whether all of it was done. Once those are adopted; `vms` must outlive it.
JobRegistry::Verdict JudgeInterrupted(const VmInventory& vms);

}  // namespace ferry::vm
