// The part of VmContainer that brings things into the VM, takes them out, and finds them again.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/unix_time.h"
#include "vmmanager/containers/empty_qcow2.h"
#include "vmmanager/containers/oci_specification.h"
#include "vmmanager/containers/vm_container.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/sandbox/counted.h"

namespace ferry::vm {

using guest::Stream;
using state::v1::CONTAINER_STAGE_CREATED;
using state::v1::CONTAINER_STAGE_MAKING;
using state::v1::CONTAINER_STAGE_PAUSED;
using state::v1::CONTAINER_STAGE_REMOVING;
using state::v1::CONTAINER_STAGE_RUNNING;
using state::v1::CONTAINER_STAGE_STOPPED;

namespace {

// Between two questions to an agent that does not answer.
constexpr milliseconds kFirstPause{100};
constexpr milliseconds kLongestPause{30'000};

}  // namespace

std::string VmContainer::BundlePath() const {
  return absl::StrCat(bridge::kBundleRoot, "/", guest_id());
}

bridge::CombinedLayers VmContainer::Layers() const {
  bridge::CombinedLayers combined;
  combined.container_root_path = RootPath();
  // The lowest is the last one there.
  for (int i = record().layers_size() - 1; i >= 0; --i) {
    const state::v1::ContainerLayer& layer = record().layers(i);
    combined.layers.push_back({layer.digest(), layer.disk().mount_path()});
  }
  if (record().has_scratch_disk()) combined.scratch_path = record().scratch_disk().mount_path();
  return combined;
}

absl::Status VmContainer::CheckThere(const std::function<absl::Status()>& go_on) const {
  RETURN_IF_ERROR(go_on());
  if (in_guest()) return absl::OkStatus();
  return rpc::ErrorWithReason(
      absl::StatusCode::kUnavailable,
      absl::StrCat("VM ", vm().name(), " ended while container ", name(), " was being made"),
      "vm_ended",
      absl::StrCat("See why (ferryctl vm inspect ", vm().name(),
                   "); with more memory it may not, if it ran out of that."));
}

Task<absl::Status> VmContainer::Make(Image image, std::vector<SharedMount> mounts,
                                     std::function<absl::Status()> go_on) {
  auto self = shared_from_this();
  const AsyncMutex::Guard turn = co_await operation_.Lock();
  if (image.layers.empty() || image.layers.size() > bridge::kMaxLayers) {
    co_return rpc::ErrorWithReason(
        absl::StatusCode::kFailedPrecondition,
        absl::StrCat("image ", image.name, " has ", image.layers.size(),
                     " layers; a container takes 1 to ", bridge::kMaxLayers),
        "too_many_layers", "Build the image with fewer layers, and import it again.");
  }
  state::v1::ContainerRecord& record = stored_.record;
  record.set_image_id(image.id);
  record.set_stop_signal(image.config.stop_signal);
  for (const ImageLayer& layer : image.layers) record.add_layers()->set_digest(layer.digest);
  if (!spec().read_only()) record.set_scratch_file(deps_.scratch.PathOf(id(), spec().scratch()));
  // What a crash leaves in the VM is found by this.
  CO_RETURN_IF_ERROR(co_await SetStage(CONTAINER_STAGE_MAKING));
  CO_RETURN_IF_ERROR(co_await home_->machine->Ready());
  boot_ = home_->machine->boot();
  CO_RETURN_IF_ERROR(co_await BringLayers(&go_on));
  CO_RETURN_IF_ERROR(CheckThere(go_on));
  if (!spec().read_only()) CO_RETURN_IF_ERROR(co_await BringScratch());
  CO_RETURN_IF_ERROR(CheckThere(go_on));
  CO_RETURN_IF_ERROR(co_await home_->machine->CombineLayers(Layers()));
  CO_RETURN_IF_ERROR(CheckThere(go_on));
  CO_RETURN_IF_ERROR(co_await home_->shares.Bring(mounts));
  CO_RETURN_IF_ERROR(CheckThere(go_on));
  CO_RETURN_IF_ERROR(co_await CreateInit(&image, &mounts));
  CO_RETURN_IF_ERROR(CheckThere(go_on));
  CO_RETURN_IF_ERROR(co_await SetStage(CONTAINER_STAGE_CREATED));
  CO_RETURN_IF_ERROR(co_await home_->machine->Persist());
  CO_RETURN_IF_ERROR(CheckThere(go_on));
  announced_ = true;
  deps_.events().Publish("container.created", id(), {{"name", name()}, {"vm", vm().id()}});
  co_return absl::OkStatus();
}

Task<absl::Status> VmContainer::BringLayers(const std::function<absl::Status()>* go_on) {
  for (int i = 0; i < record().layers_size(); ++i) {
    CO_RETURN_IF_ERROR(CheckThere(*go_on));
    const std::string digest = record().layers(i).digest();
    CO_ASSIGN_OR_RETURN(const ContainerDisk disk,
                        co_await home_->layers.Acquire(digest, deps_.images->PathOf(digest), id()));
    *stored_.record.mutable_layers(i)->mutable_disk() = disk;
  }
  co_return absl::OkStatus();
}

Task<absl::Status> VmContainer::BringScratch() {
  CO_RETURN_IF_ERROR(co_await deps_.scratch.Make(id(), spec().scratch()));
  DiskToBring scratch;
  scratch.name = absl::StrCat("scratch-", ContainerIdOfDisk(id()));
  scratch.file = record().scratch_file();
  scratch.format = "qcow2";
  scratch.ensure_filesystem = true;
  scratch.filesystem = "ext4";
  scratch.mount_path = BundlePath() + "/scratch";
  CO_ASSIGN_OR_RETURN(const ContainerDisk disk, co_await PlugDisk(*home_->machine, scratch));
  *stored_.record.mutable_scratch_disk() = disk;
  co_return co_await MountDisk(*home_->machine, disk, std::move(scratch));
}

Task<absl::Status> VmContainer::GrowScratch(uint64_t bytes) {
  auto self = shared_from_this();
  CO_ASSIGN_OR_RETURN(const AsyncMutex::Guard turn, co_await Turn());
  if (gone_ || is_half() || !in_guest()) co_return WrongState("given more room");
  if (!record().has_scratch_disk()) {
    co_return rpc::ErrorWithReason(
        absl::StatusCode::kFailedPrecondition,
        absl::StrCat("container ", name(), " is read-only, and has no disk that it writes to"),
        "no_scratch", "Make another one without --read-only.");
  }
  CO_RETURN_IF_ERROR(CheckScratchSize(bytes));
  CO_RETURN_IF_ERROR(co_await home_->machine->Ready());
  CO_RETURN_IF_ERROR(co_await GrowDisk(*home_->machine, record().scratch_disk(), bytes));
  stored_.spec.mutable_scratch()->set_size_bytes(bytes);
  co_return co_await Persist();
}

Task<absl::Status> VmContainer::CreateInit(const Image* image,
                                           const std::vector<SharedMount>* mounts) {
  OciInputs inputs;
  inputs.id = guest_id();
  inputs.root_path = RootPath();
  inputs.sandbox_id = record().sandbox_id();
  inputs.spec = &spec();
  inputs.image = &image->config;
  inputs.mounts = *mounts;
  guest::NewContainer container;
  container.id = guest_id();
  container.bundle_path = BundlePath();
  CO_ASSIGN_OR_RETURN(OciTexts texts, MakeOciSpecification(inputs));
  container.oci_specification = std::move(texts.specification);
  stored_.record.set_oci_process(std::move(texts.process));
  co_return co_await home_->machine->Create(std::move(container));
}

Task<absl::Status> VmContainer::MarkRemoving(Running running) {
  auto self = shared_from_this();
  CO_ASSIGN_OR_RETURN(const AsyncMutex::Guard turn, co_await Turn());
  if (gone_ || Is(CONTAINER_STAGE_REMOVING)) co_return absl::OkStatus();
  CO_RETURN_IF_ERROR(vm().RefuseIfMigrating("relieved of a container"));
  // What the VM goes on from knows it.
  if (vm().in_file()) co_return vm().Refuse("relieved of a container");
  if (running != Running::kLeave) CO_RETURN_IF_ERROR(co_await TakeInEarlierStart());
  if (Is(CONTAINER_STAGE_RUNNING) || Is(CONTAINER_STAGE_PAUSED)) {
    if (running == Running::kRefuse) {
      co_return rpc::ErrorWithReason(
          absl::StatusCode::kFailedPrecondition,
          absl::StrCat("container ", name(), " cannot be removed: it is ",
                       ContainerStateName(state())),
          "wrong_state",
          absl::StrCat("Stop it first (ferryctl container stop ", name(),
                       "), or use ferryctl container rm --force ", name()));
    }
    // No migration begins meanwhile.
    const Counted removal(&removals_);
    if (running == Running::kKill) {
      CO_RETURN_IF_ERROR(co_await home_->machine->Ready());
      CO_RETURN_IF_ERROR(co_await Kill());
    }
  }
  co_return co_await SetStage(CONTAINER_STAGE_REMOVING);
}

Task<absl::Status> VmContainer::TakeOut() {
  auto self = shared_from_this();
  const AsyncMutex::Guard turn = co_await operation_.Lock();
  if (gone_) co_return absl::OkStatus();
  // Its disks belong to what the VM goes on from.
  if (vm().in_file()) co_return vm().Refuse("relieved of a container");
  // What was made in vain may be on its way already.
  if (in_guest()) CO_RETURN_IF_ERROR(vm().RefuseIfMigrating("relieved of a container"));
  // Nothing stops it any more: nobody has to know how it ended.
  stored_.record.set_stage(CONTAINER_STAGE_REMOVING);
  if (in_guest()) {
    const absl::Status tidied = co_await TidyGuest();
    // A VM that ended meanwhile has nothing of it any more.
    if (!tidied.ok() && in_guest()) {
      PersistSoon();
      co_return tidied;
    }
  }
  DiscardOutput();
  boot_ = 0;
  CO_RETURN_IF_ERROR(co_await deps_.scratch.Remove(id(), record().scratch_file()));
  CO_RETURN_IF_ERROR(co_await deps_.store().DeleteContainer(id()));
  gone_ = true;
  stopped_.Set();
  if (announced_) {
    deps_.events().Publish("container.removed", id(), {{"name", name()}, {"vm", record().vm_id()}});
  }
  // A pin that stays goes with the next start.
  absl::Status unpinned;
  if (deps_.images != nullptr) unpinned = co_await deps_.images->Unpin(id());
  if (!unpinned.ok()) spdlog::warn("container {}: {}", id(), unpinned.ToString());
  co_return absl::OkStatus();
}

Task<absl::Status> VmContainer::Depart() {
  auto self = shared_from_this();
  gone_ = true;
  boot_ = 0;
  stopped_.Set();
  taken_up_.Set();
  deps_.output.Remove(id());
  CO_RETURN_IF_ERROR(co_await deps_.store().DeleteContainer(id()));
  // What is in this host's own folder is never proved to be another one's, too (ContainerExports):
  // that has its own copy, or none was to come.
  if (deps_.scratch.IsOwn(id(), record().scratch_file())) {
    const absl::Status removed = co_await deps_.scratch.Remove(id(), record().scratch_file());
    if (!removed.ok()) spdlog::warn("container {}: {}", id(), removed.ToString());
  }
  // A pin that stays goes with the next start.
  absl::Status unpinned;
  if (deps_.images != nullptr) unpinned = co_await deps_.images->Unpin(id());
  if (!unpinned.ok()) spdlog::warn("container {}: {}", id(), unpinned.ToString());
  co_return absl::OkStatus();
}

Task<absl::Status> VmContainer::TidyGuest() {
  CO_RETURN_IF_ERROR(co_await home_->machine->Ready());
  const absl::Status deleted = co_await home_->machine->Delete(guest_id());
  if (!absl::IsNotFound(deleted)) CO_RETURN_IF_ERROR(deleted);
  CO_RETURN_IF_ERROR(co_await home_->machine->SeparateLayers(Layers()));
  if (record().has_scratch_disk()) {
    CO_RETURN_IF_ERROR(co_await TakeDisk(*home_->machine, record().scratch_disk()));
    stored_.record.clear_scratch_disk();
  }
  for (int i = record().layers_size() - 1; i >= 0; --i) {
    // Also one that was not brought whole, of which the record does not know.
    CO_RETURN_IF_ERROR(co_await home_->layers.Release(record().layers(i).digest(), id()));
    stored_.record.mutable_layers(i)->clear_disk();
  }
  co_return absl::OkStatus();
}

// The machine's document is right where the record differs: it may have been written when the VM
// ran another time, or before the disk came.
void VmContainer::TakeUpDisks() {
  for (state::v1::ContainerLayer& layer : *stored_.record.mutable_layers()) {
    const auto slot = home_->machine->FindDisk(deps_.images->PathOf(layer.digest()));
    const ContainerDisk former = layer.disk();
    const bool had_it = layer.has_disk();
    layer.clear_disk();
    if (!slot.has_value()) continue;
    *layer.mutable_disk() = DiskAt(*slot, "");
    // Who was being made, or removed, may have died between two steps.
    const bool whole = had_it && !is_half() && former.controller() == slot->controller &&
                       former.lun() == slot->lun;
    home_->layers.TakeUp(layer.digest(), layer.disk(), id(), whole);
  }
  stored_.record.clear_scratch_disk();
  if (record().scratch_file().empty()) return;
  const auto slot = home_->machine->FindDisk(record().scratch_file());
  if (slot.has_value()) {
    *stored_.record.mutable_scratch_disk() = DiskAt(*slot, BundlePath() + "/scratch");
  }
}

void VmContainer::DiscardOutput() {
  // What could not be taken over is still where it was; of an init that is known it goes with that.
  const bool forgotten =
      in_guest() && home_->machine->FindInit(guest_id(), record().process_id()) == nullptr;
  for (const uint32_t port : {record().stdout_port(), record().stderr_port()}) {
    if (forgotten && port != 0) deps_.output.Discard(home_->machine->OutputFile(port));
  }
  deps_.output.Remove(id());
}

void VmContainer::LeaveGuest() {
  for (state::v1::ContainerLayer& layer : *stored_.record.mutable_layers()) layer.clear_disk();
  stored_.record.clear_scratch_disk();
  if (LeaveInit()) return;
  // That was the last attempt: in the VM's next boot its ports are another process's.
  stored_.record.clear_stdout_port();
  stored_.record.clear_stderr_port();
  PersistSoon();
}

// Its output's files do not say it.
void VmContainer::NoteReturns() {
  if (init_ == nullptr) return;
  const auto out = init_->ReadKept(Stream::kStdout, 0, 0);
  const auto err = init_->ReadKept(Stream::kStderr, 0, 0);
  if (out.ok()) stored_.record.set_stdout_went_back_at(out->went_back_at);
  if (err.ok()) stored_.record.set_stderr_went_back_at(err->went_back_at);
}

bool VmContainer::LeaveInit() {
  NoteReturns();
  bool left = true;
  for (const Stream stream : {Stream::kStdout, Stream::kStderr}) {
    const uint32_t port =
        stream == Stream::kStdout ? record().stdout_port() : record().stderr_port();
    if (port == 0) continue;
    const absl::Status kept = deps_.output.Keep(id(), stream, home_->machine->OutputFile(port));
    // A stream into which nothing was written may have no file.
    if (kept.ok() || absl::IsNotFound(kept)) continue;
    spdlog::warn("container {}: {}", id(), kept.ToString());
    left = false;
  }
  // A disk that is full may have room when the next daemon looks at it.
  if (!left) return false;
  // The ports may be another process's next.
  stored_.record.clear_stdout_port();
  stored_.record.clear_stderr_port();
  if (deps_.output.Has(id())) init_.reset();
  PersistSoon();
  return true;
}

absl::Status VmContainer::TakeOverOutput() {
  const bool left = record().stdout_port() != 0 || record().stderr_port() != 0;
  if (!left || !spec().detached() || !Is(CONTAINER_STAGE_STOPPED) || !in_guest()) {
    return absl::OkStatus();
  }
  const bool forgotten = home_->machine->FindInit(guest_id(), record().process_id()) == nullptr;
  if (!forgotten || LeaveInit()) return absl::OkStatus();
  return rpc::ErrorWithReason(
      absl::StatusCode::kFailedPrecondition,
      absl::StrCat("what container ", name(), " has printed cannot be taken along; why is in the ",
                   "log of this host's ferryd"),
      "output_not_kept", "Make room in its state folder, or remove the container.");
}

absl::StatusOr<guest::KeptOutput> VmContainer::ReadOutput(Stream stream, uint64_t since,
                                                          size_t limit) const {
  if (!spec().detached()) {
    return rpc::ErrorWithReason(
        absl::StatusCode::kFailedPrecondition,
        absl::StrCat("container ", name(), " is not detached, so its output goes to whoever is ",
                     "attached to it, and none is kept"),
        "not_detached", "Run it with -d to have its output kept.");
  }
  if (vm().in_file()) return vm().Refuse("asked for what its containers have printed");
  // What was kept is all there is, also where a daemon that has died knew more than it wrote down.
  const uint32_t port = stream == Stream::kStdout ? record().stdout_port() : record().stderr_port();
  // With a port of it left, this stream could not be taken over, whatever became of the other.
  const bool kept_here = deps_.output.Has(id()) && (port == 0 || lives());
  if (init_ != nullptr && !kept_here) return init_->ReadKept(stream, since, limit);
  guest::KeptOutput nothing;
  nothing.ended = Is(CONTAINER_STAGE_STOPPED);
  const bool never_ran = nothing.ended && record().started_unix_ms() == 0;
  const bool has_none = stream == Stream::kStderr && spec().terminal();
  if (Is(CONTAINER_STAGE_CREATED) || never_ran || has_none) return nothing;
  absl::StatusOr<guest::KeptOutput> kept = deps_.output.Read(id(), stream, since, limit);
  if (kept.ok()) {
    kept->went_back_at =
        stream == Stream::kStdout ? record().stdout_went_back_at() : record().stderr_went_back_at();
  }
  if (!absl::IsNotFound(kept.status())) return kept;
  if (kept_here) return nothing;
  return absl::NotFoundError(
      absl::StrCat("what container ", name(), " has printed is not kept any more"));
}

Task<void> VmContainer::TakeUp() {
  auto self = shared_from_this();
  const AsyncMutex::Guard turn = co_await operation_.Lock();
  // Where an undecided migration's VM has ended, the containers may run at the other host.
  const bool undecided = !home_->machine->runs() && !vm().RefuseIfMigrating("taken up").ok();
  if (gone_ || undecided || vm().in_file()) co_return;
  taken_up_.Set();
  if (Is(CONTAINER_STAGE_STOPPED)) stopped_.Set();
  // What it printed later than that is not what it will have printed.
  if (std::exchange(goes_back_, false) && home_->machine->runs()) deps_.output.Remove(id());
  if (!home_->machine->runs()) {
    LeaveGuest();
    if (lives()) Stopped({});
    co_return;
  }
  boot_ = home_->machine->boot();
  TakeUpDisks();
  init_ = home_->machine->FindInit(guest_id(), record().process_id());
  const bool forgotten = init_ == nullptr || deps_.output.Has(id());
  if (Is(CONTAINER_STAGE_STOPPED) && spec().detached() && forgotten) LeaveInit();
  if (init_ != nullptr) WatchOutput();
  if (!lives()) co_return;
  if (init_ != nullptr) Watch();
  Spawn(deps_.executor(), FindState(self));
}

Task<void> VmContainer::FindState(std::shared_ptr<VmContainer> self) {
  const uint64_t boot = self->boot_;
  const auto unknown = [&] { return self->boot_ == boot && self->lives() && !self->closed_; };
  for (milliseconds pause = kFirstPause; unknown(); pause = std::min(2 * pause, kLongestPause)) {
    absl::Status asked = co_await self->home_->machine->AwaitAgent();
    if (asked.ok() && unknown()) asked = co_await self->AskState();
    if (asked.ok() || !unknown()) co_return;
    spdlog::warn("container {}: its state is not known yet: {}", self->id(), asked.ToString());
    co_await Delay(pause);
  }
}

Task<absl::Status> VmContainer::AskState() {
  auto self = shared_from_this();
  // Somebody may start, pause or resume it already.
  const AsyncMutex::Guard turn = co_await operation_.Lock();
  if (!in_guest() || !lives()) co_return absl::OkStatus();
  if (init_ == nullptr) {
    auto started = co_await StartedBefore();
    if (!in_guest() || !lives()) co_return absl::OkStatus();
    const bool found = started.ok() && *started != nullptr;
    if (found && Is(CONTAINER_STAGE_CREATED)) co_return co_await Started(*std::move(started));
    if (found) {
      // It was written down, and its VM with it was not.
      init_ = *std::move(started);
      Watch();
      CO_RETURN_IF_ERROR(co_await home_->machine->Persist());
    }
  }
  // Before the question, so that no end falls between the two.
  if (init_ == nullptr && !awaits_notice_) Spawn(deps_.executor(), AwaitNotice(self));
  std::vector<std::string> types{"State"};
  const auto properties = co_await home_->machine->Properties(guest_id(), std::move(types));
  if (!in_guest() || !lives()) co_return absl::OkStatus();
  if (absl::IsNotFound(properties.status())) {
    Stopped({});
    co_return absl::OkStatus();
  }
  CO_RETURN_IF_ERROR(properties.status());
  if (!properties->state.has_value()) co_return absl::InternalError("the agent does not tell it");
  switch (*properties->state) {
    case bridge::ContainerState::kStopped:
      // Whoever watches the init is told how it ended.
      if (init_ == nullptr) Stopped({});
      co_return absl::OkStatus();
    case bridge::ContainerState::kRunning:
      co_return co_await SetStage(CONTAINER_STAGE_RUNNING);
    case bridge::ContainerState::kPaused:
      co_return co_await SetStage(CONTAINER_STAGE_PAUSED);
    case bridge::ContainerState::kCreated:
      co_return absl::OkStatus();
  }
  co_return absl::OkStatus();
}

Task<void> VmContainer::AwaitNotice(std::shared_ptr<VmContainer> self) {
  self->awaits_notice_ = true;
  const bool ended = co_await self->home_->machine->AwaitNotice(self->guest_id());
  self->awaits_notice_ = false;
  // Nobody here holds its init, or is just getting it: that it ended is known, and how is not.
  const bool nobody = self->init_ == nullptr && !self->starting_;
  if (ended && nobody && self->lives()) self->Stopped({});
}

}  // namespace ferry::vm
