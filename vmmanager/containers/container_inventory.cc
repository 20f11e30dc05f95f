#include "vmmanager/containers/container_inventory.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "bridge/protocol/container_messages.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/containers/container_names.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::vm {
namespace {

// Between attempts to remove what is to be removed by itself.
constexpr milliseconds kFirstAgain{1'000};
constexpr milliseconds kLastAgain{300'000};

// Of a row, where there is no such VM.
constexpr char kNoVm[] = "";

}  // namespace

// Passes a VM's end on to its containers.
class ContainerInventory::Observer final : public MoveObserver {
 public:
  Observer(ContainerInventory& inventory, std::shared_ptr<UtilityVm> vm)
      : inventory_(inventory), vm_(std::move(vm)) {
    vm_->AddObserver(this);
  }
  ~Observer() override { vm_->RemoveObserver(this); }

  void OnNotice(const MigrationNotice& notice) override {
    // What stopped meanwhile and is to be removed could not be.
    if (notice.kind != MigrationNotice::Kind::kClosed) return;
    for (const auto& container : inventory_.Of(vm_->id())) inventory_.RemoveIfDone(container);
  }
  void OnEnded() override {
    for (const auto& container : inventory_.Of(vm_->id())) container->VmEnded();
  }
  void OnSaved() override {
    for (const auto& container : inventory_.Of(vm_->id())) container->VmSaved();
  }

 private:
  ContainerInventory& inventory_;
  const std::shared_ptr<UtilityVm> vm_;
};

ContainerInventory::ContainerInventory(VmInventory& vms, Options options)
    : scratch_(vms.deps().executor, options.scratch_folder, options.scratch_user),
      output_(options.scratch_folder),
      deps_{vms, scratch_, output_},
      options_(std::move(options)),
      scope_(vms.deps().executor) {
  vms.set_on_deleted([this](std::string vm_id) { return ForgetVm(std::move(vm_id)); });
  vms.set_on_forgotten([this](std::string vm_id) { return VmDeparted(std::move(vm_id)); });
}

ContainerInventory::~ContainerInventory() = default;

absl::Status ContainerInventory::CheckServing() const {
  if (!closed_ && deps_.images != nullptr) return absl::OkStatus();
  return absl::UnavailableError(closed_ ? "this host's ferryd stops; try again when it is back"
                                        : "this host's ferryd is about to start; try again");
}

Task<void> ContainerInventory::Close() {
  closed_ = true;
  for (const auto& [id, container] : containers_) container->Close();
  co_await scope_.CancelAndJoin();
}

std::shared_ptr<ContainerHome> ContainerInventory::HomeOf(const std::shared_ptr<UtilityVm>& vm) {
  std::shared_ptr<ContainerHome>& home = homes_[vm->id()];
  if (home == nullptr) {
    home = std::make_shared<ContainerHome>(deps_.executor(), vm, options_.make_machine(vm));
    observers_[vm->id()] = std::make_unique<Observer>(*this, vm);
  }
  return home;
}

std::shared_ptr<VmContainer> ContainerInventory::Add(StoredContainer stored,
                                                     std::shared_ptr<ContainerHome> home,
                                                     bool known) {
  const std::string id = stored.record.container_id();
  auto container = std::make_shared<VmContainer>(deps_, std::move(home), std::move(stored), known);
  std::weak_ptr<VmContainer> weak = container;
  container->set_on_stopped([this, weak] {
    if (const auto stopped = weak.lock()) RemoveIfDone(stopped);
  });
  containers_[id] = container;
  return container;
}

void ContainerInventory::Erase(const VmContainer& container) {
  const std::string vm_id = container.record().vm_id();
  containers_.erase(container.id());
  if (!Of(vm_id).empty()) return;
  observers_.erase(vm_id);
  homes_.erase(vm_id);
}

ContainerInventory::Containers ContainerInventory::Of(const std::string& vm_id) const {
  Containers found;
  for (const auto& [id, container] : containers_) {
    if (container->record().vm_id() == vm_id) found.push_back(container);
  }
  return found;
}

std::shared_ptr<VmContainer> ContainerInventory::FindById(const std::string& id) const {
  const auto found = containers_.find(id);
  return found == containers_.end() ? nullptr : found->second;
}

std::shared_ptr<VmContainer> ContainerInventory::WriterTo(const std::string& vm_id,
                                                          const std::string& file) const {
  for (const auto& container : Of(vm_id)) {
    if (container->record().scratch_file() == file) return container;
  }
  return nullptr;
}

std::shared_ptr<VmContainer> ContainerInventory::FindByGuestId(const std::string& vm_id,
                                                               const std::string& guest_id) const {
  const Containers all = Of(vm_id);
  const auto found = std::find_if(all.begin(), all.end(),
                                  [&](const auto& one) { return one->guest_id() == guest_id; });
  return found == all.end() ? nullptr : *found;
}

ContainerInventory::Containers ContainerInventory::List() const {
  Containers list;
  for (const auto& [id, container] : containers_) {
    if (!container->being_made()) list.push_back(container);
  }
  std::stable_sort(list.begin(), list.end(), [](const auto& one, const auto& other) {
    return one->record().created_unix_ms() < other->record().created_unix_ms();
  });
  return list;
}

std::vector<std::string> ContainerInventory::InCheckpoints() const {
  std::vector<std::string> ids;
  for (const auto& vm : deps_.vms.List()) {
    for (const auto& [name, checkpoint] : vm->checkpoints()) {
      for (const auto& disk : checkpoint.disks()) ids.push_back(disk.container_id());
    }
  }
  return ids;
}

bool ContainerInventory::Expect(const std::string& id) {
  const std::vector<std::string> kept = InCheckpoints();
  const bool is_kept = std::find(kept.begin(), kept.end(), id) != kept.end();
  return !is_kept && !Knows(id) && expected_->insert(id).second;
}

absl::StatusOr<std::shared_ptr<VmContainer>> ContainerInventory::Find(const std::string& container,
                                                                      const std::string& vm) const {
  const Containers all = List();
  std::vector<ContainerKey> keys;
  keys.reserve(all.size());
  for (const auto& one : all) {
    keys.push_back(
        {one->id(), one->name(), one->record().vm_id(), one->vm().name(), one->guest_id()});
  }
  ASSIGN_OR_RETURN(const size_t found, FindContainer(keys, container, vm));
  return all[found];
}

bool ContainerInventory::NameIsTaken(const std::string& name, const std::string& vm_id) const {
  return std::any_of(containers_.begin(), containers_.end(), [&](const auto& entry) {
    const VmContainer& container = *entry.second;
    return container.name() == name && (vm_id.empty() || container.record().vm_id() == vm_id);
  });
}

Task<absl::Status> ContainerInventory::Load() {
  CO_ASSIGN_OR_RETURN(const std::vector<VmRow> vm_rows, co_await deps_.store().ListVms());
  CO_ASSIGN_OR_RETURN(const std::vector<ContainerRow> rows,
                      co_await deps_.store().ListContainers());
  for (const ContainerRow& row : rows) {
    absl::StatusOr<StoredContainer> stored = FromRow(row);
    const auto vm = deps_.vms.Find(row.vm_id);
    const bool vm_is_known =
        std::any_of(vm_rows.begin(), vm_rows.end(),
                    [&row](const VmRow& known) { return known.id == row.vm_id; });
    if (!stored.ok() || (!vm.ok() && vm_is_known)) {
      spdlog::error("container {} is left alone: {}", row.id,
                    (stored.ok() ? vm.status() : stored.status()).ToString());
      unreadable_[row.id] = vm_is_known ? row.vm_id : kNoVm;
    } else if (vm.ok()) {
      Add(*std::move(stored), HomeOf(*vm), false);
    } else {
      orphans_.push_back(*std::move(stored));
    }
  }
  co_return absl::OkStatus();
}

Task<void> ContainerInventory::TakeUp(ImageStore& images) {
  deps_.images = &images;
  for (const StoredContainer& orphan : std::exchange(orphans_, {})) co_await ForgetRow(orphan);
  co_await ForgetUnreadableIn(kNoVm);
  Containers half;
  Containers whole;
  for (const auto& [id, container] : containers_) {
    (container->is_half() ? half : whole).push_back(container);
  }
  // Who uses a layer is known before anybody lets go of one.
  for (const auto& container : whole) co_await container->TakeUp();
  for (const auto& container : half) co_await container->TakeUp();
  for (const auto& container : half) scope_.Spawn(RemoveLater(this, container));
  for (const auto& container : whole) RemoveIfDone(container);
  for (const ImagePin& pin : images.Pins()) {
    const bool known = containers_.contains(pin.owner) || unreadable_.contains(pin.owner);
    if (known || !bridge::IsContainerId(pin.owner)) continue;
    const absl::Status unpinned = co_await images.Unpin(pin.owner);
    if (!unpinned.ok()) spdlog::warn("images: {}", unpinned.ToString());
  }
  std::vector<std::string> keep;
  for (const auto& [id, vm_id] : unreadable_) keep.push_back(id);
  for (const auto& [id, container] : containers_) keep.push_back(id);
  // What a checkpoint kept of one that is gone goes with the checkpoint.
  for (std::string& id : InCheckpoints()) keep.push_back(std::move(id));
  const absl::Status swept = co_await scratch_.RemoveOthers(std::move(keep));
  if (!swept.ok()) spdlog::warn("containers: {}", swept.ToString());
}

Task<void> ContainerInventory::ForgetRow(StoredContainer stored) {
  const std::string id = stored.record.container_id();
  output_.Remove(id);
  absl::Status removed = co_await scratch_.Remove(id, stored.record.scratch_file());
  if (removed.ok()) removed = co_await deps_.store().DeleteContainer(id);
  if (!removed.ok()) spdlog::warn("container {}: {}", id, removed.ToString());
}

Task<void> ContainerInventory::ForgetUnreadableIn(std::string vm_id) {
  for (std::string id = UnreadableIn(vm_id); !id.empty(); id = UnreadableIn(vm_id)) {
    StoredContainer stored;
    stored.record.set_container_id(id);
    stored.record.set_scratch_file(scratch_.PathOf(id, v1::ScratchSpec()));
    co_await ForgetRow(std::move(stored));
    unreadable_.erase(id);
    // A pin that stays goes with the next start.
    absl::Status unpinned;
    if (deps_.images != nullptr) unpinned = co_await deps_.images->Unpin(id);
    if (!unpinned.ok()) spdlog::warn("container {}: {}", id, unpinned.ToString());
  }
}

std::string ContainerInventory::UnreadableIn(const std::string& vm_id) const {
  for (const auto& [id, its_vm] : unreadable_) {
    if (its_vm == vm_id) return id;
  }
  return "";
}

Task<absl::Status> ContainerInventory::Remove(std::shared_ptr<VmContainer> container, bool force) {
  if (closed_) co_return CheckServing();
  if (container->gone()) co_return absl::OkStatus();
  if (container->record().owns_vm()) co_return co_await RemoveWithVm(std::move(container), force);
  co_return co_await RemoveAlone(std::move(container), force);
}

Task<absl::Status> ContainerInventory::RemoveAlone(std::shared_ptr<VmContainer> container,
                                                   bool force) {
  using Running = VmContainer::Running;
  CO_RETURN_IF_ERROR(co_await container->MarkRemoving(force ? Running::kKill : Running::kRefuse));
  CO_RETURN_IF_ERROR(co_await container->TakeOut());
  Erase(*container);
  for (const auto& other : Of(container->record().vm_id())) RemoveIfDone(other);
  co_return absl::OkStatus();
}

Task<absl::Status> ContainerInventory::RemoveWithVm(std::shared_ptr<VmContainer> owner,
                                                    bool force) {
  using Running = VmContainer::Running;
  // Its end must not be taken for the end of a VM that never arrived. That is tried again.
  CO_RETURN_IF_ERROR(owner->vm().CheckArrived("removed with its container"));
  // From here on nobody is taken into its VM.
  const auto removal = owner->AnnounceRemoval();
  std::vector<std::string> others;
  for (const auto& other : Of(owner->record().vm_id())) {
    if (other != owner) others.push_back(other->name());
  }
  if (!others.empty() && !force) {
    co_return rpc::ErrorWithReason(
        absl::StatusCode::kFailedPrecondition,
        absl::StrCat("VM ", owner->vm().name(), " was made for container ", owner->name(),
                     " and would go with it, but also has ", absl::StrJoin(others, ", ")),
        "vm_has_other_containers",
        absl::StrCat("Remove these first, or all together: ferryctl container rm --force ",
                     owner->name()));
  }
  CO_RETURN_IF_ERROR(co_await owner->MarkRemoving(force ? Running::kLeave : Running::kRefuse));
  std::shared_ptr<UtilityVm> vm = owner->home()->vm;
  CO_RETURN_IF_ERROR(co_await EndVm(vm));
  // What is left is what could not be taken out, and says why.
  // Not moved: `removal` counts in it.
  co_return co_await RemoveAlone(owner, force);
}

Task<absl::Status> ContainerInventory::EndVm(std::shared_ptr<UtilityVm> vm) {
  if (!deps_.vms.Find(vm->id()).ok()) co_return absl::OkStatus();
  CO_RETURN_IF_ERROR(co_await vm->Stop(true, milliseconds(0)));
  const absl::Status deleted = co_await deps_.vms.Delete(vm);
  co_return absl::IsNotFound(deleted) ? absl::OkStatus() : deleted;
}

Task<void> ContainerInventory::ForgetVm(std::string vm_id) {
  co_await ForgetUnreadableIn(vm_id);
  for (const auto& container : Of(vm_id)) {
    // Whoever makes one there finds that the VM has gone, and takes it out.
    if (container->being_made()) continue;
    const absl::Status removed = co_await container->TakeOut();
    if (removed.ok()) {
      Erase(*container);
    } else {
      spdlog::warn("container {}: {}", container->id(), removed.ToString());
      scope_.Spawn(RemoveLater(this, container));
    }
  }
}

Task<absl::Status> ContainerInventory::VmDeparted(std::string vm_id) {
  absl::Status departed;
  for (const auto& container : Of(vm_id)) {
    departed.Update(co_await container->Depart());
    Erase(*container);
  }
  co_return departed;
}

Task<absl::Status> ContainerInventory::Bring(StoredContainer stored,
                                             std::shared_ptr<UtilityVm> vm) {
  CO_RETURN_IF_ERROR(CheckServing());
  const std::string id = stored.record.container_id();
  if (Knows(id)) {
    co_return absl::AlreadyExistsError(absl::StrCat("container ", id, " is on this host already"));
  }
  if (stored.record.vm_id() != vm->id()) {
    co_return absl::InvalidArgumentError(absl::StrCat("container ", id, " is in another VM"));
  }
  CO_RETURN_IF_ERROR(co_await deps_.store().PutContainer(ToRow(stored)));
  Add(std::move(stored), HomeOf(vm), false);
  co_return absl::OkStatus();
}

Task<void> ContainerInventory::VmArrived(std::string vm_id) {
  // Those of a daemon that has just begun are taken up with all others.
  if (closed_ || deps_.images == nullptr) co_return;
  const Containers all = Of(vm_id);
  for (const auto& container : all) co_await container->TakeUp();
  for (const auto& container : all) RemoveIfDone(container);
}

void ContainerInventory::NoteExitTaken(const std::string& vm_id, uint32_t process_id) {
  for (const auto& container : Of(vm_id)) {
    if (container->record().process_id() == process_id) RemoveIfDone(container);
  }
}

void ContainerInventory::RemoveIfDone(const std::shared_ptr<VmContainer>& container) {
  if (closed_ || !container->spec().remove_when_stopped()) return;
  if (container->state() != v1::CONTAINER_STATE_STOPPED || !container->exit_is_taken()) return;
  scope_.Spawn(RemoveLater(this, container));
}

void ContainerInventory::NoteRemoved(const VmContainer& container) const {
  if (options_.audit == nullptr) return;
  rpc::AuditRecord record;
  record.time = std::chrono::system_clock::now();
  record.caller.way = rpc::Caller::Way::kLocal;
  record.caller.uid = ::geteuid();
  record.method = "automatic removal";
  record.details = {{"container", container.name()}, {"vm", container.vm().name()}};
  record.outcome = absl::StatusCodeToString(absl::StatusCode::kOk);
  options_.audit->Write(record);
}

Task<void> ContainerInventory::RemoveLater(ContainerInventory* self,
                                           std::shared_ptr<VmContainer> container) {
  const auto [entry, first] = self->removing_.try_emplace(container->id());
  if (!first) {
    entry->second->Set();
    co_return;
  }
  const auto again = std::make_shared<AsyncEvent>(self->deps_.executor());
  entry->second = again;
  const absl::Cleanup at_end = [&] { self->removing_.erase(container->id()); };
  // With its VM others would go that nobody wants to remove; it is tried again when they have gone.
  const bool alone = self->Of(container->record().vm_id()).size() == 1;
  if (container->record().owns_vm() && !alone && !container->is_half()) co_return;
  // One whose VM goes with it has nothing to ask the agent for.
  if (!container->record().owns_vm() && container->home()->machine->runs()) {
    // Without it the attempt will say so.
    const absl::Status ignored = co_await container->home()->machine->AwaitAgent();
  }
  for (milliseconds pause = kFirstAgain;; pause = std::min(2 * pause, kLastAgain)) {
    // Somebody may have removed it, who is in the audit log already.
    if (container->gone()) co_return;
    again->Reset();
    const absl::Status removed = co_await self->Remove(container, true);
    if (removed.ok()) self->NoteRemoved(*container);
    if (removed.ok() || container->gone() || self->closed_) co_return;
    spdlog::warn("container {}: {}; that is tried again", container->id(), removed.ToString());
    const absl::Status woken = co_await WithDeadline(pause, "the next attempt", again->Wait());
    if (woken.ok()) pause = kFirstAgain;
  }
}

}  // namespace ferry::vm
