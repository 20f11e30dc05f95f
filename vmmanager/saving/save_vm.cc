// How a VM is written.
#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/unix_time.h"
#include "vmmanager/saving/saved_states.h"
#include "vmmanager/saving/saving_jobs.h"
#include "vmmanager/state/saved_state.h"

namespace ferry::vm {
namespace {

state::v1::SaveDraftRecord DraftOf(const std::string& file, const FileIdentity& identity) {
  state::v1::SaveDraftRecord draft;
  draft.set_schema_version(kStateSchemaVersion);
  draft.set_file(file);
  draft.set_inode(identity.inode);
  draft.set_born_ns(identity.born_ns);
  return draft;
}

}  // namespace

Task<absl::Status> SavedStates::Write(Vm vm, std::string file, bool own, v1::SaveVmRequest request,
                                      std::shared_ptr<Job> job) {
  CO_ASSIGN_OR_RETURN(SavedFileOptions options, ToFileOptions(request.options()));
  auto writing = std::make_shared<FileBeingSaved>(vms_.deps().executor);
  const absl::Status made =
      co_await writing->Create(file, std::move(options), request.options().key_file());
  CO_RETURN_IF_ERROR(WithRoomNeeded(made, *vm));
  ShowSave(job, writing, vm->memory_mb() << 20);

  SaveSteps steps;
  steps.live_on = request.live();
  // What is ours is swept.
  if (!own) steps.draft = DraftOf(file, writing->identity());
  steps.begin = [this, vm, writing,
                 live = request.live()](guest::GuestState guest) -> Task<absl::StatusOr<UniqueFd>> {
    // Since it was asked whether it can be saved, a container may have been begun to be removed, or
    // a disk have come.
    CO_RETURN_IF_ERROR(CheckContainersRest(*vm));
    if (live) CO_RETURN_IF_ERROR(CheckMayLiveOn(*vm));
    CO_ASSIGN_OR_RETURN(std::string head, co_await sealing_.Head(vm, std::move(guest), "save"));
    co_return co_await writing->Begin(std::move(head));
  };
  steps.seal =
      [this, vm, writing, file, own, job,
       key_file = request.options().key_file()]() -> Task<absl::StatusOr<state::v1::SavedRecord>> {
    CO_RETURN_IF_ERROR(co_await writing->Taken());
    ShowAllTaken(*job);
    CO_ASSIGN_OR_RETURN(std::string tail, co_await sealing_.Tail(vm->document()));
    CO_ASSIGN_OR_RETURN(const SavedFileInfo info, co_await writing->Commit(std::move(tail)));
    state::v1::SavedRecord record;
    record.set_schema_version(kStateSchemaVersion);
    record.set_file(file);
    record.set_sha256(info.sha256);
    record.set_kept(!own);
    record.set_saved_unix_ms(NowUnixMs());
    record.set_file_bytes(info.file_bytes);
    record.set_memory_bytes(info.memory_bytes);
    record.set_compressed(info.compression == SaveCompression::kZstd);
    record.set_key_file(key_file);
    job->SetResult(absl::StrCat("saved in ", file));
    co_return record;
  };
  steps.discard = [vm, writing](absl::Status cause) -> Task<absl::Status> {
    const absl::Status why = co_await writing->Discard(std::move(cause));
    co_return WithRoomNeeded(why, *vm);
  };
  co_return co_await vm->Save(std::move(steps));
}

}  // namespace ferry::vm
