#include "vmmanager/backend/fake_backend.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <utility>

#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/str_cat.h"

namespace ferry::vm {

using schema::SystemState;

void FakeScript::Block(const std::string& verb) {
  gates_[verb] = std::make_shared<Gate>(executor_);
}

void FakeScript::Release(const std::string& verb) {
  auto found = gates_.find(verb);
  if (found == gates_.end()) return;
  found->second->open.Set();
  gates_.erase(found);
}

Task<void> FakeScript::WaitBlocked(const std::string& verb) {
  auto found = gates_.find(verb);
  if (found == gates_.end()) co_return;
  std::shared_ptr<Gate> gate = found->second;
  co_await gate->reached.Wait();
}

Task<absl::Status> FakeScript::Pass(std::string verb) {
  if (auto found = gates_.find(verb); found != gates_.end()) {
    std::shared_ptr<Gate> gate = found->second;
    gate->reached.Set();
    co_await gate->open.Wait();
  }
  auto failure = failures_.find(verb);
  if (failure == failures_.end()) co_return absl::OkStatus();
  absl::Status status = failure->second;
  failures_.erase(failure);
  co_return status;
}

FakeComputeSystem::FakeComputeSystem(Executor executor, std::shared_ptr<FakeScript> script,
                                     std::shared_ptr<FakeMachine> machine)
    : executor_(executor),
      script_(std::move(script)),
      machine_(std::move(machine)),
      events_(executor),
      link_(executor),
      cancel_(executor),
      ended_(executor),
      transfer_over_(executor) {
  transfer_over_.Set();
}

absl::Status FakeComputeSystem::WrongState(const char* verb) const {
  return absl::FailedPreconditionError(StrCat("the VM ", machine_->id, " is ",
                                              schema::ToString(machine_->state), "; it cannot ",
                                              verb, " now"));
}

void FakeComputeSystem::Emit(SystemEvent event) {
  event.when = std::chrono::steady_clock::now();
  events_.Push(std::move(event));
}

void FakeComputeSystem::SetRunning(bool running) {
  machine_->state = running ? SystemState::kRunning : SystemState::kPaused;
  Emit({.kind = running ? SystemEvent::Kind::kResumed : SystemEvent::Kind::kPaused});
  if (running && !std::exchange(guest_ran_, true) && script_->on_first_run) {
    script_->on_first_run(*this);
  }
}

bool FakeComputeSystem::Step(uint64_t steps) {
  if (machine_->state != SystemState::kRunning) return false;
  machine_->counter += steps;
  return true;
}

void FakeComputeSystem::Exit(SystemExit::Cause cause, std::string detail) {
  if (std::exchange(exited_, true)) return;
  machine_->state = SystemState::kStopped;
  listener_.Reset();
  link_.Close();
  cancel_.Set();
  ended_.Set();
  Emit({.kind = SystemEvent::Kind::kExited,
        .exit = {cause, std::move(detail), script_->last_words}});
  events_.Close();
}

void FakeComputeSystem::Fail(DiskTrouble trouble) {
  machine_->troubles.push_back(std::move(trouble));
  SetRunning(false);
  Emit({.kind = SystemEvent::Kind::kDiskTrouble});
}

Task<absl::StatusOr<std::vector<DiskTrouble>>> FakeComputeSystem::ListDiskTroubles() {
  CO_RETURN_IF_ERROR(co_await script_->Pass("ListDiskTroubles"));
  co_return machine_->troubles;
}

Task<absl::StatusOr<std::set<DiskPlace>>> FakeComputeSystem::ListDisks() {
  CO_RETURN_IF_ERROR(co_await script_->Pass("ListDisks"));
  std::set<DiskPlace> places;
  for (const auto& [controller, scsi] : machine_->document.virtual_machine.devices.scsi) {
    for (const auto& [lun, disk] : scsi.attachments) places.insert({controller, lun});
  }
  for (const auto& [path, disk] : machine_->disks) {
    const auto at = path.rfind('/');
    places.insert({"0", path.substr(at + 1)});
  }
  co_return places;
}

Task<absl::Status> FakeComputeSystem::ResizeDisk(DiskPlace disk, uint64_t bytes) {
  CO_RETURN_IF_ERROR(co_await script_->Pass("ResizeDisk"));
  const schema::Attachment* found = DiskAt(disk);
  if (found == nullptr) {
    co_return absl::NotFoundError(StrCat("there is no disk at ", ToText(disk)));
  }
  if (found->read_only) co_return absl::FailedPreconditionError("the disk is only read");
  machine_->sizes[disk] = bytes;
  co_return absl::OkStatus();
}

Task<absl::Status> FakeComputeSystem::Pause() {
  CO_RETURN_IF_ERROR(co_await script_->Pass("Pause"));
  if (const std::shared_ptr<AsyncEvent> let_go = let_go_) co_await let_go->Wait();
  const bool stands_still = machine_->state == SystemState::kPaused;
  if (!stands_still && machine_->state != SystemState::kRunning) co_return WrongState("pause");
  // Also if it stands still only for a switchover: nothing but its user lets it go on.
  machine_->ran_before = false;
  if (stands_still) co_return absl::OkStatus();
  SetRunning(false);
  co_return absl::OkStatus();
}

Task<absl::Status> FakeComputeSystem::Resume() {
  CO_RETURN_IF_ERROR(co_await script_->Pass("Resume"));
  if (const std::shared_ptr<AsyncEvent> let_go = let_go_) co_await let_go->Wait();
  if (machine_->state == SystemState::kRunning) co_return absl::OkStatus();
  if (machine_->state != SystemState::kPaused || machine_->stage == Stage::kTransferred ||
      machine_->stage == Stage::kTransferring) {
    co_return WrongState("resume");
  }
  machine_->troubles.clear();
  SetRunning(true);
  co_return absl::OkStatus();
}

Task<absl::Status> FakeComputeSystem::Shutdown() {
  CO_RETURN_IF_ERROR(co_await script_->Pass("Shutdown"));
  if (machine_->state != SystemState::kRunning) co_return WrongState("shut down");
  Exit(SystemExit::Cause::kShutdown, "the guest powered off");
  co_return absl::OkStatus();
}

Task<absl::Status> FakeComputeSystem::Terminate() {
  CO_RETURN_IF_ERROR(co_await script_->Pass("Terminate"));
  Exit(SystemExit::Cause::kTerminated, "terminated");
  co_await transfer_over_.Wait();
  co_return absl::OkStatus();
}

Task<absl::Status> FakeComputeSystem::Modify(const schema::ModifySettingRequest& request) {
  const schema::ModifySettingRequest wanted = request;
  CO_RETURN_IF_ERROR(co_await script_->Pass("Modify"));
  if (machine_->state != SystemState::kRunning && machine_->state != SystemState::kPaused) {
    co_return WrongState("change its devices");
  }
  auto& disks = machine_->disks;
  if (wanted.request_type == "Remove") {
    if (disks.erase(wanted.resource_path) != 0) co_return absl::OkStatus();
    const std::string lun = wanted.resource_path.substr(wanted.resource_path.rfind('/') + 1);
    auto& scsi = machine_->document.virtual_machine.devices.scsi["0"];
    if (scsi.attachments.erase(lun) != 0) co_return absl::OkStatus();
    co_return absl::NotFoundError(StrCat("there is no disk at ", wanted.resource_path));
  }
  if (disks.contains(wanted.resource_path)) {
    co_return absl::AlreadyExistsError(StrCat(wanted.resource_path, " holds a disk already"));
  }
  const std::string text =
      StrCat(R"({"VirtualMachine":{"Devices":{"Scsi":{"0":{"Attachments":{"0":)",
             wanted.settings_json, "}}}}}}");
  CO_ASSIGN_OR_RETURN(const schema::ComputeSystem document, schema::ComputeSystemFromJson(text));
  const schema::Attachment& disk =
      document.virtual_machine.devices.scsi.at("0").attachments.at("0");
  if (::access(disk.path.c_str(), R_OK) != 0) {
    co_return absl::NotFoundError(StrCat("there is no file ", disk.path));
  }
  disks[wanted.resource_path] = disk;
  co_return absl::OkStatus();
}

Task<absl::StatusOr<schema::Properties>> FakeComputeSystem::GetProperties(
    const schema::PropertyQuery& query) {
  CO_RETURN_IF_ERROR(co_await script_->Pass("GetProperties"));
  schema::Properties properties;
  properties.id = machine_->id;
  properties.state = machine_->state;
  properties.memory_size_in_mb = machine_->memory_mb;
  properties.state_sent = machine_->stage == Stage::kTransferred &&
                          machine_->origin == schema::MigrationOrigin::kSource;
  properties.ending = script_->ending;
  for (schema::PropertyType type : query.types) {
    if (type == schema::PropertyType::kCompatibilityInfo) {
      properties.compatibility_info = script_->compatibility_info;
    }
    if (type == schema::PropertyType::kMigrationBlockers) {
      properties.migration_blockers = script_->migration_blockers;
    }
  }
  co_return properties;
}

FakeBackend::FakeBackend(Executor executor)
    : executor_(executor), script_(std::make_shared<FakeScript>(executor)) {}

FakeComputeSystem* FakeBackend::Find(const std::string& id) const {
  auto found = systems_.find(id);
  return found == systems_.end() ? nullptr : found->second;
}

bool FakeBackend::Runs(const std::string& id) const {
  return std::any_of(machines_.begin(), machines_.end(), [&](const auto& entry) {
    return entry.second->id == id && entry.second->state == SystemState::kRunning;
  });
}

std::unique_ptr<ComputeSystem> FakeBackend::Hand(std::shared_ptr<FakeMachine> machine) {
  auto system = std::make_unique<FakeComputeSystem>(executor_, script_, machine);
  systems_[machine->id] = system.get();
  return system;
}

Task<absl::Status> FakeBackend::CheckAdapter(schema::NetworkAdapter adapter) {
  if (adapter.user || bridges_.contains(adapter.bridge)) co_return absl::OkStatus();
  const std::string what =
      adapter.tap.empty() ? StrCat("bridge ", adapter.bridge) : StrCat("tap device ", adapter.tap);
  co_return absl::FailedPreconditionError(StrCat("this host has no ", what, "; make it"));
}

Task<absl::StatusOr<std::unique_ptr<ComputeSystem>>> FakeBackend::Create(
    const std::string& id, const schema::ComputeSystem& document) {
  auto machine = std::make_shared<FakeMachine>();
  machine->id = id;
  machine->memory_mb = document.virtual_machine.compute_topology.memory.size_in_mb;
  machine->document = document;
  CO_RETURN_IF_ERROR(co_await script_->Pass("Create"));
  machine->token = StrCat("fake:", id, ":", ++made_);
  machines_[machine->token] = machine;
  co_return Hand(machine);
}

Task<absl::StatusOr<std::unique_ptr<ComputeSystem>>> FakeBackend::Adopt(
    const std::string& id, const schema::ComputeSystem&, const std::string& adoption_record) {
  std::string wanted = id;
  std::string record = adoption_record;
  CO_RETURN_IF_ERROR(co_await script_->Pass("Adopt"));
  auto found = machines_.find(record);
  if (found == machines_.end() || found->second->id != wanted ||
      found->second->state == SystemState::kStopped) {
    co_return absl::NotFoundError(StrCat("the VM ", wanted, " does not run any more"));
  }
  FakeMachine& machine = *found->second;
  if (machine.stage == FakeMachine::Stage::kTransferring &&
      machine.origin == schema::MigrationOrigin::kSource) {
    // Its stream broke when its former daemon died: it runs on by itself.
    if (machine.ran_before) machine.state = SystemState::kRunning;
    machine.stage = FakeMachine::Stage::kNone;
  }
  co_return Hand(found->second);
}

Task<void> FakeBackend::EndAllBut(std::vector<std::string> adoption_records) {
  for (const auto& [token, machine] : machines_) {
    if (std::find(adoption_records.begin(), adoption_records.end(), token) ==
        adoption_records.end()) {
      machine->state = SystemState::kStopped;
    }
  }
  co_return;
}

}  // namespace ferry::vm
