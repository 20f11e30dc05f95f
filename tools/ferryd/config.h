#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "vmmanager/rpc/channel.h"
#include "vmmanager/sandbox/host_settings.h"

namespace ferry::tools {

// What an administrator says about a host. A configuration file (YAML, the flags' names) gives the
// values; flags win over it.
struct FerrydConfig {
  std::string state_dir = "/var/lib/ferry";
  std::string socket;               // where ferryctl looks, or in a state_dir that was chosen
  std::vector<std::string> listen;  // TCP, "host:port"
  bool insecure_tcp = false;        // TCP without certificates: anyone who connects is trusted
  rpc::TlsFiles tls;
  std::string fence_lock_dir;  // of the VMs' locks; empty: in the state folder
  std::string advertise;       // how clients and peers reach this daemon
  std::string
      migration_listen;  // where migrations arrive; empty: any port beside the first `listen`
  std::string migration_advertise;  // HOST or HOST:PORT that sources dial; empty: see config.cc
  std::string kernel;               // default guest image
  std::string initrd;
  std::string kernel_args = vm::kDefaultKernelArgs;
  std::string ovmf_code = "/usr/share/OVMF/OVMF_CODE_4M.fd";
  std::string ovmf_variables = "/usr/share/OVMF/OVMF_VARS_4M.fd";
  std::string failpoint;  // only in builds for tests: where the daemon kills itself, or stops
  milliseconds boot_timeout = vm::HostSettings().boot_timeout;
  milliseconds answer_timeout = vm::HostSettings().answer_wait;
  bool save_on_stop = false;  // of VMs that do not say
  bool stop_vms = false;      // told to end, it stops them first: its host goes down
  milliseconds stop_vms_within{300'000};
  std::string unattended_save = "shutdown";  // of what cannot be saved then: require or shutdown
  milliseconds stall_timeout{30'000};        // of a migration that moves no byte; 0: none
  uint64_t memory_reserve_mb = 0;            // that arriving VMs must leave free
  std::string qemu = "/usr/bin/qemu-system-x86_64";
  std::string virtiofsd = "/usr/lib/qemu/virtiofsd";
  std::map<std::string, std::string> bridges;  // that stand here for those of other names
  std::string qemu_user;                       // QEMU runs as this user; empty: the daemon's
  std::string cgroup = "auto";  // where each QEMU gets a control group: auto, none or a path
  int nice = -10;               // ferryd's own; QEMU gets the one that ferryd was started with
  bool no_kvm = false;
  std::string guest_link = "auto";  // auto, vsock or virtio-serial
  std::string log_level = "info";
};

// Parses the command line. Prints help or usage errors itself; `exit_code` is set when the program
// is to end right away.
absl::StatusOr<FerrydConfig> ParseCommandLine(int argc, char** argv, int* exit_code);

// Whether VMs that are made from now on get vsock. `works` is asked where the host is to find out.
bool UsesVsock(const FerrydConfig& config, const std::function<bool()>& works);

}  // namespace ferry::tools
