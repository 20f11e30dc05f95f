// The part of ContainerInventory that makes containers.
#include <google/protobuf/util/message_differencer.h>
#include <spdlog/spdlog.h>

#include "absl/strings/str_cat.h"
#include "bridge/protocol/container_messages.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/unix_time.h"
#include "vmmanager/containers/container_inventory.h"
#include "vmmanager/containers/container_limits.h"
#include "vmmanager/containers/container_names.h"
#include "vmmanager/containers/oci_specification.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/rpc/printable.h"
#include "vmmanager/sandbox/counted.h"
#include "vmmanager/sandbox/wrong_state.h"

namespace ferry::vm {
namespace {

using google::protobuf::util::MessageDifferencer;

constexpr size_t kMaxRequestId = 128;
constexpr size_t kMaxSpec = 48 * 1024;

absl::Status CheckRequest(const v1::CreateContainerRequest& request) {
  const v1::ContainerSpec& spec = request.spec();
  if (request.request_id().size() > kMaxRequestId) {
    return absl::InvalidArgumentError(absl::StrCat("request_id must have at most ", kMaxRequestId,
                                                   " bytes; a UUID is a good choice"));
  }
  if (request.where_case() == v1::CreateContainerRequest::WHERE_NOT_SET) {
    return absl::InvalidArgumentError("say in which VM the container is to be made");
  }
  if (request.has_new_vm() && !spec.pod().empty()) {
    return absl::InvalidArgumentError(
        "a container in a pod shares the VM of that pod; name that VM instead of making one");
  }
  if (spec.vm_network() && !spec.pod().empty()) {
    return absl::InvalidArgumentError(
        "a container in a pod has the pod's network; leave vm_network to the pod's first "
        "container");
  }
  if (spec.ByteSizeLong() > kMaxSpec) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the container's specification is too long; it may have ", kMaxSpec, " bytes"));
  }
  if (request.has_new_vm() && !spec.mounts().empty() && !request.new_vm().stays()) {
    return rpc::ErrorWithReason(
        absl::StatusCode::kFailedPrecondition,
        "the container's VM may move to another host, and a folder of this host could not move "
        "with "
        "the container",
        "vm_may_move", "Have its VM stay on this host (ferryctl run --stays), or leave out -v.");
  }
  if (!spec.name().empty()) RETURN_IF_ERROR(CheckContainerName(spec.name()));
  if (spec.image().empty()) return absl::InvalidArgumentError("the container needs an image");
  return ScratchFiles::Check(spec.scratch());
}

absl::Status NoNamespaces(const std::string& name) {
  return rpc::ErrorWithReason(
      absl::StatusCode::kFailedPrecondition,
      absl::StrCat("container ", name, " has stopped, so nobody can share its namespaces any more"),
      "wrong_state", "Name a container that runs, and is in no pod whose first one has ended.");
}

absl::Status CheckHasNamespaces(const VmContainer& sandbox) {
  if (sandbox.state() != v1::CONTAINER_STATE_STOPPED) return absl::OkStatus();
  return NoNamespaces(sandbox.name());
}

// Who asks for something else must not take what is there for it.
absl::Status OtherRequest(const std::string& request_id, const std::string& name) {
  return rpc::ErrorWithReason(
      absl::StatusCode::kAlreadyExists,
      absl::StrCat("request_id ", rpc::Printable(request_id, kMaxRequestId),
                   " was another request's, which made container ", name),
      "request_id_taken", "Use another request_id for another container; a UUID is a good choice.");
}

}  // namespace

struct ContainerInventory::Making {
  explicit Making(Executor executor) : done(std::move(executor)) {}

  absl::Status GoOn() const {
    if (waiters > 0) return absl::OkStatus();
    return absl::CancelledError("nobody waits for the container any more");
  }

  v1::CreateContainerRequest request;
  std::vector<SharedMount> mounts;  // once they were found
  std::string id = NewContainerId();
  size_t waiters = 0;
  AsyncEvent done;
  std::optional<absl::StatusOr<std::shared_ptr<VmContainer>>> result;
};

absl::Status ContainerInventory::CheckMadeBy(const v1::CreateContainerRequest& request,
                                             const VmContainer& made) const {
  v1::ContainerSpec wanted = request.spec();
  // A name was made up, and limits may have been changed since.
  if (wanted.name().empty()) wanted.set_name(made.name());
  *wanted.mutable_limits() = made.spec().limits();
  const auto vm = deps_.vms.Find(request.vm());
  const bool there = request.has_new_vm() ? made.record().owns_vm()
                                          : vm.ok() && (*vm)->id() == made.record().vm_id();
  v1::ContainerSpec has = made.spec();
  has.mutable_limits();
  if (there && MessageDifferencer::Equals(wanted, has)) return absl::OkStatus();
  return OtherRequest(request.request_id(), made.name());
}

std::shared_ptr<VmContainer> ContainerInventory::FindMade(const std::string& request_id,
                                                          bool half) const {
  if (request_id.empty()) return nullptr;
  for (const auto& [id, container] : containers_) {
    if (container->record().request_id() != request_id || container->gone()) continue;
    if (container->is_half() == half) return container;
  }
  return nullptr;
}

