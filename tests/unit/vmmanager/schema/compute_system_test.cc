#include "vmmanager/schema/compute_system.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "vmmanager/schema/json.h"

namespace ferry::schema {
namespace {

using testing::HasSubstr;

ComputeSystem FullDocument() {
  ComputeSystem document;
  document.owner = "someone";
  document.schema_version = {2, 3};
  document.hosting_system_id = "host-1";
  document.should_terminate_on_last_handle_closed = true;
  VirtualMachine& vm = document.virtual_machine;
  vm.chipset.linux_kernel_direct = LinuxKernelDirect{"/k", "/i", "quiet"};
  vm.compute_topology.memory.size_in_mb = 512;
  vm.compute_topology.processor.count = 2;
  vm.devices.scsi["0"].attachments["1"] = {"VirtualDisk", "/d.raw", true, "data", "raw"};
  vm.devices.hv_socket = HvSocketSystemConfig{5};
  vm.platform = {"pc-q35-7.2", "qemu64", 1};
  document.migration_options.emplace().origin = MigrationOrigin::kDestination;
  return document;
}

TEST(ComputeSystemJson, GoldenText) {
  EXPECT_EQ(
      ToJson(FullDocument()),
      R"({"Owner":"someone","SchemaVersion":{"Major":2,"Minor":3},"HostingSystemId":"host-1",)"
      R"("ShouldTerminateOnLastHandleClosed":true,"VirtualMachine":{"Chipset":{"LinuxKernelDirect":)"
      R"({"KernelFilePath":"/k","InitRdPath":"/i","KernelCmdLine":"quiet"}},"ComputeTopology":)"
      R"({"Memory":{"SizeInMB":512},"Processor":{"Count":2}},"Devices":{"Scsi":{"0":{"Attachments":)"
      R"({"1":{"Type":"VirtualDisk","Path":"/d.raw","ReadOnly":true,"Ferry":{"Name":"data",)"
      R"("Format":"raw"}}}}},"HvSocket":{"HvSocketConfig":{"Ferry":{"GuestCid":5}}}},"Ferry":)"
      R"({"MachineType":"pc-q35-7.2","CpuModel":"qemu64","Layout":1}},"MigrationOptions":)"
      R"({"Origin":"Destination"}})");
}

TEST(ComputeSystemJson, ADefaultDocumentIsPlainHcs) {
  EXPECT_EQ(ToJson(ComputeSystem{}),
            R"({"Owner":"ferry","SchemaVersion":{"Major":2,"Minor":1},"VirtualMachine":)"
            R"({"ComputeTopology":{"Memory":{"SizeInMB":256},"Processor":{"Count":1}}}})");
}

TEST(ComputeSystemJson, RoundTrips) {
  for (const ComputeSystem& document : {FullDocument(), ComputeSystem{}}) {
    auto read = ComputeSystemFromJson(ToJson(document));
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(*read, document);
  }
}

TEST(ComputeSystemJson, FirmwareStandsBesideTheKernel) {
  ComputeSystem document = FullDocument();
  document.virtual_machine.chipset.uefi = Uefi{"/code.fd", "/store.fd"};
  const std::string text = ToJson(document);
  EXPECT_THAT(text,
              HasSubstr(R"("Chipset":{"Uefi":{"Ferry":{"CodeFilePath":"/code.fd","StoreFilePath":)"
                        R"("/store.fd"}},"LinuxKernelDirect":{)"));
  const auto read = ComputeSystemFromJson(text);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, document);
  // HCS has more to say of it, none of which would be done.
  const auto unknown =
      ComputeSystemFromJson(R"({"VirtualMachine":{"Chipset":{"Uefi":{"EnableDebugger":true}}}})");
  EXPECT_THAT(std::string(unknown.status().message()),
              HasSubstr("VirtualMachine.Chipset.Uefi.EnableDebugger"));
}

TEST(ComputeSystemJson, SharesAreFerrysOwnAndKeyedByNumber) {
  ComputeSystem document;
  document.virtual_machine.devices.shares["0"] = {"/srv", false};
  document.virtual_machine.devices.shares["1"] = {"/etc/a,b", true};
  const std::string text = ToJson(document);
  EXPECT_THAT(text, HasSubstr(R"("Devices":{"Ferry":{"VirtioFs":{"0":{"Path":"/srv"},)"
                              R"("1":{"Path":"/etc/a,b","ReadOnly":true}}}})"));
  const auto read = ComputeSystemFromJson(text);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, document);
  for (const char* bad : {R"({"00":{"Path":"/srv"}})", R"({"tag":{"Path":"/srv"}})",
                          R"({"0":{"Path":"/srv","Tag":"x"}})", R"({"0":"/srv"})"}) {
    EXPECT_FALSE(
        ComputeSystemFromJson(
            absl::StrCat(R"({"VirtualMachine":{"Devices":{"Ferry":{"VirtioFs":)", bad, "}}}}"))
            .ok())
        << bad;
  }
}

