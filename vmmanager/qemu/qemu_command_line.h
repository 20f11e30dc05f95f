#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "vmmanager/backend/shares.h"
#include "vmmanager/schema/compute_system.h"

// From a machine document to QEMU's command line, as pure data.
namespace ferry::vm {

// Numbers under which QEMU inherits its listening sockets, and what it only keeps open.
inline constexpr int kQmpFd = 10;
inline constexpr int kSpareQmpFd = 11;
inline constexpr int kBridgeFd = 12;
inline constexpr int kConsoleFd = 13;
inline constexpr int kKeptFd = 14;
inline constexpr int kStatePipeFd = 15;
// And its connections to those who serve shared folders, by the folders' numbers.
inline constexpr int kFirstShareFd = 20;
// And the host's ends of its network cards, by the cards' numbers.
inline constexpr int kFirstAdapterFd = 30;

// Name of the virtio-serial port that the guest agent opens.
inline constexpr char kBridgePortName[] = "ferry.bridge";

// Layouts of a machine (schema::Platform::layout). 0: virtio devices of version 1, each of which
// migrates as a table of 1024 queues (45 KB), a SATA controller and a mouse, and a description of
// all that behind the state (46 KB). Lean: legacy virtio devices and nothing of the rest. What a
// layout means never changes; what would change it is the next one.
inline constexpr uint32_t kLeanLayout = 1;

// Options of the machine in the lean layout.
struct MachineOption {
  const char* name;
  const char* value;
};
inline constexpr MachineOption kLeanMachine[] = {
    {"suppress-vmdesc", "on"}, {"sata", "off"}, {"vmport", "off"}};

// What the host adds to the document.
struct CommandLineContext {
  std::string binary;
  std::string accelerator;      // "tcg" or "kvm"
  std::string default_machine;  // versioned
  bool incoming = false;        // a migration's destination
  std::vector<std::string> extra_arguments;
};

// The machine type and CPU model that a document gets on this host.
std::string MachineTypeOf(const schema::VirtualMachine& machine, const std::string& fallback);
std::string CpuModelOf(const schema::VirtualMachine& machine, const std::string& accelerator);

// INVALID_ARGUMENT names the member of the document that cannot be built.
absl::StatusOr<std::vector<std::string>> BuildCommandLine(const std::string& id,
                                                          const schema::VirtualMachine& machine,
                                                          const CommandLineContext& context);

// Stem of a disk's block node names and device id: derived from its name (or its place if it has
// none), the same on every host, valid for QEMU.
std::string DiskStem(const std::string& controller, const std::string& lun,
                     const schema::Attachment& disk);

// A value inside a QEMU option list: commas are doubled.
std::string EscapeOption(const std::string& value);

// Controller numbers are 0 to 7, LUNs 0 to 255; INVALID_ARGUMENT names `what` otherwise.
absl::StatusOr<uint32_t> ParseSlot(const std::string& text, uint32_t limit, const char* what);

inline constexpr uint32_t kMaxControllers = 8;

}  // namespace ferry::vm