bool ContainerInventory::IsAwaited(const std::string& request_id) const {
  const auto found = makings_.find(request_id);
  return found != makings_.end() && found->second->waiters > 0;
}

Task<absl::StatusOr<std::shared_ptr<VmContainer>>> ContainerInventory::Create(
    v1::CreateContainerRequest request) {
  CO_RETURN_IF_ERROR(CheckRequest(request));
  while (true) {
    CO_RETURN_IF_ERROR(CheckServing());
    if (auto made = FindMade(request.request_id(), false)) {
      CO_RETURN_IF_ERROR(CheckMadeBy(request, *made));
      co_return made;
    }
    const auto found = makings_.find(request.request_id());
    const bool joins = !request.request_id().empty() && found != makings_.end();
    if (auto half = joins ? nullptr : FindMade(request.request_id(), true)) {
      // What a former daemon was making is on its way out, and must not be in the way.
      CO_RETURN_IF_ERROR(co_await Remove(std::move(half), true));
      continue;
    }
    std::shared_ptr<Making> making;
    if (joins) {
      making = found->second;
      if (!MessageDifferencer::Equals(making->request, request)) {
        co_return OtherRequest(request.request_id(), making->request.spec().name());
      }
    } else {
      making = std::make_shared<Making>(deps_.executor());
      making->request = request;
    }
    const Counted waiter(&making->waiters);
    if (!joins) {
      if (!request.request_id().empty()) makings_[request.request_id()] = making;
      scope_.Spawn(RunMaking(this, making));
    }
    co_await making->done.Wait();
    // One that was called off before we came is made anew.
    if (joins && absl::IsCancelled(making->result->status())) continue;
    co_return *making->result;
  }
}

Task<void> ContainerInventory::RunMaking(ContainerInventory* self, std::shared_ptr<Making> making) {
  // Also when the daemon breaks it off.
  struct AtEnd {
    ContainerInventory& inventory;
    Making& making;
    ~AtEnd() {
      if (!making.result.has_value()) {
        making.result.emplace(
            absl::UnavailableError("this host's ferryd stops; try again when it is back"));
      }
      const std::string& request_id = making.request.request_id();
      if (!request_id.empty()) inventory.makings_.erase(request_id);
      making.done.Set();
    }
  };
  const AtEnd at_end{*self, *making};
  making->result.emplace(co_await self->Make(making));
}

Task<absl::StatusOr<std::shared_ptr<VmContainer>>> ContainerInventory::Make(
    std::shared_ptr<Making> making) {
  // What cannot be is said before anything is made.
  CO_ASSIGN_OR_RETURN(const Image image, deps_.images->Find(making->request.spec().image()));
  OciInputs inputs;
  inputs.id = making->id;
  // As long as it will be.
  inputs.root_path = absl::StrCat(bridge::kBundleRoot, "/", making->id, "/rootfs");
  if (!making->request.spec().pod().empty()) inputs.sandbox_id = making->id;
  inputs.spec = &making->request.spec();
  inputs.image = &image.config;
  CO_RETURN_IF_ERROR(MakeOciSpecification(inputs).status());
  if (making->request.has_new_vm()) co_return co_await MakeWithVm(std::move(making));
  co_return co_await MakeInVm(std::move(making));
}

Task<absl::StatusOr<std::shared_ptr<VmContainer>>> ContainerInventory::MakeInVm(
    std::shared_ptr<Making> making) {
  CO_ASSIGN_OR_RETURN(const std::shared_ptr<UtilityVm> vm, deps_.vms.Find(making->request.vm()));
  CO_RETURN_IF_ERROR(vm->RefuseIfMigrating("given a container"));
  if (vm->state() != v1::VM_STATE_RUNNING) {
    co_return WrongState({vm->name(), vm->state(), ""}, "given a container",
                         absl::StrCat("VM ", vm->name(), " cannot be given a container: it is ",
                                      StateName(vm->state())));
  }
  CO_RETURN_IF_ERROR(making->GoOn());
  CO_ASSIGN_OR_RETURN(making->mounts,
                      co_await FindMounts(vm, making->request.spec(), &deps_.vms.deps().reads));
  CO_ASSIGN_OR_RETURN(std::string sandbox_id, SandboxOf(making->request.spec().pod(), *vm));
  CO_RETURN_IF_ERROR(CheckPlace(*vm, sandbox_id));
  CO_ASSIGN_OR_RETURN(StoredContainer stored, Describe(*making, vm->id()));
  if (NameIsTaken(stored.spec.name(), vm->id())) {
    co_return rpc::ErrorWithReason(
        absl::StatusCode::kAlreadyExists,
        absl::StrCat("VM ", vm->name(), " has a container named ", stored.spec.name()),
        "container_exists", "Choose another name, or remove that one first.");
  }
  stored.record.set_sandbox_id(std::move(sandbox_id));
  const std::shared_ptr<VmContainer> container = Add(std::move(stored), HomeOf(vm), true);
  const absl::Status made = co_await Fill(making, container);
  if (made.ok()) co_return container;
  co_await TakeBack(container);
  co_return made;
}

