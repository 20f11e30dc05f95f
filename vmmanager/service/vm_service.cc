#include "vmmanager/service/vm_service.h"

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/rpc/unary_reactor.h"
#include "vmmanager/sandbox/machine_document.h"
#include "vmmanager/sandbox/vm_nics.h"

namespace ferry::vm {
namespace {

constexpr milliseconds kStopTimeout{30'000};
// A guest that takes longer to say which addresses it has has said nothing.
constexpr milliseconds kLeasesLimit{1'000};

absl::StatusOr<schema::PropertyQuery> ToQuery(const v1::GetPropertiesRequest& request) {
  schema::PropertyQuery query;
  for (const std::string& type : request.types()) {
    if (type == "Basic") {
      query.types.push_back(schema::PropertyType::kBasic);
    } else if (type == "Memory") {
      query.types.push_back(schema::PropertyType::kMemory);
    } else if (type == "Statistics") {
      query.types.push_back(schema::PropertyType::kStatistics);
    } else if (type == "CompatibilityInfo") {
      query.types.push_back(schema::PropertyType::kCompatibilityInfo);
    } else if (type == "MigrationBlockers") {
      query.types.push_back(schema::PropertyType::kMigrationBlockers);
    } else {
      return absl::InvalidArgumentError(absl::StrCat(
          "property type is \"", type,
          "\"; use Basic, Memory, Statistics, CompatibilityInfo or MigrationBlockers"));
    }
  }
  if (query.types.empty()) query.types.push_back(schema::PropertyType::kBasic);
  return query;
}

milliseconds PatienceOf(const v1::StopVmRequest& request) {
  return request.timeout_ms() == 0 ? kStopTimeout : milliseconds(request.timeout_ms());
}

v1::Vm WithWarnings(v1::Vm vm, const SavedStates::Warnings& warnings) {
  for (const std::string& warning : warnings) vm.add_warnings(warning);
  return vm;
}

// Says so if it does not have the memory and CPUs that it is configured to have.
v1::Vm WithSizeNote(v1::Vm vm) {
  if (!vm.has_until_boot()) return vm;
  const v1::MachineSize& now = vm.until_boot();
  vm.add_warnings(
      absl::StrCat("it has ", SizeWords(now.memory_mb(), now.cpus()), " until its next boot, and ",
                   SizeWords(vm.spec().memory_mb(), vm.spec().cpus()), " from then on"));
  return vm;
}

// What the guest of a running VM says that it has of DHCP servers.
Task<void> AddLeases(std::shared_ptr<UtilityVm> vm, v1::Vm* description) {
  const std::shared_ptr<guest::Guest> guest = vm->guest();
  if (guest == nullptr || !guest->ready() || !AsksForLeases(description->spec())) co_return;
  // Only this call is given up: the guest may be slow, and others have longer.
  auto asked = guest->Leases();
  const absl::StatusOr<std::vector<bridge::NetworkLease>> told =
      co_await WithDeadline(kLeasesLimit, "the guest's agent", std::move(asked));
  if (!told.ok()) co_return;
  for (v1::NicLease& lease : LeasesOf(description->spec(), *told)) {
    *description->add_leases() = std::move(lease);
  }
}

}  // namespace

grpc::ServerUnaryReactor* VmService::CreateVm(grpc::CallbackServerContext* context,
                                              const v1::CreateVmRequest* request,
                                              v1::Vm* response) {
  return rpc::ServeUnary(context, executor(), request, response,
                         [this](const v1::CreateVmRequest& create) -> Task<absl::StatusOr<v1::Vm>> {
                           auto vm = co_await inventory_.Create(create);
                           if (!vm.ok()) co_return vm.status();
                           co_return (*vm)->Describe(true);
                         });
}

grpc::ServerUnaryReactor* VmService::GetVm(grpc::CallbackServerContext* context,
                                           const v1::VmRef* request, v1::Vm* response) {
  return rpc::ServeUnary(
      context, executor(), request, response,
      [this](const v1::VmRef& ref) -> Task<absl::StatusOr<v1::Vm>> {
        co_return co_await Describe(ref);
      },
      rpc::OnCallerGone::kCancel);
}

Task<absl::StatusOr<v1::Vm>> VmService::Describe(const v1::VmRef& request) {
  auto vm = inventory_.Find(request.vm());
  if (!vm.ok()) co_return vm.status();
  v1::Vm description = (*vm)->Describe(true);
  const v1::VmState state = (*vm)->state();
  if (state == v1::VM_STATE_RUNNING || state == v1::VM_STATE_PAUSED) {
    schema::PropertyQuery query;
    query.types = {schema::PropertyType::kBasic};
    auto properties = co_await (*vm)->GetProperties(query);
    if (properties.ok()) description.set_vmm_pid(properties->vmm_pid);
  }
  if (state == v1::VM_STATE_RUNNING) co_await AddLeases(*vm, &description);
  co_return description;
}

grpc::ServerUnaryReactor* VmService::ListVms(grpc::CallbackServerContext* context,
                                             const v1::ListVmsRequest* request,
                                             v1::ListVmsResponse* response) {
  return rpc::ServeUnary(
      context, executor(), request, response,
      [this](const v1::ListVmsRequest&) -> Task<absl::StatusOr<v1::ListVmsResponse>> {
        v1::ListVmsResponse list;
        for (const auto& vm : inventory_.List()) *list.add_vms() = vm->Describe(false);
        co_return list;
      },
      rpc::OnCallerGone::kCancel);
}

grpc::ServerUnaryReactor* VmService::StartVm(grpc::CallbackServerContext* context,
                                             const v1::StartVmRequest* request, v1::Vm* response) {
  return rpc::ServeUnary(context, executor(), request, response,
                         [this](const v1::StartVmRequest& start) -> Task<absl::StatusOr<v1::Vm>> {
                           auto vm = inventory_.Find(start.vm());
                           if (!vm.ok()) co_return vm.status();
                           auto started = co_await saves_.Start(*vm, start);
                           if (!started.ok()) co_return started.status();
                           co_return WithSizeNote(WithWarnings((*vm)->Describe(true), *started));
                         });
}

Task<absl::StatusOr<v1::Vm>> VmService::Stop(const v1::StopVmRequest& request) {
  auto vm = inventory_.Find(request.vm());
  if (!vm.ok()) co_return vm.status();
  auto stopped = co_await saves_.Stop(*vm, request, PatienceOf(request));
  if (!stopped.ok()) co_return stopped.status();
  co_return WithWarnings((*vm)->Describe(true), *stopped);
}

// A real reboot, whatever the VM does when it is stopped.
Task<absl::StatusOr<v1::Vm>> VmService::Restart(const v1::StopVmRequest& request) {
  if (request.save() || request.or_shutdown() || request.has_save_options()) {
    co_return absl::InvalidArgumentError("a restart never saves");
  }
  auto vm = inventory_.Find(request.vm());
  if (!vm.ok()) co_return vm.status();
  if ((*vm)->in_file()) co_return (*vm)->Refuse("restarted");
  CO_RETURN_IF_ERROR(co_await (*vm)->Stop(request.force(), PatienceOf(request)));
  CO_RETURN_IF_ERROR(co_await (*vm)->Start());
  co_return (*vm)->Describe(true);
}

grpc::ServerUnaryReactor* VmService::StopVm(grpc::CallbackServerContext* context,
                                            const v1::StopVmRequest* request, v1::Vm* response) {
  return rpc::ServeUnary(context, executor(), request, response,
                         [this](const v1::StopVmRequest& stop) -> Task<absl::StatusOr<v1::Vm>> {
                           co_return co_await Stop(stop);
                         });
}

grpc::ServerUnaryReactor* VmService::RestartVm(grpc::CallbackServerContext* context,
                                               const v1::StopVmRequest* request, v1::Vm* response) {
  return rpc::ServeUnary(context, executor(), request, response,
                         [this](const v1::StopVmRequest& stop) -> Task<absl::StatusOr<v1::Vm>> {
                           co_return co_await Restart(stop);
                         });
}

grpc::ServerUnaryReactor* VmService::SaveVm(grpc::CallbackServerContext* context,
                                            const v1::SaveVmRequest* request, v1::Vm* response) {
  return rpc::ServeUnary(context, executor(), request, response,
                         [this](const v1::SaveVmRequest& save) -> Task<absl::StatusOr<v1::Vm>> {
                           auto vm = inventory_.Find(save.vm());
                           if (!vm.ok()) co_return vm.status();
                           CO_RETURN_IF_ERROR(co_await saves_.Save(*vm, save));
                           co_return (*vm)->Describe(true);
                         });
}

grpc::ServerUnaryReactor* VmService::SetVm(grpc::CallbackServerContext* context,
                                           const v1::SetVmRequest* request, v1::Vm* response) {
  return rpc::ServeUnary(context, executor(), request, response,
                         [this](const v1::SetVmRequest& set) -> Task<absl::StatusOr<v1::Vm>> {
                           auto vm = inventory_.Find(set.vm());
                           if (!vm.ok()) co_return vm.status();
                           CO_RETURN_IF_ERROR(co_await (*vm)->Set(set));
                           if (!set.has_memory_mb() && !set.has_cpus()) {
                             co_return (*vm)->Describe(true);
                           }
                           co_return WithSizeNote((*vm)->Describe(true));
                         });
}

grpc::ServerUnaryReactor* VmService::PauseVm(grpc::CallbackServerContext* context,
                                             const v1::VmRef* request, v1::Vm* response) {
  return rpc::ServeUnary(
      context, executor(), request, response,
      [this](const v1::VmRef& ref) -> Task<absl::StatusOr<v1::Vm>> {
        auto vm = inventory_.Find(ref.vm());
        if (!vm.ok()) co_return vm.status();
        co_await (*vm)->AwaitSwitchover();
        co_await rpc::RunToEndFromHere();
        CO_RETURN_IF_ERROR(co_await (*vm)->Pause());
        co_return (*vm)->Describe(true);
      },
      rpc::OnCallerGone::kCancel);
}

grpc::ServerUnaryReactor* VmService::ResumeVm(grpc::CallbackServerContext* context,
                                              const v1::VmRef* request, v1::Vm* response) {
  return rpc::ServeUnary(
      context, executor(), request, response,
      [this](const v1::VmRef& ref) -> Task<absl::StatusOr<v1::Vm>> {
        auto vm = inventory_.Find(ref.vm());
        if (!vm.ok()) co_return vm.status();
        CO_RETURN_IF_ERROR(co_await (*vm)->AwaitMigrationsEnd());
        co_await rpc::RunToEndFromHere();
        CO_RETURN_IF_ERROR(co_await (*vm)->Resume());
        co_return (*vm)->Describe(true);
      },
      rpc::OnCallerGone::kCancel);
}

grpc::ServerUnaryReactor* VmService::DeleteVm(grpc::CallbackServerContext* context,
                                              const v1::DeleteVmRequest* request,
                                              v1::DeleteVmResponse* response) {
  return rpc::ServeUnary(
      context, executor(), request, response,
      [this](const v1::DeleteVmRequest& remove) -> Task<absl::StatusOr<v1::DeleteVmResponse>> {
        auto vm = inventory_.Find(remove.vm());
        if (!vm.ok()) co_return vm.status();
        CO_RETURN_IF_ERROR(co_await saves_.Delete(*vm, remove.discard_saved()));
        co_return v1::DeleteVmResponse();
      });
}

grpc::ServerUnaryReactor* VmService::GetProperties(grpc::CallbackServerContext* context,
                                                   const v1::GetPropertiesRequest* request,
                                                   v1::GetPropertiesResponse* response) {
  return rpc::ServeUnary(
      context, executor(), request, response,
      [this](
          const v1::GetPropertiesRequest& get) -> Task<absl::StatusOr<v1::GetPropertiesResponse>> {
        CO_ASSIGN_OR_RETURN(const schema::PropertyQuery query, ToQuery(get));
        auto vm = inventory_.Find(get.vm());
        if (!vm.ok()) co_return vm.status();
        auto properties = co_await (*vm)->GetProperties(query);
        if (!properties.ok()) co_return properties.status();
        v1::GetPropertiesResponse result;
        result.set_properties_json(schema::ToJson(*properties));
        co_return result;
      },
      rpc::OnCallerGone::kCancel);
}

}  // namespace ferry::vm
