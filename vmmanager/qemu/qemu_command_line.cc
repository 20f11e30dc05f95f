#include "vmmanager/qemu/qemu_command_line.h"

#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "bridge/network/address.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/backend/adapters.h"

namespace ferry::vm {
namespace {

using Words = std::vector<std::string>;

// Slots on the root bus. They are part of what a migration's two sides must agree on: never move
// one, only add.
constexpr int kSerialSlot = 4;
constexpr int kVsockSlot = 5;
constexpr int kRngSlot = 6;
constexpr uint32_t kFirstScsiSlot = 8;
constexpr uint32_t kFirstShareSlot = 16;
constexpr uint32_t kFirstAdapterSlot = 24;
constexpr uint32_t kLastFreeSlot = 30;
static_assert(kFirstScsiSlot + kMaxControllers <= kFirstShareSlot);
static_assert(kFirstShareSlot + kMaxShares <= kFirstAdapterSlot);
static_assert(kFirstAdapterSlot + kMaxAdapters <= kLastFreeSlot + 1);
static_assert(kFirstShareFd + static_cast<int>(kMaxShares) <= kFirstAdapterFd);

constexpr size_t kMaxNodeStem = 20;  // QEMU allows node names of 31 characters
constexpr char kSharedMemory[] = "ram0";
constexpr char kFirmwareCode[] = "firmware-code";

void Append(Words& words, std::initializer_list<std::string> more) {
  words.insert(words.end(), more);
}

std::string OnBus(const std::string& device, int slot) {
  return absl::StrCat(device, ",bus=pcie.0,addr=0x", absl::Hex(slot));
}

bool IsLean(const schema::VirtualMachine& machine) {
  return machine.platform.layout == kLeanLayout;
}

// A virtio device that has both interfaces.
std::string VirtioOnBus(const schema::VirtualMachine& machine, const std::string& device,
                        int slot) {
  const char* legacy = ",disable-legacy=off,disable-modern=on";
  return OnBus(absl::StrCat(device, IsLean(machine) ? legacy : ""), slot);
}

std::string MachineOf(const schema::VirtualMachine& machine, const std::string& fallback) {
  std::string option = EscapeOption(MachineTypeOf(machine, fallback));
  if (!machine.devices.shares.empty()) absl::StrAppend(&option, ",memory-backend=", kSharedMemory);
  if (machine.chipset.uefi) {
    absl::StrAppend(&option, ",pflash0=", kFirmwareCode, ",pflash1=", schema::Uefi::kStoreName);
  }
  if (!IsLean(machine)) return option;
  for (const auto& [name, value] : kLeanMachine) absl::StrAppend(&option, ",", name, "=", value);
  return option;
}

std::string ListeningSocket(const std::string& id, int fd) {
  return absl::StrCat("socket,id=", id, ",fd=", fd, ",server=on,wait=off");
}

// Under software emulation QEMU (fixed in 9.0) loses track of pages that a guest writes during a
// migration: for a memory block of a multiple of 64 pages it clears their dirty bits all at once
// and leaves the emulator's own note that they are dirty. Two pages more than asked for make it
// look at each page. All versions get them, for both sides must have the same memory.
std::string MemoryOf(const schema::VirtualMachine& machine, const std::string& accelerator) {
  const uint64_t megabytes = machine.compute_topology.memory.size_in_mb;
  constexpr uint64_t kKibInMib = 1024;
  constexpr uint64_t kTwoPagesInKib = 8;
  if (accelerator != "tcg") return absl::StrCat(megabytes, "M");
  return absl::StrCat(megabytes * kKibInMib + kTwoPagesInKib, "K");
}

void AddMachine(Words& words, const std::string& id, const schema::VirtualMachine& machine,
                const CommandLineContext& context) {
  Append(words, {"-name", absl::StrCat("guest=", id), "-uuid", id});
  Append(words, {"-machine", MachineOf(machine, context.default_machine)});
  Append(words, {"-accel", context.accelerator});
  Append(words, {"-cpu", EscapeOption(CpuModelOf(machine, context.accelerator))});
  const std::string memory = MemoryOf(machine, context.accelerator);
  Append(words, {"-m", memory});
  // Whoever serves a folder reads from and writes to the guest's memory.
  if (!machine.devices.shares.empty()) {
    Append(words, {"-object", absl::StrCat("memory-backend-memfd,id=", kSharedMemory,
                                           ",share=on,size=", memory)});
  }
  Append(words, {"-smp", absl::StrCat(machine.compute_topology.processor.count)});
  Append(words, {"-nodefaults", "-no-user-config", "-nographic", "-display", "none"});
  Append(words, {"-vga", "none", "-S"});
  Append(words,
         {"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"});
  Append(words, {"-action", "reboot=shutdown,shutdown=pause,panic=pause"});
}

// A flash chip: plain bytes in a file, which is as large as the chip.
void AddFlash(Words& words, const std::string& node, const std::string& path, bool read_only) {
  const char* mode = read_only ? "on" : "off";
  Append(words, {"-blockdev", absl::StrCat("driver=file,node-name=", node, "-file,read-only=", mode,
                                           ",filename=", EscapeOption(path))});
  Append(words, {"-blockdev", absl::StrCat("driver=raw,node-name=", node, ",read-only=", mode,
                                           ",file=", node, "-file")});
}

absl::Status AddFirmware(Words& words, const schema::VirtualMachine& machine) {
  const auto& uefi = machine.chipset.uefi;
  if (!uefi) return absl::OkStatus();
  if (uefi->code_path.empty() || uefi->store_path.empty()) {
    return absl::InvalidArgumentError(
        "Chipset.Uefi needs the firmware's CodeFilePath and StoreFilePath");
  }
  AddFlash(words, kFirmwareCode, uefi->code_path, true);
  AddFlash(words, schema::Uefi::kStoreName, uefi->store_path, false);
  return absl::OkStatus();
}

void AddKernel(Words& words, const schema::VirtualMachine& machine) {
  const auto& kernel = machine.chipset.linux_kernel_direct;
  if (!kernel) return;
  Append(words, {"-kernel", kernel->kernel_file_path});
  if (!kernel->init_rd_path.empty()) Append(words, {"-initrd", kernel->init_rd_path});
  std::string line = "console=ttyS0 quiet";
  if (!kernel->kernel_cmd_line.empty()) absl::StrAppend(&line, " ", kernel->kernel_cmd_line);
  const auto& socket = machine.devices.hv_socket;
  if (socket && socket->guest_cid != 0) line += " ferry.link=vsock";
  Append(words, {"-append", line});
}

void AddMonitors(Words& words) {
  Append(words, {"-chardev", ListeningSocket("qmp0", kQmpFd)});
  Append(words, {"-mon", "chardev=qmp0,mode=control"});
  Append(words, {"-chardev", ListeningSocket("qmp1", kSpareQmpFd)});
  Append(words, {"-mon", "chardev=qmp1,mode=control"});
  // Without a reader what the guest says is dropped: it never waits for one.
  Append(words, {"-chardev", ListeningSocket("console0", kConsoleFd)});
  Append(words, {"-serial", "chardev:console0"});
}

void AddGuestLink(Words& words, const schema::VirtualMachine& machine) {
  const auto& socket = machine.devices.hv_socket;
  if (socket && socket->guest_cid != 0) {
    const std::string device =
        absl::StrCat("vhost-vsock-pci,id=vsock0,guest-cid=", socket->guest_cid);
    Append(words, {"-device", OnBus(device, kVsockSlot)});
    return;
  }
  Append(words, {"-chardev", ListeningSocket("bridge0", kBridgeFd)});
  Append(words, {"-device",
                 VirtioOnBus(machine, "virtio-serial-pci,id=serial0,max_ports=2", kSerialSlot)});
  Append(words, {"-device", absl::StrCat("virtserialport,id=bridgeport0,bus=serial0.0,nr=1,",
                                         "chardev=bridge0,name=", kBridgePortName)});
}

absl::Status AddDisk(Words& words, std::set<std::string>& stems, const std::string& controller,
                     const std::string& lun_text, const schema::Attachment& disk) {
  ASSIGN_OR_RETURN(const uint32_t lun,
                   ParseSlot(lun_text, schema::Scsi::kMaxLuns, "Devices.Scsi LUN"));
  if (disk.path.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the disk at Scsi/", controller, "/", lun_text, " has no Path"));
  }
  if (disk.format != "qcow2" && disk.format != "raw") {
    return absl::InvalidArgumentError(absl::StrCat("the disk ", disk.path, " has the format '",
                                                   disk.format, "'; qcow2 and raw are possible"));
  }
  const std::string stem = DiskStem(controller, lun_text, disk);
  if (!stems.insert(stem).second) {
    return absl::InvalidArgumentError(
        absl::StrCat("two disks are named '", disk.name, "'; give each its own name"));
  }
  const std::string read_only = disk.read_only ? "on" : "off";
  Append(words, {"-blockdev", absl::StrCat("driver=file,node-name=", stem, "-file,read-only=",
                                           read_only, ",filename=", EscapeOption(disk.path))});
  Append(words, {"-blockdev", absl::StrCat("driver=", disk.format, ",node-name=", stem,
                                           "-fmt,read-only=", read_only, ",file=", stem, "-file")});
  // A guest that is told of an error gives its filesystem up; one that stands still goes on later.
  Append(words, {"-device", absl::StrCat("scsi-hd,id=", stem, ",bus=scsi", controller,
                                         ".0,scsi-id=0,lun=", lun, ",drive=", stem,
                                         "-fmt,werror=stop,rerror=stop")});
  return absl::OkStatus();
}

absl::Status AddDisks(Words& words, const schema::VirtualMachine& machine) {
  // Controller 0 is always there: disks can be added to it later, controllers can't.
  std::set<uint32_t> controllers = {0};
  for (const auto& [controller, scsi] : machine.devices.scsi) {
    ASSIGN_OR_RETURN(const uint32_t number,
                     ParseSlot(controller, kMaxControllers, "Devices.Scsi controller"));
    controllers.insert(number);
  }
  for (const uint32_t number : controllers) {
    Append(words, {"-device", VirtioOnBus(machine, absl::StrCat("virtio-scsi-pci,id=scsi", number),
                                          static_cast<int>(kFirstScsiSlot + number))});
  }
  std::set<std::string> stems;
  for (const auto& [controller, scsi] : machine.devices.scsi) {
    for (const auto& [lun, disk] : scsi.attachments) {
      RETURN_IF_ERROR(AddDisk(words, stems, controller, lun, disk));
    }
  }
  return absl::OkStatus();
}

absl::Status AddShares(Words& words, const schema::VirtualMachine& machine, bool incoming) {
  if (incoming && !machine.devices.shares.empty()) {
    return absl::InvalidArgumentError("a machine that shares folders of its host cannot come here");
  }
  for (const auto& [number_text, share] : machine.devices.shares) {
    ASSIGN_OR_RETURN(const uint32_t number,
                     ParseSlot(number_text, kMaxShares, "Devices.Ferry.VirtioFs"));
    if (share.path.empty() || share.path[0] != '/') {
      return absl::InvalidArgumentError(absl::StrCat("the share ", number_text, " has the Path '",
                                                     share.path, "', which is not absolute"));
    }
    const std::string id = absl::StrCat("share", number);
    const auto place = static_cast<int>(number);
    Append(words, {"-chardev", absl::StrCat("socket,id=", id, ",fd=", kFirstShareFd + place)});
    const std::string device = absl::StrCat("vhost-user-fs-pci,id=", id, "-dev,chardev=", id,
                                            ",tag=", ShareTag(number_text));
    Append(words, {"-device", OnBus(device, static_cast<int>(kFirstShareSlot) + place)});
  }
  return absl::OkStatus();
}

// Without a ROM, which would be a part of the machine's memory that both hosts must have alike.
absl::Status AddAdapter(Words& words, const schema::VirtualMachine& machine,
                        const std::string& number_text, const schema::NetworkAdapter& adapter) {
  ASSIGN_OR_RETURN(const uint32_t number,
                   ParseSlot(number_text, kMaxAdapters, "Devices.NetworkAdapters"));
  ASSIGN_OR_RETURN(const net::MacAddress mac, net::ParseMac(adapter.mac_address));
  const int places =
      (adapter.user ? 1 : 0) + (adapter.bridge.empty() ? 0 : 1) + (adapter.tap.empty() ? 0 : 1);
  if (places != 1 || mac.is_multicast() || mac.is_zero()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the network card ", number_text,
                     " needs one of Bridge, Tap and User, and a MAC address of its own"));
  }
  for (const std::string& name : {adapter.bridge, adapter.tap}) {
    if (name.empty() || net::IsInterfaceName(name)) continue;
    return absl::InvalidArgumentError(absl::StrCat("the network card ", number_text,
                                                   " is plugged into what cannot be a name of an "
                                                   "interface"));
  }
  const std::string id = absl::StrCat("net", number);
  const int place = static_cast<int>(number);
  Append(words,
         {"-netdev", adapter.user ? absl::StrCat("user,id=", id)
                                  : absl::StrCat("tap,id=", id, ",fd=", kFirstAdapterFd + place)});
  const std::string device = absl::StrCat("virtio-net-pci,id=nic", number, ",netdev=", id,
                                          ",mac=", mac.ToString(), ",romfile=");
  Append(words,
         {"-device", VirtioOnBus(machine, device, static_cast<int>(kFirstAdapterSlot) + place)});
  return absl::OkStatus();
}