Task<absl::StatusOr<std::shared_ptr<VmContainer>>> ContainerInventory::MakeWithVm(
    std::shared_ptr<Making> making) {
  v1::CreateVmRequest create;
  *create.mutable_spec() = making->request.new_vm();
  const std::string vm_id = VmInventory::NewId();
  CO_ASSIGN_OR_RETURN(StoredContainer stored, Describe(*making, vm_id));
  stored.record.set_owns_vm(true);
  if (create.spec().name().empty()) create.mutable_spec()->set_name(stored.spec.name());
  // Before there is a VM, so that a daemon after this one knows whose it is.
  CO_RETURN_IF_ERROR(co_await deps_.store().PutContainer(ToRow(stored)));
  NewVm made_of;
  made_of.id = vm_id;
  const auto vm = co_await deps_.vms.Create(create, std::move(made_of));
  if (!vm.ok()) {
    co_await ForgetRow(std::move(stored));
    co_return vm.status();
  }
  const std::shared_ptr<VmContainer> container = Add(std::move(stored), HomeOf(*vm), true);
  absl::Status made = making->GoOn();
  if (made.ok()) {
    auto mounts = co_await FindMounts(*vm, making->request.spec(), &deps_.vms.deps().reads);
    made = mounts.status();
    if (made.ok()) making->mounts = *std::move(mounts);
  }
  if (made.ok()) made = co_await (*vm)->Start();
  if (made.ok()) made = co_await Fill(making, container);
  if (made.ok()) co_return container;
  // The VM takes along what is in its guest.
  const absl::Status ended = co_await EndVm(*vm);
  if (ended.ok()) {
    co_await TakeBack(container);
  } else {
    // Whose VM that is stays known.
    spdlog::warn("vm {}: {}", (*vm)->name(), ended.ToString());
    scope_.Spawn(RemoveLater(this, container));
  }
  co_return made;
}

absl::StatusOr<std::string> ContainerInventory::SandboxOf(const std::string& pod,
                                                          const UtilityVm& vm) const {
  if (pod.empty()) return std::string();
  ASSIGN_OR_RETURN(const std::shared_ptr<VmContainer> sandbox, Find(pod, vm.id()));
  RETURN_IF_ERROR(CheckHasNamespaces(*sandbox));
  if (sandbox->being_removed()) {
    return absl::NotFoundError(
        absl::StrCat("container ", sandbox->name(), " is just being removed"));
  }
  const std::string& its = sandbox->record().sandbox_id();
  if (its.empty()) return sandbox->guest_id();
  // A member of a pod may run on when the container that it shares with has ended.
  const std::shared_ptr<VmContainer> owner = FindByGuestId(vm.id(), its);
  if (owner == nullptr) return NoNamespaces(sandbox->name());
  RETURN_IF_ERROR(CheckHasNamespaces(*owner));
  return its;
}

absl::Status ContainerInventory::CheckPlace(const UtilityVm& vm,
                                            const std::string& sandbox_id) const {
  for (const auto& container : Of(vm.id())) {
    if (!container->record().owns_vm() || container->guest_id() == sandbox_id) continue;
    return rpc::ErrorWithReason(
        absl::StatusCode::kFailedPrecondition,
        absl::StrCat("VM ", vm.name(), " was made for container ", container->name(),
                     " alone, and goes with it"),
        "vm_belongs_to_container",
        absl::StrCat("Use another VM, or join that container: --pod ", container->name()));
  }
  return absl::OkStatus();
}

absl::StatusOr<StoredContainer> ContainerInventory::Describe(const Making& making,
                                                             const std::string& vm_id) const {
  StoredContainer stored;
  stored.spec = making.request.spec();
  if (stored.spec.name().empty()) {
    // It may become the VM's name, too.
    stored.spec.set_name(MakeUpContainerName(making.id, [this](const std::string& name) {
      return NameIsTaken(name, "") || deps_.vms.Find(name).ok();
    }));
  }
  state::v1::ContainerRecord& record = stored.record;
  record.set_container_id(making.id);
  record.set_vm_id(vm_id);
  record.set_stage(state::v1::CONTAINER_STAGE_MAKING);
  record.set_created_unix_ms(NowUnixMs());
  record.set_request_id(making.request.request_id());
  return stored;
}

Task<absl::Status> ContainerInventory::Fill(std::shared_ptr<Making> making,
                                            std::shared_ptr<VmContainer> container) {
  auto image = co_await deps_.images->Pin(container->id(), container->spec().image());
  CO_RETURN_IF_ERROR(image.status());
  std::function<absl::Status()> go_on = [making] { return making->GoOn(); };
  co_return co_await container->Make(*std::move(image), making->mounts, std::move(go_on));
}

Task<void> ContainerInventory::TakeBack(std::shared_ptr<VmContainer> container) {
  const absl::Status taken = co_await container->TakeOut();
  if (taken.ok()) {
    Erase(*container);
  } else {
    spdlog::warn("container {}: {}", container->id(), taken.ToString());
    scope_.Spawn(RemoveLater(this, container));
  }
}

}  // namespace ferry::vm