TEST(ComputeSystemJson, CardsAreHcssButForWhereTheyArePluggedIn) {
  ComputeSystem document;
  auto& adapters = document.virtual_machine.devices.network_adapters;
  adapters["0"] = {"02-FE-00-00-00-01", "eth0", "br0", "", false};
  adapters["1"] = {"02-FE-00-00-00-02", "eth1", "", "tap0", false};
  adapters["2"] = {"02-FE-00-00-00-03", "eth2", "", "", true};
  const std::string text = ToJson(document);
  EXPECT_THAT(text,
              HasSubstr(R"("Devices":{"NetworkAdapters":{"0":{"MacAddress":"02-FE-00-00-00-01",)"
                        R"("Ferry":{"Name":"eth0","Bridge":"br0"}},"1":{"MacAddress":)"
                        R"("02-FE-00-00-00-02","Ferry":{"Name":"eth1","Tap":"tap0"}},"2":)"
                        R"({"MacAddress":"02-FE-00-00-00-03","Ferry":{"Name":"eth2",)"
                        R"("User":true}}}})"));
  const auto read = ComputeSystemFromJson(text);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, document);
  for (const char* bad : {R"({"eth0":{}})", R"({"00":{}})", R"({"0":{"EndpointId":"x"}})",
                          R"({"0":{"Ferry":{"Switch":"x"}}})"}) {
    EXPECT_FALSE(
        ComputeSystemFromJson(
            absl::StrCat(R"({"VirtualMachine":{"Devices":{"NetworkAdapters":)", bad, "}}}"))
            .ok())
        << bad;
  }
}

TEST(ComputeSystemJson, EmptyAndZeroAreKeptWhereTheDefaultDiffers) {
  ComputeSystem document;
  document.owner = "";
  document.schema_version = {0, 0};
  document.virtual_machine.compute_topology.memory.size_in_mb = 0;
  document.virtual_machine.compute_topology.processor.count = 0;
  document.virtual_machine.chipset.linux_kernel_direct.emplace();
  document.virtual_machine.devices.hv_socket.emplace();
  document.virtual_machine.devices.scsi["0"];
  Attachment& attachment = document.virtual_machine.devices.scsi["1"].attachments["0"];
  attachment.type = "";
  attachment.format = "";
  document.migration_options.emplace();
  auto read = ComputeSystemFromJson(ToJson(document));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, document);
}

TEST(ComputeSystemJson, AnEmptyObjectIsTheDefaultDocument) {
  EXPECT_EQ(*ComputeSystemFromJson("{}"), ComputeSystem{});
}

struct Refusal {
  const char* json;
  const char* path;
};

class ComputeSystemRefusal : public testing::TestWithParam<Refusal> {};

TEST_P(ComputeSystemRefusal, NamesThePath) {
  auto read = ComputeSystemFromJson(GetParam().json);
  EXPECT_EQ(read.status().code(), absl::StatusCode::kInvalidArgument) << GetParam().json;
  EXPECT_THAT(std::string(read.status().message()), HasSubstr(GetParam().path));
}

