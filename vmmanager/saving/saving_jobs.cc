#include "vmmanager/saving/saving_jobs.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace ferry::vm {
namespace {

v1::JobProgress InBytes(const char* phase, uint64_t done, uint64_t total) {
  v1::JobProgress progress;
  progress.set_unit(v1::JOB_UNIT_BYTES);
  progress.set_phase(phase);
  progress.set_done(std::min(done, total));
  progress.set_total(total);
  return progress;
}

}  // namespace

JobDescription DescribeSave(const UtilityVm& vm, const std::string& file) {
  return {v1::JOB_KIND_SAVE, vm.id(), vm.name(),
          file.empty() ? "to its own file" : absl::StrCat("to ", file)};
}

JobDescription DescribeRestore(const UtilityVm& vm, const std::string& file) {
  return {v1::JOB_KIND_RESTORE, vm.id(), vm.name(), absl::StrCat("from ", file)};
}

// Neither keeps the other: the job is over with its work, and the file with that, too.
void ShowSave(const std::shared_ptr<Job>& job, const std::shared_ptr<FileBeingSaved>& file,
              uint64_t memory_bytes) {
  job->SetProgress(InBytes("writing memory", 0, memory_bytes));
  file->set_on_memory([weak = std::weak_ptr(job), memory_bytes](uint64_t bytes) {
    if (auto told = weak.lock()) {
      told->SetProgress(InBytes("writing memory", bytes, memory_bytes));
    }
  });
  job->AllowCancel([weak = std::weak_ptr(file)] {
    auto written = weak.lock();
    return written ? written->CallOff() : absl::FailedPreconditionError("it is over");
  });
}

void ShowAllTaken(Job& job) {
  job.ForbidCancel("all of the memory is written, and its VM is saved in a moment");
  job.SetPhase("making the file whole");
}

void ShowRestore(const std::shared_ptr<Job>& job, const std::shared_ptr<FileBeingRestored>& file) {
  const uint64_t total = file->info().memory_bytes;
  job->AllowCancel([weak = std::weak_ptr(file)] {
    auto read = weak.lock();
    return read ? read->CallOff() : absl::FailedPreconditionError("it is over");
  });
  job->SetProgress(InBytes("reading memory", 0, total));
  file->set_on_memory([weak = std::weak_ptr(job), total](uint64_t bytes) {
    if (auto told = weak.lock()) told->SetProgress(InBytes("reading memory", bytes, total));
  });
}

void ShowVerify(const std::shared_ptr<Job>& job, const std::shared_ptr<MemoryCopy>& memory) {
  const uint64_t total = memory->info().memory_bytes;
  job->AllowCancel([weak = std::weak_ptr(memory)] {
    const auto read = weak.lock();
    if (read) read->CallOff();
    return read ? absl::OkStatus() : absl::FailedPreconditionError("it is over");
  });
  job->SetProgress(InBytes("reading memory", 0, total));
  memory->set_on_memory([weak = std::weak_ptr(job), total](uint64_t bytes) {
    if (auto told = weak.lock()) {
      told->SetProgress(InBytes("reading memory", bytes, total));
    }
  });
}

MergeProgress ShowMerges(const std::shared_ptr<Job>& job) {
  job->ForbidCancel("what is merged cannot be taken apart again");
  return [weak = std::weak_ptr(job)](uint64_t done, uint64_t total) {
    if (auto told = weak.lock()) told->SetProgress(InBytes("merging disks", done, total));
  };
}

}  // namespace ferry::vm
