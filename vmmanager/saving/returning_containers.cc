#include "vmmanager/saving/returning_containers.h"

#include <spdlog/spdlog.h>

#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/containers/container_record.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/schema/attachments.h"

namespace ferry::vm {
namespace {

using state::v1::ContainerRecord;

constexpr size_t kShownId = 12;

absl::Status Restless(const std::string& refusal, const std::string& why, const std::string& reason,
                      const std::string& next_step) {
  return rpc::ErrorWithReason(absl::StatusCode::kFailedPrecondition,
                              absl::StrCat(refusal, ": ", why), reason, next_step);
}

Task<absl::Status> GoOn(std::shared_ptr<VmContainer> container, ContainerRecord record) {
  CO_ASSIGN_OR_RETURN(StoredContainer stored, FromRecord(std::move(record)));
  co_return co_await container->GoOnAs(std::move(stored));
}

}  // namespace

std::vector<std::shared_ptr<VmContainer>> ReturningContainers::In(const std::string& vm_id) const {
  if (containers_ == nullptr) return {};
  return containers_->Of(vm_id);
}

absl::Status ReturningContainers::CheckRest(const UtilityVm& vm, const std::string& refusal) const {
  const std::string unreadable = containers_ == nullptr ? "" : containers_->UnreadableIn(vm.id());
  if (!unreadable.empty()) {
    return Restless(
        refusal,
        absl::StrCat("the record of container ", unreadable.substr(0, kShownId),
                     " in it cannot be read"),
        "container_unreadable",
        "Use the ferryd that wrote it; or delete the VM, which takes the container with it.");
  }
  for (const auto& container : In(vm.id())) {
    if (!container->being_made() && !container->being_removed()) continue;
    return Restless(refusal,
                    absl::StrCat("container ", container->name(), " in it is just being ",
                                 container->being_made() ? "made" : "removed"),
                    "container_changes", "Try again when that is done.");
  }
  return absl::OkStatus();
}

ReturningContainers::Records ReturningContainers::Of(const UtilityVm& vm) const {
  Records records;
  for (const auto& container : In(vm.id())) records.push_back(container->Export());
  return records;
}

absl::Status ReturningContainers::CheckVmOutlivesThem(const UtilityVm& vm) const {
  for (const auto& container : In(vm.id())) {
    if (!container->record().owns_vm() || !container->spec().remove_when_stopped()) continue;
    return Restless(
        absl::StrCat("VM ", vm.name(), " must not stop with its checkpoint"),
        absl::StrCat("it was made for container ", container->name(),
                     ", which is removed when it stops (--rm), and the VM and its "
                     "checkpoints with it"),
        "vm_goes_with_container",
        absl::StrCat("Take it without --halt; or save the VM: ferryctl stop --save ", vm.name()));
  }
  return absl::OkStatus();
}

absl::Status ReturningContainers::CheckSame(const UtilityVm& vm, const Records& then) const {
  std::map<std::string, std::shared_ptr<VmContainer>> here;
  for (const auto& container : In(vm.id())) here[container->guest_id()] = container;
  for (const ContainerRecord& record : then) {
    if (here.erase(GuestIdOf(record)) == 0) {
      return absl::FailedPreconditionError(absl::StrCat(
          "container ", record.container_id().substr(0, kShownId), " in it was removed since"));
    }
    const ImageStore* images = containers_->deps().images;
    if (images == nullptr) {
      return rpc::ErrorWithReason(absl::StatusCode::kUnavailable,
                                  "this host's ferryd is about to start; try again", "not_ready");
    }
    for (const state::v1::ContainerLayer& layer : record.layers()) {
      if (images->Has(layer.digest())) continue;
      return absl::FailedPreconditionError(
          absl::StrCat("this host lacks the layer ", layer.digest(), " of a container in it"));
    }
    RETURN_IF_ERROR(FromRecord(record).status());
  }
  if (here.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("container ", here.begin()->second->name(), " was made since; remove it first"));
}

void ReturningContainers::PlaceLayers(const Records& then, schema::ComputeSystem* document) const {
  if (containers_ == nullptr || containers_->deps().images == nullptr) return;
  for (const ContainerRecord& record : then) {
    for (const state::v1::ContainerLayer& layer : record.layers()) {
      if (!layer.has_disk()) continue;
      schema::Attachment* disk = schema::FindAttachment(
          document, absl::StrCat(layer.disk().controller()), absl::StrCat(layer.disk().lun()));
      if (disk != nullptr) disk->path = containers_->deps().images->PathOf(layer.digest());
    }
  }
}

Task<absl::Status> ReturningContainers::GoOnAs(std::string vm_id, Records then, Records* former) {
  for (const auto& container : In(vm_id)) {
    for (ContainerRecord record : then) {
      if (GuestIdOf(record) != container->guest_id()) continue;
      if (former != nullptr) former->push_back(container->Export());
      // This host may know it by another id than the one that had it then.
      record.set_container_id(container->id());
      record.set_guest_id(container->record().guest_id());
      CO_RETURN_IF_ERROR(co_await GoOn(container, std::move(record)));
    }
  }
  co_return absl::OkStatus();
}

Task<void> ReturningContainers::PutBack(std::string vm_id, Records former) {
  for (const auto& container : In(vm_id)) {
    for (const ContainerRecord& record : former) {
      if (record.container_id() != container->id()) continue;
      const absl::Status put = co_await GoOn(container, record);
      if (!put.ok()) spdlog::warn("container {}: {}", container->id(), put.ToString());
    }
  }
}

Task<void> ReturningContainers::TakeUp(std::string vm_id) {
  if (containers_ != nullptr) co_await containers_->VmArrived(std::move(vm_id));
}

}  // namespace ferry::vm
