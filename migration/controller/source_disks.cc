// Disks that the destination does not see go there before the VM does, and along with it.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/str_cat.h"
#include "migration/controller/source_session.h"
#include "vmmanager/backend/disk_copies.h"
#include "vmmanager/containers/container_moves.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/sandbox/arriving_disks.h"
#include "vmmanager/sandbox/own_disks.h"
#include "vmmanager/state/saved_state.h"

namespace ferry::migration {

absl::Status SourceSession::CheckSendsDisks() const {
  if (info_.state() != v1::SESSION_STATE_SOURCE_EXPORTED) {
    return absl::FailedPreconditionError(
        StrCat("session ", id(), " copies no disks while it is ", ToString(info_.state())));
  }
  if (sends_disks_ || !copied_disks_.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("session ", id(), " has begun to copy its disks already"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::map<std::string, SourceSession::OfferedDisk>> SourceSession::OfferedDisks()
    const {
  ASSIGN_OR_RETURN(const vm::PlanState plan, vm::DecodePlan(sealed_plan_));
  std::map<std::string, OfferedDisk> offered;
  for (const state::v1::DiskPayload& disk : plan.vm.disks()) {
    const auto index = vm::OwnDiskNamed(vm_->spec(), disk.name());
    if (!index || !disk.has_copy() || !disk.copy().refusal().empty()) continue;
    const v1::DiskSpec& own = vm_->spec().disks(*index);
    const std::string lun = absl::StrCat(vm::LunOf(vm_->spec(), *index));
    OfferedDisk& its = offered[disk.name()];
    its.place = {vm::kDiskController, lun};
    its.used_bytes = disk.copy().used_bytes();
    its.over_same = disk.copy().has_below();
    // What is below it is measured with it, and a raw file's blocks say all.
    if (own.format() == "qcow2" && !its.over_same) its.measured = own.file();
  }
  for (const state::v1::ContainerRecord& container : plan.vm.containers()) {
    if (container.scratch_bytes() == 0) continue;
    const state::v1::ContainerDisk& disk = container.scratch_disk();
    OfferedDisk& its = offered[vm::ScratchDiskName(container.container_id())];
    its.place = {absl::StrCat(disk.controller()), absl::StrCat(disk.lun())};
    its.used_bytes = container.scratch_used_bytes();
    its.measured = container.scratch_file();
  }
  return offered;
}

absl::StatusOr<std::vector<vm::DiskMirror>> SourceSession::FindDisks(
    const v1::SendDisksRequest& request) const {
  ASSIGN_OR_RETURN(auto offered, OfferedDisks());
  std::vector<vm::DiskMirror> disks;
  for (const std::string& name : request.disks()) {
    // Each once.
    const auto disk = offered.extract(name);
    if (disk.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("VM ", info_.vm_name(), " has no disk ", name,
                                                     " that this session would copy"));
    }
    disks.push_back({disk.mapped().place, disk.mapped().over_same});
  }
  if (disks.empty()) return absl::InvalidArgumentError("no disks to copy are named");
  return disks;
}

Task<absl::Status> SourceSession::SendDisks(v1::SendDisksRequest request) {
  auto keep = self();
  CO_RETURN_IF_ERROR(CheckSendsDisks());
  CO_ASSIGN_OR_RETURN(const std::vector<vm::DiskMirror> disks, FindDisks(request));
  sends_disks_ = true;
  const std::vector<std::string> names(request.disks().begin(), request.disks().end());
  absl::Status sent = co_await MirrorOver(std::move(request), disks);
  sends_disks_ = false;
  Touch();  // that took its time
  if (sent.ok() && (end_reason().has_value() || disks_ == nullptr)) {
    co_return absl::CancelledError("the session ended while its disks were copied");
  }
  if (sent.ok() && disks_->closed()) sent = co_await WhyDisksFailed(sent);
  if (sent.ok()) {
    copied_disks_ = names;
    for (const vm::DiskMirror& disk : disks) copied_places_.push_back(disk.place);
    core_->NoteDisksMirrored();
    deps_.failpoint("MIRROR.same");
    co_return absl::OkStatus();
  }
  if (disks_ != nullptr) disks_->Close();
  // A copy is not taken up again, and whoever drives this does not know whose fault it was.
  Conclude(WhyFailed(sent));
  co_return sent;
}

// What is compressed in a file is known by looking into it, which takes its time.
Task<absl::Status> SourceSession::CheckTheyFit(v1::SendDisksRequest request) {
  auto keep = self();
  if (!request.has_room_bytes()) co_return absl::OkStatus();
  vm::OverlayFiles* const files = deps_.inventory.deps().overlays;
  uint64_t wanted = 0;
  CO_ASSIGN_OR_RETURN(const auto offered, OfferedDisks());
  for (const std::string& name : request.disks()) {
    const auto disk = offered.find(name);
    if (disk == offered.end()) continue;
    uint64_t needed = disk->second.used_bytes;
    if (files != nullptr && !disk->second.measured.empty()) {
      std::string file = disk->second.measured;
      std::string format = "qcow2";
      const auto measured = co_await files->Measure(std::move(file), std::move(format));
      if (!measured.ok()) spdlog::warn("session {}: {}", id(), measured.status().ToString());
      needed = std::max(needed, measured.value_or(0));
    }
    wanted += needed;
  }
  if (wanted <= request.room_bytes()) co_return absl::OkStatus();
  co_return AtDestination(vm::NoRoomForDisks(wanted, request.room_bytes()));
}

Task<absl::Status> SourceSession::MirrorOver(v1::SendDisksRequest request,
                                             std::vector<vm::DiskMirror> disks) {
  std::string own_id = DiskSessionId(id());
  auto dialled = co_await DialDestination(std::move(own_id), request.session_address(),
                                          request.session_token());
  if (!dialled.ok()) co_return dialled.status();
  std::shared_ptr<vm::ComputeSystem> system = vm_->system();
  if (info_.state() != v1::SESSION_STATE_SOURCE_EXPORTED || system == nullptr) {
    co_return absl::CancelledError("the session ended before its disks were copied");
  }
  disks_ = *std::move(dialled);
  // The destination does not wait for long to be called.
  CO_RETURN_IF_ERROR(co_await CheckTheyFit(request));
  if (disks_ == nullptr || end_reason().has_value()) {
    co_return absl::CancelledError("the session ended before its disks were copied");
  }
  CO_ASSIGN_OR_RETURN(std::string path, MakeDiskSocketPath());
  CO_RETURN_IF_ERROR(disks_->RelayFromListener(path));
  const auto begun = Clock::now();
  const absl::Status mirrored =
      co_await MirrorWatched(std::move(system), std::move(disks), std::move(path));
  if (trace_) trace_->Span(SessionTrace::Row::kSession, "disks", begun, Clock::now());
  co_return mirrored;
}

Task<absl::Status> SourceSession::MirrorWatched(std::shared_ptr<vm::ComputeSystem> system,
                                                std::vector<vm::DiskMirror> disks,
                                                std::string path) {
  const std::shared_ptr<SessionConnection> connection = disks_;
  StallWatchdog::Transfer transfer;
  transfer.moved = [connection, weak = std::weak_ptr<SourceSession>(self())] {
    const SessionStatistics statistics = connection->statistics();
    const Self session = weak.lock();
    const uint64_t done = session == nullptr ? 0 : session->info_.progress().disk_done_bytes();
    return statistics.bulk_bytes_sent + statistics.bulk_bytes_received + done;
  };
  transfer.call_off = [connection]() -> Task<void> {
    connection->Close();
    co_return;
  };
  const StallWatchdog watchdog(deps_.executor(), limits_.stall, std::move(transfer));
  vm::TellCopied tell = [weak = std::weak_ptr<SourceSession>(self())](const vm::CopiedBytes& now) {
    if (const Self session = weak.lock()) session->OnDiskProgress(now);
  };
  const absl::Status mirrored =
      co_await system->MirrorDisks(std::move(disks), std::move(path), std::move(tell));
  if (mirrored.ok()) co_return mirrored;
  if (watchdog.stalled()) co_return Stalled("the disks");
  co_return co_await WhyDisksFailed(mirrored);
}

// Why the connection ended says more than what the VMM makes of it.
Task<absl::Status> SourceSession::WhyDisksFailed(absl::Status mirrored) {
  auto keep = self();
  if (disks_ != nullptr && disks_->closed()) {
    const absl::Status lost = co_await disks_->WaitClosed();
    const std::string why =
        lost.ok() ? "the destination takes no more of the VM's disks" : std::string(lost.message());
    const absl::StatusCode code = lost.ok() ? absl::StatusCode::kAborted : lost.code();
    co_return AtDestination(rpc::ErrorWithReason(code, why, "connection_lost", kAfterALostLink));
  }
  if (mirrored.GetPayload(vm::kNeverTheSame).has_value()) {
    co_return rpc::ErrorWithReason(
        mirrored.code(), mirrored.message(), "not_converging",
        absl::StrCat("pause the VM for the migration (ferryctl pause ", info_.vm_name(),
                     "), let it be slowed down (--throttle), allow more bandwidth, or have it "
                     "write less"));
  }
  const bool there = mirrored.GetPayload(vm::kOtherDiskFailed).has_value();
  co_return there ? AtDestination(mirrored) : mirrored;
}

void SourceSession::OnDiskProgress(const vm::CopiedBytes& now) {
  if (end_reason().has_value()) return;
  info_.mutable_progress()->set_disk_done_bytes(now.done);
  info_.mutable_progress()->set_disk_total_bytes(now.total);
  info_.mutable_progress()->set_disk_write_limit(now.write_limit);
  v1::Notification notification;
  notification.set_origin(origin());
  notification.set_phase(v1::MIGRATION_PHASE_TRANSFER_IN_PROGRESS);
  notification.set_state(v1::MIGRATION_PHASE_STATE_SUCCESS);
  *notification.mutable_progress() = info_.progress();
  Tell(notification);
}

Task<absl::Status> SourceSession::SealDisks() {
  auto keep = self();
  if (copied_disks_.empty()) co_return absl::OkStatus();
  std::shared_ptr<vm::ComputeSystem> system = vm_->system();
  if (system == nullptr) co_return absl::UnavailableError("the VM has ended");
  const auto begun = Clock::now();
  const absl::Status sealed = co_await system->SealMirrors(copied_places_);
  if (trace_) trace_->Span(SessionTrace::Row::kBlackout, "disks", begun, Clock::now());
  if (!sealed.ok()) co_return co_await WhyDisksFailed(sealed);
  info_.mutable_progress()->set_disk_done_bytes(info_.progress().disk_total_bytes());
  core_->NoteDisksSealed();
  deps_.failpoint("MIRROR.sealed");
  co_return sealed;
}

}  // namespace ferry::migration
