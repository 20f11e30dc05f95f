#include "vmmanager/qemu/qemu_command_line.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ferry::vm {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr char kId[] = "11111111-2222-3333-4444-555555555555";

CommandLineContext Context() {
  CommandLineContext context;
  context.binary = "/usr/bin/qemu-system-x86_64";
  context.accelerator = "tcg";
  context.default_machine = "pc-q35-7.2";
  return context;
}

std::string After(const std::vector<std::string>& words, const std::string& option) {
  for (size_t i = 0; i + 1 < words.size(); ++i) {
    if (words[i] == option) return words[i + 1];
  }
  return "(absent)";
}

TEST(QemuCommandLineTest, ConfinesAndPinsTheMachine) {
  schema::VirtualMachine machine;
  machine.compute_topology.memory.size_in_mb = 384;
  machine.compute_topology.processor.count = 2;
  const auto words = *BuildCommandLine(kId, machine, Context());
  EXPECT_EQ(words[0], "/usr/bin/qemu-system-x86_64");
  EXPECT_EQ(After(words, "-machine"), "pc-q35-7.2");
  EXPECT_EQ(After(words, "-uuid"), kId);
  EXPECT_EQ(After(words, "-cpu"), "max");
  EXPECT_EQ(After(words, "-m"), "393224K");  // 384 MiB and two pages
  EXPECT_EQ(After(words, "-smp"), "2");
  EXPECT_EQ(After(words, "-sandbox"),
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
  EXPECT_EQ(After(words, "-action"), "reboot=shutdown,shutdown=pause,panic=pause");
  for (const char* option : {"-nodefaults", "-no-user-config", "-nographic", "-S"}) {
    EXPECT_THAT(words, Contains(option));
  }
  EXPECT_THAT(words, Not(Contains("-incoming")));
}

TEST(QemuCommandLineTest, DocumentsPlatformWinsOverTheHosts) {
  schema::VirtualMachine machine;
  machine.platform = {.machine_type = "pc-q35-6.2", .cpu_model = "Nehalem"};
  auto context = Context();
  context.accelerator = "kvm";
  const auto words = *BuildCommandLine(kId, machine, context);
  EXPECT_EQ(After(words, "-machine"), "pc-q35-6.2");
  EXPECT_EQ(After(words, "-cpu"), "Nehalem");
  machine.platform = {};
  EXPECT_EQ(After(*BuildCommandLine(kId, machine, context), "-cpu"), "host");
}

TEST(QemuCommandLineTest, BootsTheDocumentsKernel) {
  schema::VirtualMachine machine;
  machine.chipset.linux_kernel_direct = {"/k/vmlinuz", "/k/initrd", "a=b"};
  const auto words = *BuildCommandLine(kId, machine, Context());
  EXPECT_EQ(After(words, "-kernel"), "/k/vmlinuz");
  EXPECT_EQ(After(words, "-initrd"), "/k/initrd");
  EXPECT_EQ(After(words, "-append"), "console=ttyS0 quiet a=b");
}

TEST(QemuCommandLineTest, FirmwareIsTwoFlashChipsWithNamesOfTheirOwn) {
  schema::VirtualMachine machine;
  machine.platform.layout = kLeanLayout;
  machine.chipset.uefi = schema::Uefi{"/f/code,4M.fd", "/state/firmware/id.fd"};
  const auto words = *BuildCommandLine(kId, machine, Context());
  EXPECT_THAT(After(words, "-machine"),
              StartsWith("pc-q35-7.2,pflash0=firmware-code,pflash1=firmware-store,"));
  EXPECT_THAT(words, Contains("driver=file,node-name=firmware-code-file,read-only=on,"
                              "filename=/f/code,,4M.fd"));
  EXPECT_THAT(words, Contains("driver=raw,node-name=firmware-code,read-only=on,"
                              "file=firmware-code-file"));
  EXPECT_THAT(words, Contains("driver=file,node-name=firmware-store-file,read-only=off,"
                              "filename=/state/firmware/id.fd"));
  EXPECT_THAT(words, Contains("driver=raw,node-name=firmware-store,read-only=off,"
                              "file=firmware-store-file"));
  machine.chipset.uefi->store_path.clear();
  EXPECT_THAT(std::string(BuildCommandLine(kId, machine, Context()).status().message()),
              HasSubstr("StoreFilePath"));
}

TEST(QemuCommandLineTest, LinksTheGuestBySerialPortOrByVsock) {
  schema::VirtualMachine machine;
  const auto serial = *BuildCommandLine(kId, machine, Context());
  EXPECT_THAT(serial, Contains(HasSubstr("name=ferry.bridge")));
  EXPECT_THAT(serial, Contains("socket,id=bridge0,fd=12,server=on,wait=off"));
  machine.devices.hv_socket = schema::HvSocketSystemConfig{7};
  const auto vsock = *BuildCommandLine(kId, machine, Context());
  EXPECT_THAT(vsock, Contains("vhost-vsock-pci,id=vsock0,guest-cid=7,bus=pcie.0,addr=0x5"));
  EXPECT_THAT(vsock, Not(Contains(HasSubstr("ferry.bridge"))));
}

TEST(QemuCommandLineTest, ALeanMachineHasLittleToMigrate) {
  schema::VirtualMachine machine;
  const auto first = *BuildCommandLine(kId, machine, Context());
  EXPECT_EQ(After(first, "-machine"), "pc-q35-7.2");
  EXPECT_THAT(first, Not(Contains(HasSubstr("disable-modern"))));
  machine.platform.layout = kLeanLayout;
  const auto lean = *BuildCommandLine(kId, machine, Context());
  EXPECT_EQ(After(lean, "-machine"), "pc-q35-7.2,suppress-vmdesc=on,sata=off,vmport=off");
  EXPECT_THAT(lean, Contains("virtio-serial-pci,id=serial0,max_ports=2,disable-legacy=off,"
                             "disable-modern=on,bus=pcie.0,addr=0x4"));
  EXPECT_THAT(lean, Contains("virtio-rng-pci,id=rng0,disable-legacy=off,disable-modern=on,"
                             "bus=pcie.0,addr=0x6"));
  EXPECT_THAT(lean, Contains("virtio-scsi-pci,id=scsi0,disable-legacy=off,disable-modern=on,"
                             "bus=pcie.0,addr=0x8"));
  machine.platform.layout = kLeanLayout + 1;
  EXPECT_THAT(BuildCommandLine(kId, machine, Context()).status().message(),
              HasSubstr("Ferry.Layout is 2"));
}

TEST(QemuCommandLineTest, DisksHaveStableNamesAndEscapedPaths) {
  schema::VirtualMachine machine;
  machine.devices.scsi["1"].attachments["3"] = {
      .path = "/d/a,b.img", .read_only = true, .name = "data", .format = "raw"};
  const auto words = *BuildCommandLine(kId, machine, Context());
  EXPECT_THAT(words, Contains("driver=file,node-name=disk-data-file,read-only=on,"
                              "filename=/d/a,,b.img"));
  EXPECT_THAT(words, Contains("driver=raw,node-name=disk-data-fmt,read-only=on,"
                              "file=disk-data-file"));
  EXPECT_THAT(words, Contains("scsi-hd,id=disk-data,bus=scsi1.0,scsi-id=0,lun=3,"
                              "drive=disk-data-fmt,werror=stop,rerror=stop"));
  EXPECT_THAT(words, Contains("virtio-scsi-pci,id=scsi0,bus=pcie.0,addr=0x8"));
  EXPECT_THAT(words, Contains("virtio-scsi-pci,id=scsi1,bus=pcie.0,addr=0x9"));
}

TEST(QemuCommandLineTest, DiskStemsAreValidAndDistinct) {
  const schema::Attachment unnamed{.path = "/d"};
  EXPECT_EQ(DiskStem("0", "2", unnamed), "disk-0-2");
  const schema::Attachment strange{.path = "/d", .name = "my disk,evil=on"};
  const schema::Attachment similar{.path = "/d", .name = "my disk;evil=on"};
  EXPECT_EQ(DiskStem("0", "1", strange).find_first_of(" ,="), std::string::npos);
  EXPECT_NE(DiskStem("0", "1", strange), DiskStem("0", "2", similar));
  const schema::Attachment longer{.path = "/d", .name = std::string(300, 'n')};
  EXPECT_LE(DiskStem("7", "255", longer).size() + std::string("-file").size(), 31u);
}

TEST(QemuCommandLineTest, RefusesWhatCannotBeBuilt) {
  schema::VirtualMachine machine;
  machine.compute_topology.memory.size_in_mb = 0;
  EXPECT_TRUE(absl::IsInvalidArgument(BuildCommandLine(kId, machine, Context()).status()));
  machine = {};
  machine.compute_topology.processor.count = 0;
  EXPECT_TRUE(absl::IsInvalidArgument(BuildCommandLine(kId, machine, Context()).status()));
  for (const auto& [controller, lun] : std::vector<std::pair<std::string, std::string>>{
           {"8", "0"}, {"x", "0"}, {"0", "256"}, {"0", "-1"}, {"0", "01"}, {"", "0"}}) {
    machine = {};
    machine.devices.scsi[controller].attachments[lun].path = "/d";
    EXPECT_TRUE(absl::IsInvalidArgument(BuildCommandLine(kId, machine, Context()).status()))
        << controller << "/" << lun;
  }
  machine = {};
  machine.devices.scsi["0"].attachments["0"] = {.path = "/d", .format = "vmdk"};
  EXPECT_TRUE(absl::IsInvalidArgument(BuildCommandLine(kId, machine, Context()).status()));
  machine = {};
  machine.devices.scsi["0"].attachments["0"] = {.path = "/a", .name = "same"};
  machine.devices.scsi["0"].attachments["1"] = {.path = "/b", .name = "same"};
  EXPECT_TRUE(absl::IsInvalidArgument(BuildCommandLine(kId, machine, Context()).status()));
}

TEST(QemuCommandLineTest, DestinationDefersItsStream) {
  auto context = Context();
  context.incoming = true;
  EXPECT_EQ(After(*BuildCommandLine(kId, {}, context), "-incoming"), "defer");
}

TEST(QemuCommandLineTest, SharesNeedMemoryThatIsShared) {
  schema::VirtualMachine machine;
  auto words = *BuildCommandLine(kId, machine, Context());
  EXPECT_EQ(After(words, "-machine"), "pc-q35-7.2");
  EXPECT_THAT(words, Not(Contains("-object")));
  machine.devices.shares["0"] = {"/srv", false};
  machine.devices.shares["7"] = {"/data", true};
  words = *BuildCommandLine(kId, machine, Context());
  EXPECT_EQ(After(words, "-machine"), "pc-q35-7.2,memory-backend=ram0");
  EXPECT_EQ(After(words, "-object"),
            "memory-backend-memfd,id=ram0,share=on,size=" + After(words, "-m"));
  EXPECT_THAT(words, Contains("socket,id=share0,fd=20"));
  EXPECT_THAT(words, Contains("vhost-user-fs-pci,id=share0-dev,chardev=share0,tag=ferry-share-0,"
                              "bus=pcie.0,addr=0x10"));
  EXPECT_THAT(words, Contains("socket,id=share7,fd=27"));
  EXPECT_THAT(words, Contains("vhost-user-fs-pci,id=share7-dev,chardev=share7,tag=ferry-share-7,"
                              "bus=pcie.0,addr=0x17"));
  // The host's path is for whoever serves it.
  EXPECT_THAT(words, Not(Contains(HasSubstr("/srv"))));
}

TEST(QemuCommandLineTest, RefusesSharesThatCannotBe) {
  schema::VirtualMachine machine;
  machine.devices.shares["8"] = {"/srv", false};
  EXPECT_FALSE(BuildCommandLine(kId, machine, Context()).ok());
  machine.devices.shares.clear();
  machine.devices.shares["0"] = {"srv", false};
  EXPECT_FALSE(BuildCommandLine(kId, machine, Context()).ok());
  machine.devices.shares["0"] = {"/srv", false};
  EXPECT_TRUE(BuildCommandLine(kId, machine, Context()).ok());
  auto incoming = Context();
  incoming.incoming = true;
  EXPECT_FALSE(BuildCommandLine(kId, machine, incoming).ok());
}

TEST(QemuCommandLineTest, CardsHaveTheirPlaceAndNoRom) {
  schema::VirtualMachine machine;
  EXPECT_THAT(*BuildCommandLine(kId, machine, Context()), Not(Contains("-netdev")));
  machine.devices.network_adapters["0"] = {"02-FE-00-00-00-0A", "eth0", "br0", "", false};
  machine.devices.network_adapters["5"] = {"02-FE-00-00-00-0B", "eth1", "", "", true};
  machine.platform.layout = kLeanLayout;
  auto context = Context();
  context.incoming = true;
  const auto words = *BuildCommandLine(kId, machine, context);
  EXPECT_THAT(words, Contains("tap,id=net0,fd=30"));
  EXPECT_THAT(words, Contains("virtio-net-pci,id=nic0,netdev=net0,mac=02:fe:00:00:00:0a,romfile=,"
                              "disable-legacy=off,disable-modern=on,bus=pcie.0,addr=0x18"));
  EXPECT_THAT(words, Contains("user,id=net5"));
  EXPECT_THAT(words, Contains(HasSubstr("virtio-net-pci,id=nic5,netdev=net5")));
  EXPECT_THAT(words, Contains(HasSubstr("bus=pcie.0,addr=0x1d")));
  // The host's names are for whoever plugs it in.
  EXPECT_THAT(words, Not(Contains(HasSubstr("br0"))));
}

TEST(QemuCommandLineTest, RefusesCardsThatCannotBe) {
  const auto is_ok = [](const std::string& number, const schema::NetworkAdapter& adapter) {
    schema::VirtualMachine machine;
    machine.devices.network_adapters[number] = adapter;
    return BuildCommandLine(kId, machine, Context()).ok();
  };
  const std::string mac = "02-FE-00-00-00-0A";
  EXPECT_TRUE(is_ok("0", {mac, "eth0", "br0", "", false}));
  EXPECT_FALSE(is_ok("6", {mac, "eth0", "br0", "", false}));
  EXPECT_FALSE(is_ok("0", {mac, "eth0", "", "", false}));
  EXPECT_FALSE(is_ok("0", {mac, "eth0", "br0", "", true}));
  EXPECT_FALSE(is_ok("0", {mac, "eth0", "br0", "tap0", false}));
  EXPECT_FALSE(is_ok("0", {mac, "eth0", "br0/../x", "", false}));
  EXPECT_FALSE(is_ok("0", {mac, "eth0", "", "tap%d", false}));
  EXPECT_FALSE(is_ok("0", {mac + ",script=/x", "eth0", "br0", "", false}));
  EXPECT_FALSE(is_ok("0", {"00-00-00-00-00-00", "eth0", "br0", "", false}));
  EXPECT_FALSE(is_ok("0", {"01-00-5E-00-00-01", "eth0", "br0", "", false}));
}

}  // namespace
}  // namespace ferry::vm
