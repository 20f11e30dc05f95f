#include "vmmanager/qemu/qemu_compute_system.h"

#include <spdlog/spdlog.h>

#include <boost/json/array.hpp>
#include <boost/json/serialize.hpp>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/qemu/disk_nodes.h"
#include "vmmanager/qemu/qemu_command_line.h"
#include "vmmanager/qemu/qemu_disk_copies.h"
#include "vmmanager/qemu/qemu_disks.h"
#include "vmmanager/qemu/qemu_overlays.h"
#include "vmmanager/qemu/qemu_save_behind.h"
#include "vmmanager/qemu/qemu_snapshot.h"

namespace ferry::vm {
namespace {

namespace json = boost::json;
using schema::SystemState;

uint32_t GuestCidOf(const schema::ComputeSystem& document) {
  const auto& socket = document.virtual_machine.devices.hv_socket;
  return socket ? socket->guest_cid : 0;
}

std::string CompatibilityOf(QemuMachine& machine) {
  const BackendInfo& info = machine.host().info;
  const schema::VirtualMachine& vm = machine.document().virtual_machine;
  const json::object fields = {{"QemuVersion", info.version},
                               {"MachineType", MachineTypeOf(vm, info.machine_type)},
                               {"Accelerator", info.accelerator},
                               {"CpuModel", CpuModelOf(vm, info.accelerator)}};
  return json::serialize(fields);
}

// QEMU lists what keeps a machine from being migrated at any time, also without a migration.
Task<absl::StatusOr<std::vector<std::string>>> MigrationBlockersOf(QemuMachine* machine) {
  CO_ASSIGN_OR_RETURN(const json::value answer, co_await machine->Command("query-migrate"));
  std::vector<std::string> blockers;
  const json::object* object = answer.if_object();
  const json::value* list = object == nullptr ? nullptr : object->if_contains("blocked-reasons");
  const json::array* reasons = list == nullptr ? nullptr : list->if_array();
  if (reasons == nullptr) co_return blockers;
  for (const json::value& reason : *reasons) {
    if (const json::string* text = reason.if_string()) blockers.emplace_back(text->c_str());
  }
  co_return blockers;
}

absl::Status NoSnapshotNow() {
  return AsNothingChanged(absl::FailedPreconditionError(
      "the VM's snapshots cannot be used or changed while it is being migrated"));
}

absl::Status NoNewFilesNow() {
  return absl::FailedPreconditionError(
      "the files of the VM's disks cannot be changed while it is being migrated");
}

}  // namespace

QemuComputeSystem::QemuComputeSystem(std::shared_ptr<const QemuHost> host, const std::string& id,
                                     const schema::ComputeSystem& document) {
  std::unique_ptr<GuestLink> link = host->config.make_link(host->executor, GuestCidOf(document));
  auto machine = std::make_shared<QemuMachine>(host, id, document, std::move(link));
  parts_ = std::make_shared<Parts>(std::move(machine));
}

QemuComputeSystem::~QemuComputeSystem() { parts_->machine->Detach(); }

const std::string& QemuComputeSystem::id() const { return parts_->machine->id(); }

Task<absl::Status> QemuComputeSystem::Adopt(std::string record) {
  std::shared_ptr<Parts> parts = parts_;
  CO_RETURN_IF_ERROR(co_await parts->machine->Adopt(std::move(record)));
  parts->may_mirror = true;
  // To the recovery of migrations it would look like one.
  CO_RETURN_IF_ERROR(co_await AwaitQemuBehind(parts->machine));
  co_return co_await parts->migration.Recover();
}

Task<absl::Status> QemuComputeSystem::Start(const schema::StartOptions& options,
                                            const MigrationEndpoint* endpoint) {
  std::shared_ptr<Parts> parts = parts_;
  const auto destination = options.destination_migration_options;
  if (parts->machine->state() != SystemState::kCreated) {
    co_return parts->machine->WrongState("start it");
  }
  if (destination && endpoint == nullptr) {
    co_return absl::InvalidArgumentError("a migration's destination needs an endpoint");
  }
  const MigrationEndpoint where = endpoint == nullptr ? MigrationEndpoint{} : *endpoint;
  CO_RETURN_IF_ERROR(co_await parts->machine->Launch(destination.has_value()));
  absl::Status status;
  if (destination) {
    status = co_await parts->migration.Listen(*destination, where);
  } else {
    status = co_await parts->machine->RunGuest();
  }
  if (status.ok()) co_return status;
  // A system that could not start leaves nothing behind.
  absl::Status ignored = co_await parts->machine->End(SystemExit::Cause::kTerminated);
  co_return parts->machine->WithLastWords(status);
}

Task<absl::Status> QemuComputeSystem::Pause() {
  std::shared_ptr<Parts> parts = parts_;
  // QEMU lets the guest go by itself, and would do so after a pause that comes before.
  if (const std::shared_ptr<AsyncEvent> let_go = parts->let_go) co_await let_go->Wait();
  if (parts->machine->state() == SystemState::kPaused) {
    parts->migration.NoteUserPause();
    co_return absl::OkStatus();
  }
  if (parts->machine->state() != SystemState::kRunning) {
    co_return parts->machine->WrongState("pause it");
  }
  parts->migration.NoteUserPause();
  CO_RETURN_IF_ERROR((co_await parts->machine->Command("stop")).status());
  parts->machine->set_state(SystemState::kPaused);
  co_return absl::OkStatus();
}

Task<absl::Status> QemuComputeSystem::Resume() {
  std::shared_ptr<Parts> parts = parts_;
  // What QEMU has not written yet must not change.
  if (const std::shared_ptr<AsyncEvent> let_go = parts->let_go) co_await let_go->Wait();
  if (parts->machine->state() == SystemState::kRunning) co_return absl::OkStatus();
  if (parts->machine->state() != SystemState::kPaused) {
    co_return parts->machine->WrongState("resume it");
  }
  if (parts->migration.active()) {
    co_return absl::FailedPreconditionError(
        "cannot resume the VM while it is being migrated; finish or cancel the migration first");
  }
  co_return co_await parts->machine->RunGuest();
}

Task<absl::Status> QemuComputeSystem::Shutdown() {
  std::shared_ptr<Parts> parts = parts_;
  if (parts->machine->state() != SystemState::kRunning) {
    co_return parts->machine->WrongState("shut it down");
  }
  co_return (co_await parts->machine->Command("system_powerdown")).status();
}

Task<absl::Status> QemuComputeSystem::Terminate() {
  std::shared_ptr<Parts> parts = parts_;
  co_return co_await parts->machine->End(SystemExit::Cause::kTerminated);
}

Task<absl::Status> QemuComputeSystem::Save(const schema::SaveOptions& options, UniqueFd stream) {
  std::shared_ptr<Parts> parts = parts_;
  const schema::SaveOptions wanted = options;
  if (parts->migration.active()) {
    co_return absl::FailedPreconditionError("cannot save the VM while it is being migrated");
  }
  AsyncMutex::Guard lock = co_await parts->jobs.Lock();
  co_return co_await SaveToStream(parts->machine, wanted, std::move(stream));
}

Task<absl::Status> QemuComputeSystem::SaveBehind(const schema::SaveOptions& options,
                                                 UniqueFd stream,
                                                 std::function<void()> on_running) {
  std::shared_ptr<Parts> parts = parts_;
  const schema::SaveOptions wanted = options;
  if (parts->migration.active()) {
    co_return AsNothingChanged(
        absl::FailedPreconditionError("cannot save the VM while it is being migrated"));
  }
  AsyncMutex::Guard lock = co_await parts->jobs.Lock();
  auto let_go = std::make_shared<AsyncEvent>(parts->machine->host().executor);
  parts->let_go = let_go;
  const absl::Cleanup over = [parts, let_go] {
    parts->let_go.reset();
    let_go->Set();
  };
  std::function<void()> tell = [let_go, on_running = std::move(on_running)] {
    let_go->Set();
    if (on_running) on_running();
  };
  co_return co_await SaveQemuBehind(parts->machine, wanted, std::move(stream), std::move(tell));
}

Task<absl::Status> QemuComputeSystem::AddOverlays(std::vector<DiskOverlay> overlays) {
  std::shared_ptr<Parts> parts = parts_;
  AsyncMutex::Guard lock = co_await parts->jobs.Lock();
  if (parts->migration.active()) co_return NoNewFilesNow();
  co_return co_await AddQemuOverlays(parts->machine, std::move(overlays));
}

Task<absl::Status> QemuComputeSystem::MergeOverlay(DiskPlace disk, std::string format,
                                                   PlaceDiskFile place, MergeProgress progress) {
  std::shared_ptr<Parts> parts = parts_;
  AsyncMutex::Guard lock = co_await parts->jobs.Lock();
  if (parts->migration.active()) co_return NoNewFilesNow();
  co_return co_await MergeQemuOverlay(parts->machine, std::move(disk), std::move(format),
                                      std::move(place), std::move(progress));
}

Task<absl::Status> QemuComputeSystem::MergeLowerOverlay(LowerOverlay lower,
                                                        MergeProgress progress) {
  std::shared_ptr<Parts> parts = parts_;
  AsyncMutex::Guard lock = co_await parts->jobs.Lock();
  if (parts->migration.active()) co_return NoNewFilesNow();
  co_return co_await MergeLowerQemuOverlay(parts->machine, std::move(lower), std::move(progress));
}

Task<absl::Status> QemuComputeSystem::MoveDisk(DiskPlace disk, DiskTarget target,
                                               PlaceDiskFile place, MergeProgress progress) {
  std::shared_ptr<Parts> parts = parts_;
  AsyncMutex::Guard lock = co_await parts->jobs.Lock();
  if (parts->migration.active()) co_return NoNewFilesNow();
  co_return co_await MoveQemuDisk(parts->machine, std::move(disk), std::move(target),
                                  std::move(place), std::move(progress));
}

Task<absl::StatusOr<DiskFiles>> QemuComputeSystem::ListDiskFiles() {
  std::shared_ptr<Parts> parts = parts_;
  const AsyncMutex::Guard lock = co_await parts->jobs.Lock();
  co_return co_await ListQemuDiskFiles(parts->machine);
}

Task<absl::StatusOr<std::set<DiskPlace>>> QemuComputeSystem::ListDisks() {
  std::shared_ptr<Parts> parts = parts_;
  CO_ASSIGN_OR_RETURN(const auto nodes, co_await DiskNodesOf(parts->machine));
  std::set<DiskPlace> places;
  for (const auto& [place, node] : nodes) places.insert(place);
  co_return places;
}

Task<absl::Status> QemuComputeSystem::ResizeDisk(DiskPlace disk, uint64_t bytes) {
  std::shared_ptr<Parts> parts = parts_;
  const AsyncMutex::Guard lock = co_await parts->jobs.Lock();
  if (parts->migration.active()) co_return NoNewFilesNow();
  CO_ASSIGN_OR_RETURN(const auto nodes, co_await DiskNodesOf(parts->machine));
  CO_ASSIGN_OR_RETURN(const DiskNode node, NodeAt(nodes, disk));
  boost::json::object arguments = {{"node-name", node.name}, {"size", bytes}};
  co_return (co_await parts->machine->Command("block_resize", std::move(arguments))).status();
}

// Also while a job is at a disk, which may take long.
Task<absl::StatusOr<std::vector<DiskTrouble>>> QemuComputeSystem::ListDiskTroubles() {
  std::shared_ptr<Parts> parts = parts_;
  CO_ASSIGN_OR_RETURN(const auto nodes, co_await DiskNodesOf(parts->machine));
  std::vector<DiskTrouble> troubles;
  for (const auto& [place, node] : nodes) {
    if (node.io_status != "ok") troubles.push_back({place, node.io_status == "nospace"});
  }
  if (!troubles.empty()) co_return troubles;
  // Its run state goes with a guest that moves or is saved; which disk it was does not.
  CO_ASSIGN_OR_RETURN(const std::string run_state, co_await parts->machine->RunState());
  if (run_state == "io-error") troubles.emplace_back();
  co_return troubles;
}

Task<absl::Status> QemuComputeSystem::SaveSnapshot(SnapshotOptions options) {
  std::shared_ptr<Parts> parts = parts_;
  if (parts->migration.active()) co_return NoSnapshotNow();
  AsyncMutex::Guard lock = co_await parts->jobs.Lock();
  co_return co_await SaveQemuSnapshot(parts->machine, std::move(options));
}

Task<absl::Status> QemuComputeSystem::LoadSnapshot(SnapshotOptions options) {
  std::shared_ptr<Parts> parts = parts_;
  if (parts->migration.active()) co_return NoSnapshotNow();
  AsyncMutex::Guard lock = co_await parts->jobs.Lock();
  co_return co_await LoadQemuSnapshot(parts->machine, std::move(options));
}

Task<absl::Status> QemuComputeSystem::DeleteSnapshot(std::string tag,
                                                     std::vector<DiskPlace> disks) {
  std::shared_ptr<Parts> parts = parts_;
  if (parts->migration.active()) co_return NoSnapshotNow();
  AsyncMutex::Guard lock = co_await parts->jobs.Lock();
  co_return co_await DeleteQemuSnapshot(parts->machine, std::move(tag), std::move(disks));
}

Task<absl::StatusOr<std::vector<DiskSnapshots>>> QemuComputeSystem::ListSnapshots() {
  std::shared_ptr<Parts> parts = parts_;
  co_return co_await ListQemuSnapshots(parts->machine);
}

Task<absl::Status> QemuComputeSystem::Modify(const schema::ModifySettingRequest& request) {
  std::shared_ptr<Parts> parts = parts_;
  if (parts->migration.active()) {
    co_return absl::FailedPreconditionError(
        "cannot change the VM's devices while it is being migrated");
  }
  const schema::ModifySettingRequest wanted = request;
  AsyncMutex::Guard lock = co_await parts->jobs.Lock();
  co_return co_await ModifyDisks(parts->machine, wanted);
}

Task<absl::StatusOr<schema::Properties>> QemuComputeSystem::GetProperties(
    const schema::PropertyQuery& query) {
  std::shared_ptr<Parts> parts = parts_;
  const schema::PropertyQuery asked = query;
  QemuMachine& machine = *parts->machine;
  schema::Properties properties;
  properties.id = machine.id();
  properties.state = machine.state();
  properties.memory_size_in_mb =
      machine.document().virtual_machine.compute_topology.memory.size_in_mb;
  const bool alive =
      machine.state() != SystemState::kCreated && machine.state() != SystemState::kStopped;
  if (alive) {
    const auto up = std::chrono::steady_clock::now() - machine.started();
    properties.uptime_ms =
        static_cast<uint64_t>(std::chrono::duration_cast<milliseconds>(up).count());
    properties.vmm_pid = static_cast<uint64_t>(machine.pid());
    properties.state_sent = parts->migration.state_sent();
    properties.ending = machine.ending();
  }
  for (const schema::PropertyType type : asked.types) {
    if (type == schema::PropertyType::kCompatibilityInfo) {
      properties.compatibility_info = CompatibilityOf(machine);
    }
    if (type == schema::PropertyType::kMigrationBlockers && alive) {
      CO_ASSIGN_OR_RETURN(properties.migration_blockers, co_await MigrationBlockersOf(&machine));
    }
  }
  co_return properties;
}

Task<absl::Status> QemuComputeSystem::InitializeLiveMigrationOnSource(
    const schema::MigrationInitializeOptions& options) {
  std::shared_ptr<Parts> parts = parts_;
  const schema::MigrationInitializeOptions wanted = options;
  AsyncMutex::Guard lock = co_await parts->jobs.Lock();
  co_return co_await parts->migration.Initialize(wanted);
}

Task<absl::Status> QemuComputeSystem::StartLiveMigrationOnSource(
    const schema::MigrationStartOptions&, const MigrationEndpoint& endpoint) {
  std::shared_ptr<Parts> parts = parts_;
  co_return co_await parts->migration.Start(endpoint);
}

Task<absl::Status> QemuComputeSystem::StartLiveMigrationTransfer(
    const schema::MigrationTransferOptions& options, TransferHooks hooks) {
  std::shared_ptr<Parts> parts = parts_;
  co_return co_await parts->migration.Transfer(options, std::move(hooks));
}

Task<absl::Status> QemuComputeSystem::ForceSwitchover(SwitchoverForce how) {
  std::shared_ptr<Parts> parts = parts_;
  co_return co_await parts->migration.ForceSwitchover(how);
}

Task<absl::Status> QemuComputeSystem::OpenDisks(std::vector<DiskPlace> disks,
                                                std::string unix_path) {
  std::shared_ptr<Parts> parts = parts_;
  co_return co_await OpenQemuDisks(parts->machine, std::move(disks), std::move(unix_path));
}

Task<absl::Status> QemuComputeSystem::CloseDisks() {
  std::shared_ptr<Parts> parts = parts_;
  co_return co_await CloseQemuDisks(parts->machine);
}

Task<absl::Status> QemuComputeSystem::MirrorDisks(std::vector<DiskMirror> disks,
                                                  std::string unix_path, TellCopied tell) {
  std::shared_ptr<Parts> parts = parts_;
  if (!parts->migration.active()) {
    co_return absl::FailedPreconditionError(
        "MirrorDisks needs InitializeLiveMigrationOnSource first");
  }
  parts->may_mirror = true;
  parts->migration.NoteMirrors();
  MirrorLimits limits = parts->migration.mirror_limits();
  co_return co_await MirrorQemuDisks(parts->machine, std::move(disks), std::move(unix_path),
                                     std::move(limits), std::move(tell));
}

Task<absl::Status> QemuComputeSystem::SealMirrors(std::vector<DiskPlace> disks) {
  std::shared_ptr<Parts> parts = parts_;
  co_return co_await SealQemuMirrors(parts->machine, std::move(disks));
}

Task<absl::Status> QemuComputeSystem::FinalizeLiveMigration(
    const schema::MigrationFinalizedOptions& options) {
  std::shared_ptr<Parts> parts = parts_;
  const bool runs_on = options.origin == schema::MigrationOrigin::kSource &&
                       options.finalized_operation == schema::MigrationFinalOperation::kResume;
  CO_RETURN_IF_ERROR(co_await parts->migration.Finalize(options));
  if (!runs_on) co_return absl::OkStatus();
  const absl::Status ended = co_await EndMirrors(parts);
  if (!ended.ok()) spdlog::warn("{}: {}", parts->machine->id(), ended.ToString());
  co_return absl::OkStatus();
}

Task<absl::Status> QemuComputeSystem::CancelLiveMigration(
    const schema::MigrationCancelOptions& options) {
  std::shared_ptr<Parts> parts = parts_;
  const schema::MigrationOrigin origin = options.origin;
  CO_RETURN_IF_ERROR(co_await parts->migration.Cancel(origin));
  if (origin != schema::MigrationOrigin::kSource) co_return absl::OkStatus();
  co_return co_await EndMirrors(parts);
}

Task<absl::Status> QemuComputeSystem::EndMirrors(std::shared_ptr<Parts> parts) {
  if (!parts->may_mirror) co_return absl::OkStatus();
  CO_RETURN_IF_ERROR(co_await DropQemuMirrors(parts->machine));
  parts->may_mirror = false;
  co_return absl::OkStatus();
}

AsyncQueue<SystemEvent>& QemuComputeSystem::events() { return parts_->machine->events(); }

bridge::HostTransport& QemuComputeSystem::guest_transport() {
  return parts_->machine->link().transport();
}

std::string QemuComputeSystem::adoption_record() const {
  return parts_->machine->adoption_record();
}

}  // namespace ferry::vm
