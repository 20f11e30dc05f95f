#include "vmmanager/containers/container_moves.h"

#include <google/protobuf/util/message_differencer.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "bridge/protocol/container_messages.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/containers/container_names.h"
#include "vmmanager/containers/empty_qcow2.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/rpc/printable.h"
#include "vmmanager/state/container_check.h"
#include "vmmanager/state/saved_state.h"

namespace ferry::vm {
namespace {

using state::v1::ContainerLayer;
using state::v1::ContainerRecord;

absl::Status NoImages() {
  return absl::UnavailableError("this host's ferryd is about to start; try again");
}

constexpr size_t kMostShown = 128;           // bytes of an id that somebody asks for
constexpr size_t kMostOutput = 1024 * 1024;  // of each stream

size_t ShareOf(size_t containers) {
  constexpr size_t kStreams = 2;
  return std::min(kMostOutput, kMaxContainerOutput / (kStreams * std::max<size_t>(containers, 1)));
}

std::vector<std::string> DigestsOf(const ContainerRecord& record) {
  std::vector<std::string> digests;
  for (const ContainerLayer& layer : record.layers()) digests.push_back(layer.digest());
  return digests;
}

DiskSlot SlotOf(const state::v1::ContainerDisk& disk) { return {disk.controller(), disk.lun()}; }

}  // namespace

std::string ScratchDiskName(const std::string& source_id) {
  return absl::StrCat("scratch/", source_id);
}

absl::Status ContainerExports::CheckMovable(const std::string& vm_id,
                                            v1::CopyStorage storage) const {
  if (const std::string id = containers_.UnreadableIn(vm_id); !id.empty()) {
    return rpc::ErrorWithReason(
        absl::StatusCode::kFailedPrecondition,
        absl::StrCat("the record of container ", ShortContainerId(id),
                     ", which is in the VM, cannot be read, so it would stay behind"),
        "container_unreadable",
        "Use the ferryd that wrote it; or delete the VM, which takes the container with it.");
  }
  for (const auto& container : containers_.Of(vm_id)) {
    if (container->being_made() || container->being_removed()) {
      return rpc::ErrorWithReason(absl::StatusCode::kFailedPrecondition,
                                  absl::StrCat("container ", container->name(), " is just being ",
                                               container->being_made() ? "made" : "removed"),
                                  "container_changes", "Try again when that is done.");
    }
    const bool stays = storage == v1::COPY_STORAGE_NONE && IsOwn(*container);
    if (container->record().scratch_file().empty() || !stays) continue;
    return rpc::ErrorWithReason(
        absl::StatusCode::kFailedPrecondition,
        absl::StrCat("the scratch disk of container ", container->name(),
                     " is in this host's own folder, and no other host has it"),
        "scratch_not_shared",
        "Have it copied: leave out --copy-storage none. Or run it with --scratch-dir in a folder "
        "that the hosts share, or with --read-only.");
  }
  return absl::OkStatus();
}

Task<absl::StatusOr<std::vector<ContainerRecord>>> ContainerExports::Begin(
    std::string vm_id, v1::CopyStorage storage) {
  CO_RETURN_IF_ERROR(CheckMovable(vm_id, storage));
  const ContainerInventory::Containers all = containers_.Of(vm_id);
  if (!all.empty() && containers_.deps().images == nullptr) co_return NoImages();
  std::vector<ContainerRecord> records;
  const size_t share = ShareOf(all.size());
  for (const auto& container : all) {
    CO_RETURN_IF_ERROR(container->TakeOverOutput());
    ContainerRecord record = container->Export();
    AddOutput(share, &record);
    if (record.has_stdout() || record.has_stderr()) with_output_[vm_id].insert(container->id());
    for (ContainerLayer& layer : *record.mutable_layers()) {
      CO_ASSIGN_OR_RETURN(const Layer found, FindLayer(layer.digest()));
      layer.set_bytes(found.bytes);
    }
    if (const std::string file = record.scratch_file(); !file.empty()) {
      // What goes when its container leaves is nobody else's, even if others see it.
      if (!IsOwn(*container)) {
        CO_ASSIGN_OR_RETURN(std::string proof, co_await containers_.deps().scratch.Prove(file));
        proven_[vm_id].push_back({file, proof});
        record.set_scratch_proof(std::move(proof));
      }
    }
    CO_ASSIGN_OR_RETURN(const auto offer, co_await OfferFor(container, storage));
    if (offer) {
      offered_[vm_id][container->id()] = *offer;
      AddOffer(*offer, &record);
    }
    records.push_back(std::move(record));
  }
  co_return records;
}

bool ContainerExports::IsOwn(const VmContainer& container) const {
  return !ScratchFiles::IsShareable(container.spec().scratch()) ||
         containers_.deps().scratch.IsOwn(container.id(), container.record().scratch_file());
}

void ContainerExports::AddOffer(const Offer& offer, ContainerRecord* record) {
  record->set_scratch_bytes(offer.size.bytes);
  record->set_scratch_used_bytes(offer.size.used_bytes);
  record->set_scratch_always_sent(offer.always);
}

std::optional<ContainerExports::Offer> ContainerExports::OfferOf(const std::string& vm_id,
                                                                 const std::string& id) const {
  const auto offers = offered_.find(vm_id);
  if (offers == offered_.end()) return std::nullopt;
  const auto offer = offers->second.find(id);
  return offer == offers->second.end() ? std::nullopt : std::optional(offer->second);
}

// One that lies over another file, for a checkpoint, is not sent; if it is shared, it need not be.
Task<absl::StatusOr<std::optional<ContainerExports::Offer>>> ContainerExports::OfferFor(
    std::shared_ptr<VmContainer> container, v1::CopyStorage storage) const {
  std::optional<Offer> none;
  std::string file = container->record().scratch_file();
  if (file.empty() || storage == v1::COPY_STORAGE_NONE) co_return none;
  const auto size = co_await containers_.deps().scratch.Measure(std::move(file));
  if (size.ok()) co_return std::optional(Offer{*size, storage == v1::COPY_STORAGE_ALL});
  if (!absl::IsFailedPrecondition(size.status())) co_return size.status();
  if (!IsOwn(*container)) co_return none;
  co_return rpc::ErrorWithReason(absl::StatusCode::kFailedPrecondition,
                                 absl::StrCat("the scratch disk of container ", container->name(),
                                              " cannot be copied: ", size.status().message()),
                                 "scratch_not_shared",
                                 "Delete the VM's checkpoints, if it has some.");
}

Task<absl::StatusOr<std::vector<ContainerRecord>>> ContainerExports::Describe(
    std::string vm_id, v1::CopyStorage storage) {
  const ContainerInventory::Containers all = containers_.Of(vm_id);
  std::vector<ContainerRecord> records;
  for (const auto& container : all) {
    records.push_back(container->Export());
    if (!IsOwn(*container) && storage != v1::COPY_STORAGE_ALL) continue;
    CO_ASSIGN_OR_RETURN(const auto offer, co_await OfferFor(container, storage));
    if (offer) AddOffer(*offer, &records.back());
  }
  co_return records;
}

std::vector<ContainerRecord> ContainerExports::Cut(const std::string& vm_id) const {
  const ContainerInventory::Containers all = containers_.Of(vm_id);
  const auto planned = with_output_.find(vm_id);
  std::vector<ContainerRecord> records;
  for (const auto& container : all) {
    ContainerRecord record = container->Export();
    // Its init was known to the guest when the plan was made, and is forgotten since.
    const bool sent = planned != with_output_.end() && planned->second.contains(container->id());
    if (!sent) AddOutput(ShareOf(all.size()), &record);
    // An older destination compares what it does not know, too.
    if (const auto offer = OfferOf(vm_id, container->id())) AddOffer(*offer, &record);
    records.push_back(std::move(record));
  }
  return records;
}

Task<void> ContainerExports::End(std::string vm_id) {
  with_output_.erase(vm_id);
  offered_.erase(vm_id);
  const auto found = proven_.find(vm_id);
  if (found == proven_.end()) co_return;
  const std::vector<Proof> proofs = std::move(found->second);
  proven_.erase(found);
  for (const Proof& proof : proofs) {
    co_await containers_.deps().scratch.RemoveProof(proof.file, proof.word);
  }
}

// Of one that runs, and of one that has stopped since the VM did, it goes with its process.
void ContainerExports::AddOutput(size_t limit, ContainerRecord* record) const {
  if (record->stdout_port() != 0 || record->stderr_port() != 0) return;
  const ContainerOutput& output = containers_.deps().output;
  auto out = output.Export(record->container_id(), guest::Stream::kStdout, limit);
  if (out.ok()) *record->mutable_stdout() = *std::move(out);
  auto err = output.Export(record->container_id(), guest::Stream::kStderr, limit);
  if (err.ok()) *record->mutable_stderr() = *std::move(err);
}

absl::StatusOr<ContainerExports::Layer> ContainerExports::FindLayer(
    const std::string& digest) const {
  const ImageStore* images = containers_.deps().images;
  if (images == nullptr) return NoImages();
  if (!images->Has(digest)) {
    return absl::NotFoundError(absl::StrCat("this host has no layer ", digest));
  }
  return Layer{images->PathOf(digest), images->SizeOf(digest)};
}

ContainerArrivals::ContainerArrivals(ContainerInventory& containers, std::shared_ptr<UtilityVm> vm,
                                     std::vector<ContainerRecord> records)
    : containers_(containers),
      expected_(containers.expected()),
      vm_(std::move(vm)),
      planned_(std::move(records)) {}

ContainerArrivals::~ContainerArrivals() {
  // A session that tries something until the end goes with the executor, after all others.
  for (const auto& [source_id, id] : ids_) expected_->erase(id);
}

Task<absl::Status> ContainerArrivals::Bind(std::string source_id, std::string scratch_file,
                                           std::string id) {
  const auto found = std::find_if(
      planned_.begin(), planned_.end(),
      [&](const ContainerRecord& record) { return record.container_id() == source_id; });
  if (found == planned_.end()) {
    co_return absl::NotFoundError(absl::StrCat("no container ",
                                               rpc::PrintableLine(source_id, kMostShown),
                                               " comes with VM ", vm_->name()));
  }
  if (id.empty()) id = bound_.contains(source_id) ? ids_.at(source_id) : source_id;
  CO_RETURN_IF_ERROR(co_await Claim(source_id, id));
  CO_RETURN_IF_ERROR(CheckSpec(*found));
  if (images() == nullptr) co_return NoImages();
  if (found->scratch_file().empty() && !scratch_file.empty()) {
    co_return absl::InvalidArgumentError(
        absl::StrCat("container ", source_id, " has no scratch disk, so it can have no file"));
  }
  std::string file;
  if (!found->scratch_file().empty()) {
    CO_ASSIGN_OR_RETURN(file, co_await FindScratch(*found, std::move(scratch_file)));
  }
  // What is here must not go while the others are on their way.
  std::vector<std::string> digests = DigestsOf(*found);
  CO_RETURN_IF_ERROR(co_await images()->PinLayersHere(id, std::move(digests)));
  CO_RETURN_IF_ERROR(BindDisks(*found, file));
  CO_RETURN_IF_ERROR(WriteOutput(AsHere(*found)));
  bound_[source_id] = std::move(file);
  co_return absl::OkStatus();
}

Task<absl::Status> ContainerArrivals::Claim(std::string source_id, std::string id) {
  const auto claimed = ids_.find(source_id);
  const std::string former = claimed == ids_.end() ? "" : claimed->second;
  if (former == id) co_return absl::OkStatus();
  if (bound_.contains(source_id)) {
    co_return absl::AlreadyExistsError(
        absl::StrCat("container ", source_id, " is bound to this host already, as ", former));
  }
  if (!bridge::IsContainerId(id) || absl::AsciiStrToLower(id) != id) {
    co_return absl::InvalidArgumentError(
        absl::StrCat("'", rpc::PrintableLine(id, kMostShown),
                     "' is no container id: 64 hexadecimal digits, in small letters"));
  }
  for (const ContainerRecord& other : planned_) {
    // Who asks for a container of a VM by the id that it was made with must not get another.
    if (other.container_id() == source_id || GuestIdOf(other) != id) continue;
    co_return absl::AlreadyExistsError(
        absl::StrCat("container ", id, " is, to their guest, the one that the source has as ",
                     other.container_id(), "; choose another id"));
  }
  if (!containers_.Expect(id)) {
    co_return absl::AlreadyExistsError(
        absl::StrCat("container ", id, " is on this host already, another one is to be it, or a ",
                     "checkpoint here keeps a disk of one that was it"));
  }
  ids_[source_id] = id;
  if (!former.empty()) {
    expected_->erase(former);
    co_await Unclaim(former);
  }
  co_return absl::OkStatus();
}

Task<void> ContainerArrivals::Unclaim(std::string id) {
  containers_.deps().output.Remove(id);
  if (images() == nullptr) co_return;
  const absl::Status unpinned = co_await images()->Unpin(id);
  if (!unpinned.ok()) spdlog::warn("images: {}", unpinned.ToString());
}

ContainerRecord ContainerArrivals::AsHere(ContainerRecord record) const {
  const auto claimed = ids_.find(record.container_id());
  if (claimed == ids_.end()) return record;
  const std::string guest_id = GuestIdOf(record);
  record.set_container_id(claimed->second);
  record.clear_guest_id();
  if (guest_id != claimed->second) record.set_guest_id(guest_id);
  return record;
}

Task<absl::StatusOr<std::string>> ContainerArrivals::FindScratch(ContainerRecord record,
                                                                 std::string given) {
  ScratchFiles& scratch = containers_.deps().scratch;
  const std::string& source_id = record.container_id();
  const std::string file = given.empty() ? record.scratch_file() : given;
  scratch_to_come_.erase(source_id);
  const absl::Status same = co_await scratch.CheckProof(file, record.scratch_proof());
  const bool sent = given.empty() && record.scratch_bytes() > 0 && record.has_scratch_disk();
  if (sent && (absl::IsFailedPrecondition(same) || record.scratch_always_sent())) {
    CO_RETURN_IF_ERROR(CheckScratchSize(record.scratch_bytes()));
    ArrivingScratch coming;
    coming.source_id = source_id;
    coming.id = ids_[source_id];
    coming.place = {absl::StrCat(record.scratch_disk().controller()),
                    absl::StrCat(record.scratch_disk().lun())};
    coming.size = {.bytes = record.scratch_bytes(), .used_bytes = record.scratch_used_bytes()};
    coming.file = scratch.PathOf(coming.id, v1::ScratchSpec());
    scratch_to_come_[source_id] = coming;
    co_return coming.file;
  }
  if (absl::IsFailedPrecondition(same)) {
    co_return rpc::ErrorWithReason(
        absl::StatusCode::kFailedPrecondition,
        absl::StrCat("the scratch disk of container ", source_id,
                     " is not seen by this host: ", same.message()),
        "scratch_not_shared",
        "Mount the folder that it is in on this host, too, and bind it where it is here.");
  }
  CO_RETURN_IF_ERROR(same);
  co_return file;
}

std::vector<ArrivingScratch> ContainerArrivals::ScratchToCome() const {
  std::vector<ArrivingScratch> coming;
  for (const auto& [source_id, scratch] : scratch_to_come_) coming.push_back(scratch);
  return coming;
}

Task<absl::Status> ContainerArrivals::MakeScratch() {
  for (const ArrivingScratch& coming : ScratchToCome()) {
    std::string id = coming.id;
    CO_RETURN_IF_ERROR(
        co_await containers_.deps().scratch.MakeOwn(std::move(id), coming.size.bytes));
    scratch_made_[coming.id] = coming.file;
  }
  co_return absl::OkStatus();
}

absl::Status ContainerArrivals::CheckSpec(const ContainerRecord& record) const {
  ASSIGN_OR_RETURN(const StoredContainer stored, FromRecord(record));
  RETURN_IF_ERROR(CheckContainerName(stored.spec.name()));
  for (const ContainerRecord& other : planned_) {
    const absl::StatusOr<StoredContainer> its = FromRecord(other);
    if (other.container_id() == record.container_id() || !its.ok()) continue;
    if (its->spec.name() != stored.spec.name()) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("VM ", vm_->name(), " has two containers named ", stored.spec.name()));
  }
  return absl::OkStatus();
}

