#include "vmmanager/sandbox/host_description.h"

#include "vmmanager/backend/compute_system.h"

namespace ferry::vm {
namespace {

constexpr uint32_t kApiVersion = 1;

}  // namespace

v1::Host DescribeHost(const SandboxDeps& deps, const ProgramInfo& program) {
  const BackendInfo& backend = deps.backend.info();
  v1::Host host;
  host.set_version(program.version);
  host.set_advertised_address(deps.settings.advertised_address);
  host.set_backend(backend.name);
  host.set_backend_version(backend.version);
  host.set_accelerator(backend.accelerator);
  host.set_accelerator_reason(backend.accelerator_reason);
  host.set_machine_type(backend.machine_type);
  host.set_guest_link(deps.settings.use_vsock ? "vsock" : "virtio-serial");
  host.set_journal_id(deps.store.journal_id());
  host.set_api_version(kApiVersion);
  host.set_fence(deps.fence.level());
  for (const CpuModel& model : backend.cpu_models) {
    if (model.missing_features.empty()) host.add_cpu_models(model.name);
  }
  for (const std::string& type : backend.machine_types) host.add_machine_types(type);
  if (const auto memory = deps.backend.memory(); memory.ok()) {
    host.set_memory_mb(memory->total_mb);
    host.set_memory_available_mb(memory->available_mb);
  }
  host.mutable_format_versions()->insert(program.formats.begin(), program.formats.end());
  return host;
}

}  // namespace ferry::vm