absl::Status AddAdapters(Words& words, const schema::VirtualMachine& machine) {
  for (const auto& [number, adapter] : machine.devices.network_adapters) {
    RETURN_IF_ERROR(AddAdapter(words, machine, number, adapter));
  }
  return absl::OkStatus();
}

}  // namespace

std::string EscapeOption(const std::string& value) {
  return absl::StrReplaceAll(value, {{",", ",,"}});
}

std::string MachineTypeOf(const schema::VirtualMachine& machine, const std::string& fallback) {
  return machine.platform.machine_type.empty() ? fallback : machine.platform.machine_type;
}

std::string CpuModelOf(const schema::VirtualMachine& machine, const std::string& accelerator) {
  if (!machine.platform.cpu_model.empty()) return machine.platform.cpu_model;
  return accelerator == "kvm" ? "host" : "max";
}

absl::StatusOr<uint32_t> ParseSlot(const std::string& text, uint32_t limit, const char* what) {
  uint32_t number = 0;
  if (!absl::SimpleAtoi(text, &number) || number >= limit || absl::StrCat(number) != text) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, " '", text, "' must be a number from 0 to ", limit - 1));
  }
  return number;
}

std::string DiskStem(const std::string& controller, const std::string& lun,
                     const schema::Attachment& disk) {
  const std::string place = absl::StrCat(controller, "-", lun);
  if (disk.name.empty()) return absl::StrCat("disk-", place);
  std::string stem = "disk-";
  bool changed = disk.name.size() > kMaxNodeStem - stem.size();
  for (const char c : disk.name.substr(0, kMaxNodeStem - stem.size())) {
    const bool plain = absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_';
    stem += plain ? c : '_';
    changed = changed || !plain;
  }
  // A name that had to be changed gets its place too, so that two such names stay different.
  return changed ? absl::StrCat(stem.substr(0, kMaxNodeStem - 6), ".", place) : stem;
}

