// VMs with UEFI firmware, and what becomes of their variable stores.
#include <filesystem>
#include <fstream>
#include <iterator>

#include "tests/unit/vmmanager/sandbox/sandbox_fixture.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/sandbox/firmware_store.h"
#include "vmmanager/sandbox/incoming_machine.h"
#include "vmmanager/sandbox/vm_payload.h"
#include "vmmanager/state/fingerprint_check.h"

namespace ferry::vm {
namespace {

using ::testing::IsEmpty;
using ::testing::SizeIs;

class VmFirmwareTest : public SandboxTest {
 protected:
  absl::StatusOr<std::shared_ptr<UtilityVm>> CreateWith(v1::Firmware firmware) {
    v1::CreateVmRequest request;
    request.mutable_spec()->set_name("web");
    request.mutable_spec()->set_firmware(firmware);
    return Await(host_.inventory->Create(request));
  }
  std::shared_ptr<UtilityVm> CreateUefi() {
    auto vm = CreateWith(v1::FIRMWARE_OVMF);
    EXPECT_TRUE(vm.ok()) << vm.status();
    return *vm;
  }

  std::string StoreOf(const UtilityVm& vm) const {
    return StorePathOf(host_.settings.firmware, vm.id());
  }
  static std::string Read(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  }
  static void Write(const std::string& path, const std::string& text) {
    std::ofstream(path, std::ios::trunc | std::ios::binary) << text;
  }

  state::v1::VmPayload Payload(std::shared_ptr<UtilityVm> vm) {
    auto payload = Await(DescribeVm(vm, host_.backend, digests_));
    EXPECT_TRUE(payload.ok()) << payload.status();
    return payload.ok() ? *payload : state::v1::VmPayload();
  }

