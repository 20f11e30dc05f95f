#include "vmmanager/service/guest_service.h"

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/rpc/authorization.h"
#include "vmmanager/rpc/stream_reactor.h"
#include "vmmanager/rpc/unary_reactor.h"
#include "vmmanager/sandbox/agent_refusal.h"
#include "vmmanager/sandbox/agent_wait.h"
#include "vmmanager/service/attach_call.h"
#include "vmmanager/service/process_conversion.h"

namespace ferry::vm {
namespace {

constexpr uint32_t kMaxSignal = 64;
constexpr size_t kMaxRequestId = 128;

absl::Status NoAnswer(const UtilityVm& vm) { return AgentAway(vm, "gives no answer"); }

absl::Status NoProcess(const std::string& vm, uint32_t process) {
  return absl::NotFoundError(absl::StrCat("VM ", vm, " has no process ", process, "; ferryctl ps ",
                                          vm, " shows those there are"));
}

absl::Status CheckRequestId(const std::string& id) {
  if (id.size() <= kMaxRequestId) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("request_id must have at most ", kMaxRequestId,
                                                 " bytes; a UUID is a good choice"));
}

}  // namespace

absl::StatusOr<std::string> GuestService::PutIntoContainer(const UtilityVm& vm,
                                                           const v1::ProcessSpec& wanted,
                                                           guest::ProcessSpec* spec) const {
  if (wanted.container().empty()) {
    if (wanted.user().empty()) return std::string();
    return absl::InvalidArgumentError(
        "a process of the VM itself runs as its agent's user; a user can be given in a container");
  }
  if (containers_ == nullptr) return absl::UnimplementedError("this host has no containers");
  ASSIGN_OR_RETURN(const std::shared_ptr<VmContainer> container,
                   containers_->Find(wanted.container(), vm.id()));
  RETURN_IF_ERROR(container->CheckRunning("given a process"));
  spec->container_id = container->guest_id();
  spec->user = wanted.user();
  return container->ExecProcess(wanted);
}

v1::Process GuestService::Describe(const UtilityVm& vm, const guest::Process& process) const {
  v1::Process told = ToProto(vm.id(), process);
  const std::string& guest_id = process.spec().container_id;
  if (guest_id.empty() || containers_ == nullptr) return told;
  const auto container = containers_->FindByGuestId(vm.id(), guest_id);
  if (container != nullptr) told.mutable_spec()->set_container(container->id());
  return told;
}

Task<absl::StatusOr<std::shared_ptr<guest::Process>>> GuestService::MadeBefore(
    std::shared_ptr<UtilityVm> vm, std::string request_id) {
  // Of a VM that does not run nothing is known; whoever makes one there says why.
  if (request_id.empty() || vm->guest() == nullptr) co_return nullptr;
  CO_ASSIGN_OR_RETURN(const std::shared_ptr<guest::Guest> guest, co_await vm->UsableGuest());
  auto made = co_await WithDeadline(inventory_.deps().settings.answer_wait, "the guest's agent",
                                    guest->MadeBefore(std::move(request_id)));
  if (absl::IsDeadlineExceeded(made.status())) co_return NoAnswer(*vm);
  co_return made;
}

Task<absl::StatusOr<std::shared_ptr<guest::Process>>> GuestService::Make(
    std::shared_ptr<UtilityVm> vm, v1::CreateProcessRequest request) {
  CO_ASSIGN_OR_RETURN(guest::ProcessSpec spec, ToSpec(request.spec()));
  CO_ASSIGN_OR_RETURN(std::string oci_process, PutIntoContainer(*vm, request.spec(), &spec));
  CO_ASSIGN_OR_RETURN(const std::shared_ptr<guest::Guest> guest,
                      co_await ReadyGuest(vm, agent_wait()));
  co_await rpc::RunToEndFromHere();
  std::string request_id = request.request_id();
  auto process = co_await WithDeadline(
      inventory_.deps().settings.answer_wait, "the guest's agent",
      guest->CreateProcess(std::move(spec), std::move(request_id), std::move(oci_process)));
  if (absl::IsDeadlineExceeded(process.status())) co_return NoAnswer(*vm);
  if (!process.ok()) co_return ToCaller(process.status());
  co_return process;
}

grpc::ServerUnaryReactor* GuestService::CreateProcess(grpc::CallbackServerContext* context,
                                                      const v1::CreateProcessRequest* request,
                                                      v1::Process* response) {
  return rpc::ServeUnary(
      context, executor(), request, response,
      [this](const v1::CreateProcessRequest& create) -> Task<absl::StatusOr<v1::Process>> {
        CO_RETURN_IF_ERROR(CheckRequestId(create.request_id()));
        auto vm = inventory_.Find(create.vm());
        if (!vm.ok()) co_return vm.status();
        auto process = co_await MadeBefore(*vm, create.request_id());
        if (!process.ok()) co_return process.status();
        const bool is_new = *process == nullptr;
        if (is_new) process = co_await Make(*vm, create);
        if (!process.ok()) co_return process.status();
        // From the answer on the caller may count on finding it again.
        CO_RETURN_IF_ERROR(co_await (*vm)->Persist());
        if (is_new) {
          inventory_.deps().events.Publish("process.created", (*vm)->id(),
                                           {{"process", absl::StrCat((*process)->pid())}});
        }
        co_return Describe(**vm, **process);
      },
      rpc::OnCallerGone::kCancel);
}

