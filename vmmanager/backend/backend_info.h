#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace ferry::vm {

// A CPU model by one of the VMM's names.
struct CpuModel {
  std::string name;
  // What belongs to it and this host cannot give; if there is nothing, a VM can be pinned to it.
  std::vector<std::string> missing_features;
  // What it has here, sorted, if it is a model that means another thing on each host.
  std::vector<std::string> host_features;
};

// What this host's backend can do; told to users and put into fingerprints.
struct BackendInfo {
  std::string name;                        // "qemu", "fake"
  std::string version;                     // "7.2.22"
  std::string accelerator;                 // "kvm", "tcg"
  std::string accelerator_reason;          // for people: why not KVM
  std::string machine_type;                // versioned default, e.g. "pc-q35-7.2"
  std::string cpu_model;                   // of VMs that ask for none
  uint32_t layout = 0;                     // of new VMs, the newest; see schema::Platform
  std::vector<std::string> machine_types;  // all that it has
  std::vector<CpuModel> cpu_models;        // all that it knows

  bool HasMachineType(const std::string& type) const {
    for (const std::string& known : machine_types) {
      if (known == type) return true;
    }
    return false;
  }
  // nullptr if it does not know that model.
  const CpuModel* FindCpuModel(const std::string& model) const {
    for (const CpuModel& known : cpu_models) {
      if (known.name == model) return &known;
    }
    return nullptr;
  }
};

// The memory of a host, or of the part of it that its VMs are limited to.
struct HostMemory {
  uint64_t total_mb = 0;
  uint64_t available_mb = 0;
};

}  // namespace ferry::vm