INSTANTIATE_TEST_SUITE_P(
    All, ComputeSystemRefusal,
    testing::Values(
        Refusal{"", "not valid JSON"}, Refusal{"[]", "must be a JSON object"},
        Refusal{"{} x", "not valid JSON"}, Refusal{R"({"owner":"x"})", "owner is not known"},
        Refusal{R"({"Owner":1})", "Owner must be a string"},
        Refusal{R"({"Owner":null})", "Owner must be a string"},
        Refusal{R"({"SchemaVersion":2})", "SchemaVersion must be an object"},
        Refusal{R"({"SchemaVersion":{"Major":2147483648}})", "SchemaVersion.Major is 2147483648"},
        Refusal{R"({"SchemaVersion":{"Major":-2147483649}})", "SchemaVersion.Major"},
        Refusal{R"({"SchemaVersion":{"Patch":1}})", "SchemaVersion.Patch is not known"},
        Refusal{R"({"HostingSystemId":[]})", "HostingSystemId must be a string"},
        Refusal{R"({"ShouldTerminateOnLastHandleClosed":1})", "must be true or false"},
        Refusal{R"({"VirtualMachine":{"StopOnReset":true}})", "VirtualMachine.StopOnReset"},
        Refusal{R"({"VirtualMachine":{"Chipset":{"UseUtc":true}}})",
                "VirtualMachine.Chipset.UseUtc"},
        Refusal{R"({"VirtualMachine":{"Chipset":{"LinuxKernelDirect":{"X":1}}}})",
                "VirtualMachine.Chipset.LinuxKernelDirect.X"},
        Refusal{R"({"VirtualMachine":{"ComputeTopology":{"Memory":{"SizeInMB":-1}}}})",
                "VirtualMachine.ComputeTopology.Memory.SizeInMB is -1"},
        Refusal{R"({"VirtualMachine":{"ComputeTopology":{"Memory":{"SizeInMB":1.5}}}})",
                "VirtualMachine.ComputeTopology.Memory.SizeInMB is 1.5"},
        Refusal{R"({"VirtualMachine":{"ComputeTopology":{"Memory":{"SizeInMB":"256"}}}})",
                "SizeInMB must be a whole number"},
        Refusal{
            R"({"VirtualMachine":{"ComputeTopology":{"Memory":{"SizeInMB":18446744073709551616}}}})",
            "SizeInMB is 1.8446744073709552E19"},
        Refusal{R"({"VirtualMachine":{"ComputeTopology":{"Processor":{"Count":4294967296}}}})",
                "VirtualMachine.ComputeTopology.Processor.Count is 4294967296"},
        Refusal{R"({"VirtualMachine":{"ComputeTopology":{"Processor":{"Limit":1}}}})",
                "VirtualMachine.ComputeTopology.Processor.Limit"},
        Refusal{R"({"VirtualMachine":{"ComputeTopology":{"Numa":{}}}})",
                "VirtualMachine.ComputeTopology.Numa"},
        Refusal{R"({"VirtualMachine":{"Devices":{"Plan9":{}}}})", "VirtualMachine.Devices.Plan9"},
        Refusal{R"({"VirtualMachine":{"Devices":{"Scsi":{"x":{}}}}})",
                "VirtualMachine.Devices.Scsi.x must be keyed by a number"},
        Refusal{R"({"VirtualMachine":{"Devices":{"Scsi":{"00":{}}}}})",
                "VirtualMachine.Devices.Scsi.00 must be keyed by a number"},
        Refusal{R"({"VirtualMachine":{"Devices":{"Scsi":{"0":{"Attachments":{"-1":{}}}}}}})",
                "VirtualMachine.Devices.Scsi.0.Attachments.-1 must be keyed"},
        Refusal{
            R"({"VirtualMachine":{"Devices":{"Scsi":{"0":{"Attachments":{"0":{"Cache":1}}}}}}})",
            "VirtualMachine.Devices.Scsi.0.Attachments.0.Cache"},
        Refusal{R"({"VirtualMachine":{"Devices":{"Scsi":{"0":[]}}}})",
                "VirtualMachine.Devices.Scsi.0 must be an object"},
        Refusal{
            R"({"VirtualMachine":{"Devices":{"HvSocket":{"HvSocketConfig":{"Ferry":{"GuestCid":-3}}}}}})",
            "VirtualMachine.Devices.HvSocket.HvSocketConfig.Ferry.GuestCid is -3"},
        Refusal{R"({"VirtualMachine":{"Ferry":{"Accelerator":"kvm"}}})",
                "VirtualMachine.Ferry.Accelerator"},
        Refusal{R"({"MigrationOptions":{"Origin":"Elsewhere"}})",
                "MigrationOptions.Origin is \"Elsewhere\""}));

