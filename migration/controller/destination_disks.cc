// Disks that this host does not see: their content comes with their VM.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/str_cat.h"
#include "migration/controller/destination_session.h"
#include "vmmanager/sandbox/machine_document.h"
#include "vmmanager/sandbox/own_disks.h"

namespace ferry::migration {
namespace {

constexpr milliseconds kDisksWait{60'000};  // for the source to connect

}  // namespace

vm::ArrivalFolder DestinationSession::Arrivals() const {
  return {.state_folder = deps_.inventory.deps().settings.state_folder,
          .vm_id = info_.vm_id(),
          .session_id = id(),
          .owner = deps_.vmm_owner};
}

std::map<std::string, vm::DiskPlace> DestinationSession::DisksToCome() const {
  std::map<std::string, vm::DiskPlace> disks;
  for (const vm::ArrivingDisk& disk : arriving_disks_) {
    disks[disk.name] = {vm::kDiskController, disk.lun};
  }
  if (arrivals_ == nullptr) return disks;
  for (const vm::ArrivingScratch& scratch : arrivals_->ScratchToCome()) {
    disks[vm::ScratchDiskName(scratch.source_id)] = scratch.place;
  }
  return disks;
}

absl::Status DestinationSession::PlaceDisks(std::vector<vm::ArrivingDisk> copies,
                                            schema::ComputeSystem* document, v1::VmSpec* spec,
                                            std::string* spec_json) {
  if (copies.empty()) return absl::OkStatus();
  RETURN_IF_ERROR(vm::PlaceArrivingDisks(Arrivals(), &copies, document, spec));
  arriving_disks_ = std::move(copies);
  return vm::WriteSpec(*spec, spec_json);
}

std::set<std::string> DestinationSession::AwaitedDisks() const {
  std::set<std::string> names;
  for (const auto& [name, place] : DisksToCome()) names.insert(name);
  return names;
}

Task<absl::Status> DestinationSession::CheckDiskRoom() {
  const vm::SandboxDeps& host = deps_.inventory.deps();
  std::string folder = host.settings.state_folder;
  std::vector<vm::ArrivingDisk> disks = arriving_disks_;
  if (arrivals_ != nullptr) {
    // They lie on the same file system, unless somebody has mounted another one.
    for (const vm::ArrivingScratch& scratch : arrivals_->ScratchToCome()) {
      vm::ArrivingDisk& disk = disks.emplace_back();
      disk.bytes = scratch.size.bytes;
      disk.used_bytes = scratch.size.used_bytes;
    }
  }
  co_return co_await vm::CheckArrivalRoom(host.overlays, std::move(folder), std::move(disks),
                                          deps_.image_reserve);
}

std::vector<v1::IncomingDisk> DestinationSession::IncomingDisks() const {
  std::vector<v1::IncomingDisk> disks;
  for (const vm::ArrivingDisk& arriving : arriving_disks_) {
    v1::IncomingDisk& disk = disks.emplace_back();
    disk.set_name(arriving.name);
    disk.set_bytes(arriving.bytes);
    disk.set_used_bytes(arriving.used_bytes);
    disk.set_file(arriving.file);
    disk.set_below(arriving.below);
  }
  return disks;
}

Task<absl::Status> DestinationSession::MakeDisks() {
  if (DisksToCome().empty()) co_return absl::OkStatus();
  // Containers' are among them only once those are bound.
  core_->AwaitDisks(AwaitedDisks());
  // It may have become less since the import, and what containers have is known only now.
  CO_RETURN_IF_ERROR(co_await CheckDiskRoom());
  if (arrivals_ != nullptr) CO_RETURN_IF_ERROR(co_await arrivals_->MakeScratch());
  if (arriving_disks_.empty()) co_return absl::OkStatus();
  const vm::SandboxDeps& host = deps_.inventory.deps();
  vm::ArrivalFolder arrivals = Arrivals();
  co_return co_await vm::MakeArrivingDisks(&host.host_reads, host.overlays, std::move(arrivals),
                                           arriving_disks_);
}

Task<absl::StatusOr<v1::ReceiveDisksResponse>> DestinationSession::ReceiveDisks() {
  auto keep = self();
  AsyncMutex::Guard lock = co_await deciding_.Lock();
  if (info_.state() != v1::SESSION_STATE_DESTINATION_PREPARED) {
    co_return absl::FailedPreconditionError(
        StrCat("ReceiveDisks is for a session that is prepared and not transferred yet; session ",
               id(), " is ", ToString(info_.state())));
  }
  const std::map<std::string, vm::DiskPlace> coming = DisksToCome();
  if (coming.empty()) co_return v1::ReceiveDisksResponse();
  if (disks_expected_ != nullptr && disks_answer_) co_return *disks_answer_;
  // What a first copy has left must not be taken for zeros by another one.
  if (disks_answer_) {
    co_return absl::FailedPreconditionError(absl::StrCat(
        "the disks of session ", id(), " have come, or were given up; cancel it and begin anew"));
  }
  std::shared_ptr<vm::ComputeSystem> system = vm_->system();
  if (system == nullptr) co_return absl::UnavailableError("the VM ended while it was awaited");
  const vm::SandboxDeps& host = deps_.inventory.deps();
  std::string folder = host.settings.state_folder;
  CO_ASSIGN_OR_RETURN(
      const uint64_t room,
      co_await vm::ArrivalRoom(host.overlays, std::move(folder), deps_.image_reserve));
  CO_ASSIGN_OR_RETURN(const std::string token, MakeToken());
  CO_ASSIGN_OR_RETURN(const std::string path, MakeDiskSocketPath());
  std::vector<vm::DiskPlace> places;
  v1::ReceiveDisksResponse response;
  for (const auto& [name, place] : coming) {
    places.push_back(place);
    response.add_disks(name);
  }
  std::string socket_path = path;
  CO_RETURN_IF_ERROR(co_await system->OpenDisks(std::move(places), std::move(socket_path)));
  auto expected =
      deps_.listener.Expect(DiskSessionId(id()), token, deps_.store().journal_id(), peer_name_);
  if (!expected.ok()) {
    (void)co_await system->CloseDisks();
    co_return expected.status();
  }
  disks_expected_ = *std::move(expected);
  response.set_session_address(deps_.listener.address());
  response.set_session_token(token);
  response.set_room_bytes(room);
  disks_answer_ = response;
  Spawn(deps_.executor(), TakeDisks(keep, path));
  co_return response;
}

Task<void> DestinationSession::TakeDisks(Self self, std::string socket_path) {
  auto connection = co_await self->disks_expected_->Wait(kDisksWait);
  // Nobody else may bring them.
  self->disks_expected_.reset();
  absl::Status taken = connection.status();
  if (taken.ok() && self->info_.state() != v1::SESSION_STATE_DESTINATION_PREPARED) {
    (*connection)->Close();
    taken = absl::CancelledError("the session ended before its disks came");
  }
  if (taken.ok()) {
    self->disks_ = *connection;
    taken = self->disks_->RelayToPath(socket_path);
  }
  if (!taken.ok()) {
    spdlog::warn("session {}: {}", self->id(), taken.ToString());
    co_return;
  }
  const absl::Status ended = co_await (*connection)->WaitClosed();
  // All was taken before, or the source calls it off and says so.
  if (self->disks_taken_) co_return;
  (void)co_await WithDeadline(self->limits_.cut, "the source's word",
                              WaitFor(&self->word_arrived_));
  // A copy is not taken up again.
  AsyncMutex::Guard lock = co_await self->deciding_.Lock();
  if (self->core_->record() != DestinationRecord::kListening) co_return;
  EndReason why{v1::SESSION_OUTCOME_FAILED, v1::MIGRATION_ORIGIN_SOURCE, "connection_lost",
                ended.ok() ? "the source went away before it had sent the VM's disks"
                           : std::string(ended.message())};
  (void)co_await self->RefuseNow(std::move(why), std::nullopt);
}

Task<absl::Status> DestinationSession::TakeLastOfDisks(std::vector<std::string> copied) {
  auto keep = self();
  const std::set<std::string> sealed(copied.begin(), copied.end());
  CO_RETURN_IF_ERROR(core_->NoteSealed(sealed));
  if (sealed.empty()) co_return absl::OkStatus();
  const std::shared_ptr<SessionConnection> disks = disks_;
  if (disks == nullptr) co_return absl::DataLossError("the content of the disks has not come");
  CO_RETURN_IF_ERROR(
      co_await WithDeadline(limits_.cut, "the end of the VM's disks", disks->WaitReceived()));
  std::shared_ptr<vm::ComputeSystem> system = vm_->system();
  if (system == nullptr) co_return absl::UnavailableError("the VM ended while it was awaited");
  CO_RETURN_IF_ERROR(co_await system->CloseDisks());
  disks_taken_ = true;
  core_->NoteDisksHere();
  deps_.failpoint("MIRROR.received");
  disks->Close();
  co_return absl::OkStatus();
}

// A daemon that died before may have come as far as that.
Task<absl::Status> DestinationSession::KeepDisks() {
  auto keep = self();
  vm::ArrivalFolder arrivals = Arrivals();
  const auto& disks = vm_->spec().disks();
  const bool came = std::any_of(disks.begin(), disks.end(), [&arrivals](const v1::DiskSpec& disk) {
    return absl::StartsWith(disk.file(), absl::StrCat(arrivals.path(), "/"));
  });
  if (!came) co_return absl::OkStatus();
  co_return co_await vm::KeepArrivals(&deps_.inventory.deps().host_reads, std::move(arrivals));
}

}  // namespace ferry::migration
