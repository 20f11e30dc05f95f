#include "vmmanager/qemu/qemu_backend.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/qemu/accelerator_probe.h"
#include "vmmanager/qemu/cpu_models.h"
#include "vmmanager/qemu/host_memory.h"
#include "vmmanager/qemu/qemu_cards.h"
#include "vmmanager/qemu/qemu_command_line.h"
#include "vmmanager/qemu/qemu_compute_system.h"
#include "vmmanager/qemu/qemu_sweep.h"

namespace ferry::vm {
namespace {

absl::Status CheckId(const std::string& id) {
  constexpr size_t kUuidText = 36;
  bool valid = id.size() == kUuidText;
  for (size_t i = 0; valid && i < id.size(); ++i) {
    const bool dash = i == 8 || i == 13 || i == 18 || i == 23;
    valid = dash ? id[i] == '-' : absl::ascii_isxdigit(static_cast<unsigned char>(id[i]));
  }
  if (valid) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the VM's id '", id, "' is not a UUID"));
}

absl::Status CheckCpuModel(const BackendInfo& info, const std::string& name) {
  const CpuModel* model = info.FindCpuModel(name);
  if (model == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("QEMU ", info.version, " on this host lacks the CPU model ", name));
  }
  if (model->missing_features.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("this host's CPUs (", info.accelerator,
                                                    ") lack of the CPU model ", name, ": ",
                                                    absl::StrJoin(model->missing_features, ", ")));
}

absl::Status CheckShares(const QemuHost& host, const schema::VirtualMachine& machine) {
  if (machine.devices.shares.empty()) return absl::OkStatus();
  if (!host.capabilities.devices.contains("vhost-user-fs-pci")) {
    return absl::FailedPreconditionError(absl::StrCat(
        "QEMU ", host.info.version, " on this host cannot share folders: it lacks vhost-user-fs"));
  }
  if (::access(host.config.virtiofsd.c_str(), X_OK) == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("this host cannot share folders: there is no program ", host.config.virtiofsd,
                   "; ferryd --virtiofsd says where it is"));
}

absl::Status CheckFirmware(const schema::VirtualMachine& machine) {
  const auto& uefi = machine.chipset.uefi;
  if (!uefi || ::access(uefi->code_path.c_str(), R_OK) == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("there is no firmware ", uefi->code_path,
                   " on this host; on Debian it comes with the package ovmf"));
}

absl::Status CheckDocument(const QemuHost& host, const std::string& id,
                           const schema::ComputeSystem& document) {
  RETURN_IF_ERROR(CheckId(id));
  CommandLineContext context;
  context.accelerator = host.info.accelerator;
  context.default_machine = host.info.machine_type;
  RETURN_IF_ERROR(BuildCommandLine(id, document.virtual_machine, context).status());
  RETURN_IF_ERROR(CheckShares(host, document.virtual_machine));
  RETURN_IF_ERROR(CheckFirmware(document.virtual_machine));
  const std::string machine = MachineTypeOf(document.virtual_machine, host.info.machine_type);
  if (!host.capabilities.machine_types.contains(machine)) {
    return absl::FailedPreconditionError(
        absl::StrCat("QEMU ", host.info.version, " on this host lacks the machine type ", machine));
  }
  if (document.virtual_machine.platform.layout > host.info.layout) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the machine has layout ", document.virtual_machine.platform.layout,
        ", and this host with its QEMU ", host.info.version, " has up to ", host.info.layout));
  }
  return CheckCpuModel(host.info, CpuModelOf(document.virtual_machine, host.info.accelerator));
}

Task<absl::StatusOr<AcceleratorChoice>> ChooseAcceleratorOf(const QemuBackendConfig& config) {
  if (config.user && config.allow_kvm && !MayReadAndWrite(*config.user, "/dev/kvm")) {
    co_return AcceleratorChoice{"tcg", absl::StrCat("/dev/kvm is missing, or the user ",
                                                    config.user->name, " may not open it")};
  }
  co_return co_await ProbeAccelerator(config.binary, config.state_dir, config.allow_kvm);
}

}  // namespace

Task<absl::StatusOr<std::unique_ptr<QemuBackend>>> QemuBackend::Open(Executor executor,
                                                                     QemuBackendConfig config) {
  std::error_code error;
  std::filesystem::create_directories(config.state_dir, error);
  if (error || ::chmod(config.state_dir.c_str(), 0700) != 0) {
    co_return absl::FailedPreconditionError(
        absl::StrCat("cannot use the state folder '", config.state_dir, "'"));
  }
  if (!config.make_link) {
    co_return absl::InvalidArgumentError("the QEMU backend needs a guest link factory");
  }
  auto host = std::make_shared<QemuHost>(executor, std::move(config));
  CO_ASSIGN_OR_RETURN(host->capabilities, co_await ProbeCapabilities(host->config.binary));
  CO_ASSIGN_OR_RETURN(const AcceleratorChoice choice, co_await ChooseAcceleratorOf(host->config));
  host->info = {.name = "qemu",
                .version = host->capabilities.version,
                .accelerator = choice.accelerator,
                .accelerator_reason = choice.reason,
                .machine_type = host->capabilities.machine_type,
                .cpu_model = CpuModelOf(schema::VirtualMachine(), choice.accelerator),
                .layout = host->capabilities.lean_machine ? kLeanLayout : 0};
  host->info.machine_types.assign(host->capabilities.machine_types.begin(),
                                  host->capabilities.machine_types.end());
  CO_ASSIGN_OR_RETURN(host->info.cpu_models,
                      co_await ProbeCpuModels(host->config.binary, choice.accelerator));
  co_return std::unique_ptr<QemuBackend>(new QemuBackend(std::move(host)));
}

const BackendInfo& QemuBackend::info() const { return host_->info; }

absl::StatusOr<HostMemory> QemuBackend::memory() const { return ReadHostMemory(); }

Task<absl::Status> QemuBackend::CheckAdapter(schema::NetworkAdapter adapter) {
  const std::shared_ptr<const QemuHost> host = host_;
  co_return co_await CheckCard(host->config.network, std::move(adapter));
}

Task<absl::StatusOr<std::unique_ptr<ComputeSystem>>> QemuBackend::Create(
    const std::string& id, const schema::ComputeSystem& document) {
  CO_RETURN_IF_ERROR(CheckDocument(*host_, id, document));
  co_return std::make_unique<QemuComputeSystem>(host_, id, document);
}

Task<absl::StatusOr<std::unique_ptr<ComputeSystem>>> QemuBackend::Adopt(
    const std::string& id, const schema::ComputeSystem& document,
    const std::string& adoption_record) {
  CO_RETURN_IF_ERROR(CheckId(id));
  auto system = std::make_unique<QemuComputeSystem>(host_, id, document);
  CO_RETURN_IF_ERROR(co_await system->Adopt(adoption_record));
  co_return system;
}

Task<void> QemuBackend::EndAllBut(std::vector<std::string> adoption_records) {
  co_await SweepQemuFolders(host_->executor, host_->config.state_dir, host_->config.cgroup_parent,
                            std::move(adoption_records));
}

}  // namespace ferry::vm