  ImageDigests digests_{host_.reads};
};

TEST_F(VmFirmwareTest, EachHasAStoreOfItsOwnWhichGoesWithIt) {
  auto vm = CreateUefi();
  const std::string store = StoreOf(*vm);
  EXPECT_EQ(Read(store), Read(host_.settings.firmware.variables));
  const auto& uefi = vm->document().virtual_machine.chipset.uefi;
  ASSERT_TRUE(uefi.has_value());
  EXPECT_EQ(uefi->code_path, host_.settings.firmware.code);
  EXPECT_EQ(uefi->store_path, store);
  // What is in it outlives the VM's boots.
  Write(store, "what a guest has written");
  ASSERT_TRUE(Await(vm->Start()).ok());
  ASSERT_TRUE(Await(vm->Stop(true, milliseconds(0))).ok());
  ASSERT_TRUE(Await(vm->Start()).ok());
  EXPECT_EQ(Read(store), "what a guest has written");
  ASSERT_TRUE(Await(vm->Stop(true, milliseconds(0))).ok());
  ASSERT_TRUE(Await(host_.inventory->Delete(vm)).ok());
  EXPECT_FALSE(std::filesystem::exists(store));
}

TEST_F(VmFirmwareTest, BiosHasNoneAndIsSaidNowhere) {
  auto vm = CreateWith(v1::FIRMWARE_BIOS);
  ASSERT_TRUE(vm.ok()) << vm.status();
  EXPECT_FALSE((*vm)->document().virtual_machine.chipset.uefi.has_value());
  EXPECT_EQ((*vm)->spec_json().find("firmware"), std::string::npos);
  EXPECT_TRUE(std::filesystem::is_empty(host_.settings.firmware.folder));
  EXPECT_THAT(Payload(*vm).firmware_store(), IsEmpty());
}

TEST_F(VmFirmwareTest, AHostWithoutTheFirmwareRefuses) {
  for (std::string* file : {&host_.settings.firmware.code, &host_.settings.firmware.variables}) {
    const std::string there = std::exchange(*file, folder_.path() + "/nowhere");
    const absl::Status refused = CreateWith(v1::FIRMWARE_OVMF).status();
    EXPECT_EQ(rpc::ReasonOf(refused), "no_firmware") << refused;
    EXPECT_THAT(std::string(refused.message()), HasSubstr("nowhere"));
    EXPECT_THAT(rpc::NextStepOf(refused), HasSubstr("ovmf"));
    *file = there;
  }
  EXPECT_THAT(host_.inventory->List(), IsEmpty());
  const auto unknown = CreateWith(static_cast<v1::Firmware>(7));
  EXPECT_TRUE(absl::IsInvalidArgument(unknown.status())) << unknown.status();
}

TEST_F(VmFirmwareTest, AStoreThatIsLostBeginsAnewAndOneOfNoVmGoes) {
  auto vm = CreateUefi();
  const std::string store = StoreOf(*vm);
  std::filesystem::remove(store);
  ASSERT_TRUE(Await(vm->Start()).ok());
  EXPECT_EQ(Read(store), Read(host_.settings.firmware.variables));
  const std::string nobodys = StorePathOf(host_.settings.firmware, "nobody");
  Write(nobodys, "left by a daemon that died");
  RestartDaemon();
  EXPECT_FALSE(std::filesystem::exists(nobodys));
  EXPECT_TRUE(std::filesystem::exists(store));
}

TEST_F(VmFirmwareTest, CreateThatCannotBeStoredLeavesNoStore) {
  host_.store.FailNext(absl::ResourceExhaustedError("the disk is full"));
  EXPECT_FALSE(CreateWith(v1::FIRMWARE_OVMF).ok());
  EXPECT_TRUE(std::filesystem::is_empty(host_.settings.firmware.folder));
}

TEST_F(VmFirmwareTest, APlanHasTheStoreAndTheFirmwaresDigest) {
  auto vm = CreateUefi();
  Write(StoreOf(*vm), "what a guest has written");
  const state::v1::VmPayload payload = Payload(vm);
  EXPECT_EQ(*UnpackStore(payload.firmware_store()), "what a guest has written");
  EXPECT_THAT(payload.fingerprint().firmware_sha256(), SizeIs(32));
}

TEST_F(VmFirmwareTest, AnotherHostTakesItWithTheSameFirmwareWhereverThatIs) {
  auto vm = CreateUefi();
  state::v1::VmPayload payload = Payload(vm);
  // As another host would have it.
  auto document = *schema::ComputeSystemFromJson(payload.hcs_document_json());
  document.virtual_machine.chipset.uefi = {"/elsewhere/code.fd", "/etc/passwd"};
  payload.set_hcs_document_json(schema::ToJson(document));
  auto here = Await(FitMachine(payload, *host_.inventory, digests_));
  ASSERT_TRUE(here.ok()) << here.status();
  EXPECT_THAT(here->differences, IsEmpty()) << ToText(here->differences);
  const auto& uefi = here->document.virtual_machine.chipset.uefi;
  EXPECT_EQ(uefi->code_path, host_.settings.firmware.code);
  EXPECT_EQ(uefi->store_path, StoreOf(*vm));

  Write(host_.settings.firmware.code, "another firmware");
  here = Await(FitMachine(payload, *host_.inventory, digests_));
  ASSERT_THAT(here->differences, SizeIs(1));
  EXPECT_EQ(here->differences[0].field(), "firmware");
  std::filesystem::remove(host_.settings.firmware.code);
  here = Await(FitMachine(payload, *host_.inventory, digests_));
  ASSERT_THAT(here->differences, SizeIs(1));
  EXPECT_THAT(here->differences[0].destination(), HasSubstr(host_.settings.firmware.code));
}

TEST_F(VmFirmwareTest, OneThatArrivesHasItsStoreAndLosesItIfItIsForgotten) {
  auto source = CreateUefi();
  Write(StoreOf(*source), "what a guest has written");
  const state::v1::VmPayload payload = Payload(source);
  VmRow row = Row(source->id());
  const schema::ComputeSystem document = source->document();
  ASSERT_TRUE(Await(host_.inventory->Forget(source->id(), "")).ok());
  EXPECT_FALSE(std::filesystem::exists(StoreOf(*source)));

  v1::VmSpec bios;
  bios.set_name("web");
  EXPECT_TRUE(
      absl::IsInvalidArgument(host_.inventory->AddIncoming("s", row, bios, document).status()));
  auto vm = host_.inventory->AddIncoming("s", row, source->spec(), document);
  ASSERT_TRUE(vm.ok()) << vm.status();
  (*vm)->SetFirmwareStore(payload.firmware_store());
  const schema::MigrationInitializeOptions options;
  MigrationEndpoint endpoint;
  endpoint.unix_path = folder_.path() + "/in";
  ASSERT_TRUE(Await((*vm)->PrepareIncoming(options, endpoint)).ok());
  EXPECT_EQ(Read(StoreOf(**vm)), "what a guest has written");
  Await((*vm)->Discard(absl::CancelledError("called off")));
  ASSERT_TRUE(Await(host_.inventory->Forget(source->id(), "")).ok());
  EXPECT_FALSE(std::filesystem::exists(StoreOf(*source)));
}

TEST(FirmwareStoreTest, WhatIsPackedIsSmallAndComesBack) {
  const std::string bytes(528 * 1024, '\xff');
  const std::string packed = PackStore(bytes);
  EXPECT_LT(packed.size(), 4096u);
  EXPECT_EQ(*UnpackStore(packed), bytes);
  for (const std::string& bad :
       {std::string(), std::string("nonsense"), packed.substr(0, packed.size() / 2),
        PackStore(std::string(kMaxStoreBytes + 1, 'x')), PackStore("")}) {
    EXPECT_TRUE(absl::IsInvalidArgument(UnpackStore(bad).status())) << bad.size();
  }
}

class StoreFileTest : public TaskTest {
 protected:
  TestFolder folder_;
  ThreadedFileReads reads_{io_.get_executor()};
  std::string path_ = folder_.path() + "/store.fd";
};

TEST_F(StoreFileTest, OneThatIsOpenIsRewrittenInItsPlace) {
  FirmwareSettings firmware;
  ASSERT_TRUE(Await(MakeStore(&reads_, firmware, path_, PackStore("before"))).ok());
  std::ifstream open(path_);
  ASSERT_TRUE(Await(RewriteStore(&reads_, path_, PackStore("after!"))).ok());
  std::string seen;
  open >> seen;
  EXPECT_EQ(seen, "after!");
  // A chip does not change its size.
  EXPECT_FALSE(Await(RewriteStore(&reads_, path_, PackStore("longer than before"))).ok());
  EXPECT_EQ(*UnpackStore(*Await(ReadStore(&reads_, path_))), "after!");
}

TEST_F(StoreFileTest, OnlyFilesOfAPossibleSizeAreStores) {
  std::ofstream(path_).close();
  EXPECT_FALSE(Await(ReadStore(&reads_, path_)).ok());
  std::filesystem::resize_file(path_, kMaxStoreBytes + 1);
  EXPECT_FALSE(Await(ReadStore(&reads_, path_)).ok());
  EXPECT_FALSE(Await(ReadStore(&reads_, folder_.path())).ok());
  EXPECT_FALSE(Await(ReadStore(&reads_, "/dev/zero")).ok());
}

}  // namespace
}  // namespace ferry::vm
