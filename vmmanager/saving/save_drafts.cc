#include "vmmanager/saving/save_drafts.h"

#include <spdlog/spdlog.h>

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "bridge/runtime/blocking_worker.h"
#include "vmmanager/saves/file_identity.h"

namespace ferry::vm {
namespace {

constexpr milliseconds kDraftTime{3'600'000};  // its disk may be slow to come

Task<void> RemoveDraft(Executor executor, state::v1::SaveDraftRecord draft) {
  const auto worker = BlockingWorker::Start(executor);
  absl::Status removed = worker.status();
  if (removed.ok()) {
    const FileIdentity identity{.inode = draft.inode(), .born_ns = draft.born_ns()};
    std::function<absl::Status()> remove = [file = draft.file(), identity] {
      return RemoveIfSame(file, identity);
    };
    removed = co_await (*worker)->Run(kDraftTime, "removing a file", std::move(remove));
  }
  if (!removed.ok()) spdlog::warn("{}: {}", draft.file(), removed.ToString());
}

}  // namespace

DraftFate FateOfDraft(const std::string& draft_file,
                      const std::optional<state::v1::SavedRecord>& saved, bool has_vmm) {
  if (saved.has_value()) {
    const bool may_be_in_it = saved->file().empty() || saved->file() == draft_file;
    return may_be_in_it ? DraftFate::kStays : DraftFate::kGoes;
  }
  return has_vmm ? DraftFate::kGoes : DraftFate::kMayServe;
}

Task<void> SweepSaveDrafts(VmInventory& vms) {
  const std::vector<std::shared_ptr<UtilityVm>> all = vms.List();
  for (const auto& vm : all) {
    const auto draft = vm->save_draft();
    if (!draft.has_value()) continue;
    const DraftFate fate = FateOfDraft(draft->file(), vm->saved(), vm->system() != nullptr);
    if (fate == DraftFate::kMayServe) {
      spdlog::warn(
          "vm {} was being saved when ferryd ended; if there is a file {}, it can go on "
          "from that: ferryctl start {} --from {}",
          vm->name(), draft->file(), vm->name(), draft->file());
    }
    const absl::Status forgotten = co_await vm->ForgetSaveDraft(draft);
    if (!forgotten.ok()) {
      spdlog::warn("vm {}: {}: {}", vm->name(), draft->file(), forgotten.ToString());
    } else if (fate == DraftFate::kGoes) {
      Spawn(vms.deps().executor, RemoveDraft(vms.deps().executor, *draft));
    }
  }
}

}  // namespace ferry::vm