grpc::ServerUnaryReactor* GuestService::ListProcesses(grpc::CallbackServerContext* context,
                                                      const v1::ListProcessesRequest* request,
                                                      v1::ListProcessesResponse* response) {
  return rpc::ServeUnary(
      context, executor(), request, response,
      [this, all = rpc::SeesSecrets(rpc::CallerOf(*context))](
          const v1::ListProcessesRequest& list) -> Task<absl::StatusOr<v1::ListProcessesResponse>> {
        auto vm = inventory_.Find(list.vm());
        if (!vm.ok()) co_return vm.status();
        auto guest = co_await (*vm)->UsableGuest();
        if (!guest.ok()) co_return guest.status();
        v1::ListProcessesResponse processes;
        for (const auto& process : (*guest)->processes()) {
          v1::Process* told = processes.add_processes();
          *told = Describe(**vm, *process);
          if (!all) told->mutable_spec()->clear_environment();
        }
        co_return processes;
      },
      rpc::OnCallerGone::kCancel);
}

grpc::ServerUnaryReactor* GuestService::SignalProcess(grpc::CallbackServerContext* context,
                                                      const v1::SignalProcessRequest* request,
                                                      v1::SignalProcessResponse* response) {
  return rpc::ServeUnary(
      context, executor(), request, response,
      [this](const v1::SignalProcessRequest& signal)
          -> Task<absl::StatusOr<v1::SignalProcessResponse>> {
        auto delivered = co_await Signal(signal);
        if (!delivered.ok()) co_return delivered.status();
        v1::SignalProcessResponse result;
        result.set_delivered(*delivered);
        co_return result;
      },
      rpc::OnCallerGone::kCancel);
}

Task<absl::StatusOr<bool>> GuestService::Signal(const v1::SignalProcessRequest& request) {
  if (request.signal() > kMaxSignal) {
    co_return absl::InvalidArgumentError(
        absl::StrCat("signal is ", request.signal(), "; use 0 to ", kMaxSignal));
  }
  auto vm = inventory_.Find(request.vm());
  if (!vm.ok()) co_return vm.status();
  auto guest = co_await (*vm)->UsableGuest();
  if (!guest.ok()) co_return guest.status();
  auto process = (*guest)->Find(request.process_id());
  if (process == nullptr) {
    co_return NoProcess(request.vm(), request.process_id());
  }
  CO_RETURN_IF_ERROR((co_await ReadyGuest(*vm, agent_wait())).status());
  co_await rpc::RunToEndFromHere();
  auto delivered = co_await WithDeadline(inventory_.deps().settings.answer_wait,
                                         "the guest's agent", process->Signal(request.signal()));
  if (absl::IsDeadlineExceeded(delivered.status())) co_return NoAnswer(**vm);
  co_return delivered;
}

grpc::ServerUnaryReactor* GuestService::ReadOutput(grpc::CallbackServerContext* context,
                                                   const v1::ReadOutputRequest* request,
                                                   v1::ReadOutputResponse* response) {
  return rpc::ServeUnary(
      context, executor(), request, response,
      [this](const v1::ReadOutputRequest& read) -> Task<absl::StatusOr<v1::ReadOutputResponse>> {
        auto vm = inventory_.Find(read.vm());
        if (!vm.ok()) co_return vm.status();
        auto guest = co_await (*vm)->UsableGuest();
        if (!guest.ok()) co_return guest.status();
        const auto process = (*guest)->Find(read.process_id());
        if (process == nullptr) co_return NoProcess(read.vm(), read.process_id());
        const ReadStream part = [&process](guest::Stream stream, uint64_t since, size_t limit) {
          return process->ReadKept(stream, since, limit);
        };
        co_return ReadParts(read.stdout_since(), read.stderr_since(), part);
      },
      rpc::OnCallerGone::kCancel);
}

grpc::ServerBidiReactor<v1::AttachRequest, v1::AttachResponse>* GuestService::Attach(
    grpc::CallbackServerContext* context) {
  return rpc::ServeBidi<v1::AttachRequest, v1::AttachResponse>(
      context, executor(),
      [this](std::shared_ptr<AttachStream> stream) -> Task<absl::Status> {
        AttachCall call(
            inventory_, std::move(stream),
            [this](const auto& vm, const auto& process) { return Describe(vm, process); },
            [this](const auto& vm_id, uint32_t pid) {
              if (containers_ != nullptr) containers_->NoteExitTaken(vm_id, pid);
            });
        co_return co_await call.Run();
      },
      rpc::OnCallerGone::kRunToEnd);
}

}  // namespace ferry::vm