TEST(ComputeSystemJson, DepthAndSizeAreBounded) {
  std::string deep;
  for (int i = 0; i < 40; ++i) deep += R"({"a":)";
  deep += "1" + std::string(40, '}');
  EXPECT_EQ(ComputeSystemFromJson(deep).status().code(), absl::StatusCode::kInvalidArgument);
  std::string large = absl::StrCat(R"({"Owner":")", std::string(kMaxJsonBytes, 'x'), R"("})");
  EXPECT_THAT(std::string(ComputeSystemFromJson(large).status().message()),
              HasSubstr("at most 1048576"));
}

TEST(ComputeSystemJson, TheFirstErrorIsKept) {
  auto read = ComputeSystemFromJson(R"({"Owner":1,"HostingSystemId":2})");
  EXPECT_THAT(std::string(read.status().message()), HasSubstr("Owner"));
}

TEST(VerbOptionsJson, Start) {
  EXPECT_EQ(ToJson(StartOptions{}), "{}");
  StartOptions options;
  options.destination_migration_options.emplace().checksum_verification = false;
  EXPECT_EQ(ToJson(options), R"({"DestinationMigrationOptions":{"ChecksumVerification":false}})");
}

TEST(VerbOptionsJson, Save) {
  SaveOptions options;
  options.save_state_file_path = "/s";
  EXPECT_EQ(ToJson(options), R"({"SaveType":"ToFile","SaveStateFilePath":"/s"})");
}

TEST(VerbOptionsJson, Modify) {
  EXPECT_EQ(ToJson(ModifySettingRequest{"VirtualMachine/X", "Add", R"({"A":1})"}),
            R"({"ResourcePath":"VirtualMachine/X","RequestType":"Add","Settings":{"A":1}})");
  EXPECT_EQ(ToJson(ModifySettingRequest{"P", "Remove", ""}),
            R"({"ResourcePath":"P","RequestType":"Remove"})");
  EXPECT_EQ(ToJson(ModifySettingRequest{"P", "Update", "{"}),
            R"({"ResourcePath":"P","RequestType":"Update","Settings":"{"})");
}

TEST(VerbOptionsJson, PropertyQuery) {
  EXPECT_EQ(ToJson(PropertyQuery{}), "{}");
  EXPECT_EQ(ToJson(PropertyQuery{{PropertyType::kBasic, PropertyType::kMemory,
                                  PropertyType::kStatistics, PropertyType::kCompatibilityInfo}}),
            R"({"PropertyTypes":["Basic","Memory","Statistics","CompatibilityInfo"]})");
}

TEST(VerbOptionsJson, Properties) {
  Properties properties;
  EXPECT_EQ(ToJson(properties),
            R"({"SystemType":"VirtualMachine","RuntimeOsType":"Linux","State":"Created"})");
  properties = {"id", SystemState::kIncoming, "Linux", 256, 7, 42, std::string("\0\xff", 2)};
  properties.state_sent = true;
  EXPECT_EQ(
      ToJson(properties),
      R"({"Id":"id","SystemType":"VirtualMachine","RuntimeOsType":"Linux","State":"Incoming",)"
      R"("Statistics":{"Uptime100ns":70000},"CompatibilityInfo":{"Data":"AP8="},)"
      R"("Ferry":{"MemorySizeInMB":256,"VmmPid":42,"StateSent":true}})");
}

TEST(VerbOptionsJson, SystemStates) {
  EXPECT_EQ(ToString(SystemState::kCreated), "Created");
  EXPECT_EQ(ToString(SystemState::kRunning), "Running");
  EXPECT_EQ(ToString(SystemState::kPaused), "Paused");
  EXPECT_EQ(ToString(SystemState::kIncoming), "Incoming");
  EXPECT_EQ(ToString(SystemState::kStopped), "Stopped");
}

}  // namespace
}  // namespace ferry::schema
