#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "bridge/runtime/async.h"
#include "guestmanager/guest_log.h"

namespace ferry::vm {

// Spares the guest work at boot; docs/guest-image.md says what each of them is for.
inline constexpr char kDefaultKernelArgs[] =
    "loglevel=1 panic=-1 random.trust_cpu=on no_timer_check cryptomgr.notests 8250.nr_uarts=1 "
    "i8042.noprobe=1 edd=off";

// The firmware of VMs that start by UEFI.
struct FirmwareSettings {
  std::string folder;     // has the variable stores of this host's VMs
  std::string code;       // OVMF, which VMs only read
  std::string variables;  // the empty store that belongs to it
  std::optional<std::pair<uid_t, gid_t>> owner = std::nullopt;  // the VMM's user, if it has one
};

// What a host's administrator decides for all its VMs.
struct HostSettings {
  std::string advertised_address;  // where clients and peers reach this daemon
  std::string kernel;              // the default guest image
  std::string initrd;
  std::string kernel_args = kDefaultKernelArgs;  // appended to every VM's command line
  FirmwareSettings firmware;
  std::string
      spool_folder;  // has a folder per VM with its detached processes' output; may be empty
  std::string state_folder;            // where the host keeps its state; empty: nowhere
  uint64_t memory_reserve_mb = 0;      // that VMs which arrive must leave to the host
  bool use_vsock = false;              // AF_VSOCK instead of the virtio-serial multiplexer
  milliseconds boot_timeout{180'000};  // until the agent is ready; generous, because TCG is slow
  // For a migration's outcome, or a guest's word of its stdin (AttachCall). A client waits for
  // several of these (ferryctl: 45 s in one call).
  milliseconds outcome_wait{10'000};
  // For an agent that is away: it dials again within milliseconds if it can.
  milliseconds agent_wait{5'000};
  // For an agent's answer about a process.
  milliseconds answer_wait{12'000};
  // For a disk that is just changing over, when the daemon stops.
  milliseconds switch_wait{5'000};
  // For a guest's filesystems to be frozen, from the wish to the end of it.
  milliseconds quiesce_limit{30'000};
  // Between two tries of what a full disk, or a VMM that does not answer, keeps from being done.
  milliseconds retry_pause{2'000};
  // What the logs of all guests take from.
  std::shared_ptr<guest::LogAllowance> log_allowance =
      std::make_shared<guest::LogAllowance>(guest::LogAllowance::kTotalLines);
};

}  // namespace ferry::vm
