#pragma once

#include <string>

#include "absl/status/status.h"
#include "vmmanager/backend/compute_system.h"

// What people are told about a compute system that has ended: why, its last words, what to do.
namespace ferry::vm {

// Whether nobody wanted it to end.
bool Failed(const SystemExit& exit);

// Completes "VM web ...".
std::string ExitText(const SystemExit& exit);

// `text` and, below it, what the VMM and the guest's console said last, if they said anything.
std::string WithLastWords(const std::string& text, const SystemExit& exit);

// UNAVAILABLE "vm_ended", for whoever used the VM.
absl::Status VmEnded(const std::string& name, const SystemExit& exit);

// UNAVAILABLE "vm_ended_at_boot", for whoever started it.
absl::Status VmEndedAtBoot(const std::string& name, const SystemExit& exit);

// DEADLINE_EXCEEDED "agent_not_ready", for whoever started it: `timeout` says who gave no answer
// for how long; says so if it was `ended` for that.
absl::Status AgentNotReady(const std::string& name, const absl::Status& timeout, bool ended,
                           const SystemExit& exit);

}  // namespace ferry::vm