// Its limits may have changed while its memory moved, and nothing else.
absl::Status ContainerArrivals::CheckSameSpec(const ContainerRecord& cut) const {
  for (const ContainerRecord& planned : planned_) {
    if (planned.container_id() != cut.container_id()) continue;
    ASSIGN_OR_RETURN(StoredContainer before, FromRecord(planned));
    ASSIGN_OR_RETURN(StoredContainer now, FromRecord(cut));
    before.spec.clear_limits();
    now.spec.clear_limits();
    if (google::protobuf::util::MessageDifferencer::Equals(before.spec, now.spec)) {
      return absl::OkStatus();
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat("container ", cut.container_id(), " comes as another one than it was to"));
}

absl::Status ContainerArrivals::WriteOutput(const ContainerRecord& record) const {
  const ContainerOutput& output = containers_.deps().output;
  const std::string& id = record.container_id();
  if (record.has_stdout()) {
    RETURN_IF_ERROR(output.Write(id, guest::Stream::kStdout, record.stdout()));
  }
  if (!record.has_stderr()) return absl::OkStatus();
  return output.Write(id, guest::Stream::kStderr, record.stderr());
}

absl::Status ContainerArrivals::BindDisks(const ContainerRecord& record,
                                          const std::string& scratch) {
  if (record.has_scratch_disk()) {
    RETURN_IF_ERROR(vm_->BindDisk(SlotOf(record.scratch_disk()), scratch));
  }
  for (const ContainerLayer& layer : record.layers()) {
    if (!layer.has_disk()) continue;
    RETURN_IF_ERROR(vm_->BindDisk(SlotOf(layer.disk()), images()->PathOf(layer.digest())));
  }
  return absl::OkStatus();
}

std::map<std::string, uint64_t> ContainerArrivals::MissingLayers() const {
  std::map<std::string, uint64_t> missing;
  for (const ContainerRecord& record : planned_) {
    if (!bound_.contains(record.container_id())) continue;
    for (const ContainerLayer& layer : record.layers()) {
      if (!images()->Has(layer.digest())) missing[layer.digest()] = layer.bytes();
    }
  }
  return missing;
}

// A container's own: what nobody needs any more is then let go of when the daemon starts.
Task<absl::Status> ContainerArrivals::PinLayers() {
  for (const ContainerRecord& record : planned_) {
    if (!bound_.contains(record.container_id())) continue;
    std::string id = ids_[record.container_id()];
    std::vector<std::string> digests = DigestsOf(record);
    CO_RETURN_IF_ERROR(co_await images()->PinLayers(std::move(id), std::move(digests)));
  }
  co_return absl::OkStatus();
}

absl::Status ContainerArrivals::CheckReady() const {
  for (const ContainerRecord& record : planned_) {
    if (bound_.contains(record.container_id())) continue;
    return rpc::ErrorWithReason(absl::StatusCode::kFailedPrecondition,
                                absl::StrCat("container ", record.container_id(), " of VM ",
                                             vm_->name(), " is not bound to this host"),
                                "containers_unbound",
                                "Call BindContainer for each container that ImportSandbox named.");
  }
  const auto missing = MissingLayers();
  if (missing.empty()) return absl::OkStatus();
  return rpc::ErrorWithReason(absl::StatusCode::kFailedPrecondition,
                              absl::StrCat("this host lacks the layer ", missing.begin()->first,
                                           " of a container of VM ", vm_->name()),
                              "layers_missing",
                              "Have them sent: ReceiveLayers here, then SendLayers at the source.");
}

Task<absl::Status> ContainerArrivals::Arrive(std::vector<ContainerRecord> cut) {
  for (ContainerRecord& record : cut) {
    CO_RETURN_IF_ERROR(CheckSameSpec(record));
    record.set_scratch_file(bound_[record.container_id()]);
    record = AsHere(std::move(record));
    CO_RETURN_IF_ERROR(WriteOutput(record));
    record.clear_stdout();
    record.clear_stderr();
    CO_ASSIGN_OR_RETURN(StoredContainer stored, FromRecord(record));
    CO_RETURN_IF_ERROR(co_await containers_.Bring(std::move(stored), vm_));
  }
  co_return absl::OkStatus();
}

Task<void> ContainerArrivals::Discard() {
  const std::map<std::string, std::string> made = std::exchange(scratch_made_, {});
  for (const auto& [id, file] : made) {
    const absl::Status removed = co_await containers_.deps().scratch.Remove(id, file);
    if (!removed.ok()) spdlog::warn("container {}: {}", id, removed.ToString());
  }
  // Nothing of containers that are this host's, or another migration's, whatever the plan says.
  const std::map<std::string, std::string> ours = ids_;
  for (const auto& [source_id, id] : ours) co_await Unclaim(id);
}

}  // namespace ferry::vm
