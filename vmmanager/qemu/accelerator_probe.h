#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"

// Chooses the accelerator by measuring it: a /dev/kvm that opens, runs one instruction and then
// crawls exists in the wild, so only a finished loop counts.
namespace ferry::vm {

struct AcceleratorChoice {
  std::string accelerator;  // "kvm" or "tcg"
  std::string reason;       // for people
};

// A 64 KiB firmware image whose real-mode loop of `iterations` ends in an exit through
// isa-debug-exit.
std::string MakeLoopRom(uint32_t iterations);

// Decides from the two loop times (negative: it did not finish in its time). Pure.
AcceleratorChoice ChooseAccelerator(milliseconds tcg, milliseconds kvm);

// Measures both accelerators with `binary`, or takes the result of a former measurement from
// `state_dir`, valid for the same boot and the same binary.
Task<absl::StatusOr<AcceleratorChoice>> ProbeAccelerator(std::string binary, std::string state_dir,
                                                         bool allow_kvm);

}  // namespace ferry::vm