absl::StatusOr<std::vector<std::string>> BuildCommandLine(const std::string& id,
                                                          const schema::VirtualMachine& machine,
                                                          const CommandLineContext& context) {
  if (machine.compute_topology.memory.size_in_mb == 0) {
    return absl::InvalidArgumentError("ComputeTopology.Memory.SizeInMB must be at least 1");
  }
  if (machine.compute_topology.processor.count == 0) {
    return absl::InvalidArgumentError("ComputeTopology.Processor.Count must be at least 1");
  }
  if (machine.platform.layout > kLeanLayout) {
    return absl::InvalidArgumentError(absl::StrCat("Ferry.Layout is ", machine.platform.layout,
                                                   "; this version knows 0 to ", kLeanLayout));
  }
  Words words = {context.binary};
  AddMachine(words, id, machine, context);
  RETURN_IF_ERROR(AddFirmware(words, machine));
  AddKernel(words, machine);
  AddMonitors(words);
  AddGuestLink(words, machine);
  Append(words, {"-device", VirtioOnBus(machine, "virtio-rng-pci,id=rng0", kRngSlot)});
  RETURN_IF_ERROR(AddDisks(words, machine));
  RETURN_IF_ERROR(AddShares(words, machine, context.incoming));
  RETURN_IF_ERROR(AddAdapters(words, machine));
  if (context.incoming) Append(words, {"-incoming", "defer"});
  words.insert(words.end(), context.extra_arguments.begin(), context.extra_arguments.end());
  return words;
}

}  // namespace ferry::vm
