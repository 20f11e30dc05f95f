#pragma once

#include <memory>
#include <string>

#include "vmmanager/backend/overlays.h"
#include "vmmanager/jobs/job_registry.h"
#include "vmmanager/sandbox/vm_inventory.h"
#include "vmmanager/saving/memory_copy.h"
#include "vmmanager/saving/memory_pump.h"

// Saves and restores as jobs.
namespace ferry::vm {

// `file` is empty for the VM's own.
JobDescription DescribeSave(const UtilityVm& vm, const std::string& file);
JobDescription DescribeRestore(const UtilityVm& vm, const std::string& file);

// The job tells how much of at most `memory_bytes` has come, and can be cancelled until all of it
// has. Before the file is begun.
void ShowSave(const std::shared_ptr<Job>& job, const std::shared_ptr<FileBeingSaved>& file,
              uint64_t memory_bytes);
// All of the memory has come: it cannot be cancelled any more.
void ShowAllTaken(Job& job);

// The job tells how much was read, and can be cancelled until all of it is. Once the file is open.
void ShowRestore(const std::shared_ptr<Job>& job, const std::shared_ptr<FileBeingRestored>& file);

// The same of memory that is only looked at.
void ShowVerify(const std::shared_ptr<Job>& job, const std::shared_ptr<MemoryCopy>& memory);

// The job cannot be cancelled. Returns what is to be told how much was merged of a disk.
MergeProgress ShowMerges(const std::shared_ptr<Job>& job);

}  // namespace ferry::vm
