#include "vmmanager/sandbox/incoming_machine.h"

#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/escaping.h"
#include "tests/unit/vmmanager/sandbox/sandbox_fixture.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/sandbox/disk_size.h"
#include "vmmanager/sandbox/machine_document.h"

namespace ferry::vm {
namespace {

using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

// What begins every qcow2 file, for a disk of that size.
std::string Qcow2(uint64_t bytes) {
  std::string head(32, '\0');
  head.replace(0, 4, "QFI\xfb");
  for (int i = 0; i < 8; ++i) head[24 + i] = static_cast<char>(bytes >> (56 - 8 * i));
  return head;
}

class IncomingMachineTest : public SandboxTest {
 protected:
  std::string Path(const std::string& name) const { return folder_.path() + "/" + name; }
  void Write(const std::string& name, const std::string& text) {
    std::ofstream(Path(name), std::ios::trunc) << text;
  }

  // A VM with a disk, as a host just like this one would send it.
  state::v1::VmPayload Payload() {
    Write("data", Qcow2(1 << 20));
    v1::VmSpec spec;
    spec.set_name("web");
    v1::DiskSpec* disk = spec.add_disks();
    disk->set_name("data");
    disk->set_file(Path("data"));
    schema::ComputeSystem document =
        BuildDocument(*CompleteSpec(spec), host_.settings, host_.backend.info(), 0);
    state::v1::VmPayload payload;
    payload.set_vm_id("id");
    payload.set_vm_name("web");
    payload.set_hcs_document_json(schema::ToJson(document));
    *payload.mutable_fingerprint() =
        *Await(MakeFingerprint(document, host_.backend.info(), digests_));
    const auto disks = *Await(DescribeDisks(document, reads_));
    payload.mutable_disks()->Add(disks.begin(), disks.end());
    return payload;
  }

  IncomingMachine Fit(const state::v1::VmPayload& payload) {
    auto machine = Await(FitMachine(payload, *host_.inventory, digests_));
    EXPECT_TRUE(machine.ok()) << machine.status();
    return machine.ok() ? *std::move(machine) : IncomingMachine();
  }

  // The one difference that there is.
  v1::Difference Difference(const state::v1::VmPayload& payload) {
    const auto differences = Fit(payload).differences;
    EXPECT_THAT(differences, SizeIs(1));
    return differences.empty() ? v1::Difference() : differences[0];
  }

  ThreadedFileReads reads_{io_.get_executor()};
  ImageDigests digests_{reads_};
};

TEST_F(IncomingMachineTest, SameHostFits) { EXPECT_THAT(Fit(Payload()).differences, IsEmpty()); }

TEST_F(IncomingMachineTest, ImageIsFoundByItsContentInThisHostsPlace) {
  state::v1::VmPayload payload = Payload();
  std::filesystem::copy(host_.settings.kernel, Path("other-kernel"));
  std::filesystem::remove(host_.settings.kernel);
  host_.settings.kernel = Path("other-kernel");
  const IncomingMachine machine = Fit(payload);
  EXPECT_THAT(machine.differences, IsEmpty());
  EXPECT_EQ(machine.document.virtual_machine.chipset.linux_kernel_direct->kernel_file_path,
            Path("other-kernel"));
}

TEST_F(IncomingMachineTest, MissingImageIsADifferenceThatSaysWhy) {
  state::v1::VmPayload payload = Payload();
  std::filesystem::remove(host_.settings.initrd);
  const v1::Difference difference = Difference(payload);
  EXPECT_EQ(difference.field(), "initrd");
  EXPECT_THAT(difference.destination(), HasSubstr("cannot read guest image"));
}

TEST_F(IncomingMachineTest, ASourceIsNotToldWhatIsInAFileThatItNames) {
  Write("secret", "known to this host alone");
  const std::string digest = absl::BytesToHexString(*Await(digests_.Get(Path("secret"))));
  state::v1::VmPayload payload = Payload();
  auto document = *schema::ComputeSystemFromJson(payload.hcs_document_json());
  document.virtual_machine.chipset.linux_kernel_direct->kernel_file_path = Path("secret");
  payload.set_hcs_document_json(schema::ToJson(document));
  // Neither where this host has no kernel of its own, nor to who says no digest.
  host_.settings.kernel = "";
  for (const std::string& wanted : {payload.fingerprint().kernel_sha256(), std::string()}) {
    payload.mutable_fingerprint()->set_kernel_sha256(wanted);
    const IncomingMachine machine = Fit(payload);
    ASSERT_THAT(machine.differences, SizeIs(1));
    EXPECT_EQ(machine.differences[0].field(), "kernel");
    EXPECT_THAT(machine.differences[0].destination(), HasSubstr("has other content"));
    EXPECT_THAT(machine.differences[0].destination(), Not(HasSubstr(digest.substr(0, 8))));
    EXPECT_EQ(machine.fingerprint.kernel_sha256(), "");
  }
}

TEST_F(IncomingMachineTest, UnknownMachineTypeAndCpuModelAreDifferences) {
  state::v1::VmPayload payload = Payload();
  host_.backend.mutable_info().machine_types = {"fake-2"};
  EXPECT_EQ(Difference(payload).field(), "machine_type");
  EXPECT_THAT(Difference(payload).destination(), HasSubstr("unknown to fake 1"));
  host_.backend.mutable_info().machine_types = {"fake-1"};
  auto document = *schema::ComputeSystemFromJson(payload.hcs_document_json());
  document.virtual_machine.platform.layout = 1;
  state::v1::VmPayload newer = payload;
  newer.set_hcs_document_json(schema::ToJson(document));
  newer.mutable_fingerprint()->add_devices("layout 1");
  EXPECT_EQ(Difference(newer).field(), "machine_type");
  EXPECT_THAT(Difference(newer).destination(), HasSubstr("fake 1 has no layout above 0"));
  host_.backend.mutable_info().cpu_models[0] = {"any", {"mul"}, {"add", "sub"}};
  EXPECT_EQ(Difference(payload).field(), "cpu_model");
  EXPECT_THAT(Difference(payload).destination(), HasSubstr("lack mul"));
  host_.backend.mutable_info().cpu_models[0] = {"any", {}, {"sub"}};
  EXPECT_EQ(Difference(payload).field(), "cpu_features");
  EXPECT_EQ(Difference(payload).source(), "add");
}

TEST_F(IncomingMachineTest, DisksMustBeThereInTheSameSize) {
  state::v1::VmPayload payload = Payload();
  Write("data", Qcow2(2 << 20));
  EXPECT_EQ(Difference(payload).field(), "disk data");
  EXPECT_THAT(Difference(payload).destination(), HasSubstr("2097152 bytes"));
  Write("data", "no disk");
  EXPECT_THAT(Difference(payload).destination(), HasSubstr("not a qcow2 file"));
  std::filesystem::remove(Path("data"));
  EXPECT_THAT(Difference(payload).destination(), HasSubstr(Path("data")));
  // An older source does not say sizes; the disk must be there all the same.
  payload.clear_disks();
  EXPECT_EQ(Difference(payload).field(), "disk data");
  Write("data", Qcow2(2 << 20));
  EXPECT_THAT(Fit(payload).differences, IsEmpty());
}

TEST_F(IncomingMachineTest, WhatIsNotSeenHereComesAlongIfItsSourceSendsIt) {
  state::v1::VmPayload payload = Payload();
  state::v1::DiskCopy& copy = *payload.mutable_disks(0)->mutable_copy();
  copy.set_used_bytes(4096);
  EXPECT_THAT(Fit(payload).copies, IsEmpty());
  copy.set_always(true);
  IncomingMachine machine = Fit(payload);
  EXPECT_THAT(machine.differences, IsEmpty());
  ASSERT_THAT(machine.copies, SizeIs(1));
  copy.set_always(false);
  std::filesystem::remove(Path("data"));
  machine = Fit(payload);
  EXPECT_THAT(machine.differences, IsEmpty());
  ASSERT_THAT(machine.copies, SizeIs(1));
  const ArrivingDisk& disk = machine.copies[0];
  EXPECT_EQ(disk.name, "data");
  EXPECT_EQ(disk.lun, "0");
  EXPECT_EQ(disk.format, "qcow2");
  EXPECT_EQ(disk.bytes, uint64_t{1} << 20);
  EXPECT_EQ(disk.used_bytes, 4096u);
  EXPECT_TRUE(DisksAreProved(payload, machine));
  copy.set_refusal("it is special");
  EXPECT_THAT(Difference(payload).destination(), HasSubstr("cannot be copied: it is special"));
  // What is only read has to be here.
  copy.clear_refusal();
  auto document = *schema::ComputeSystemFromJson(payload.hcs_document_json());
  document.virtual_machine.devices.scsi["0"].attachments["0"].read_only = true;
  payload.set_hcs_document_json(schema::ToJson(document));
  EXPECT_THAT(Fit(payload).copies, IsEmpty());
}

// A peer names the file, and what it names must not be what a guest can write to.
TEST_F(IncomingMachineTest, ADiskLiesOnlyOverAWholeImageOutsideOfTheDaemonsFolder) {
  state::v1::VmPayload payload = Payload();
  std::filesystem::remove(Path("data"));
  host_.settings.state_folder = Path("state");
  std::filesystem::create_directory(Path("state"));
  std::filesystem::create_directory_symlink(Path("state"), Path("link"));
  std::filesystem::create_directory(Path("larger"));
  std::filesystem::create_directory_symlink(Path("larger"), Path("state/disks"));
  for (const char* name : {"base", "state/own", "larger/disk"}) Write(name, "content");
  state::v1::DiskBelow& below = *payload.mutable_disks(0)->mutable_copy()->mutable_below();
  below.set_sha256(*Await(digests_.Get(Path("base"))));
  const auto why = [&](const std::string& file, const std::string& format) {
    host_.overlays.images[file].format = format;
    below.set_file(file);
    below.set_format(format);
    const auto differences = Fit(payload).differences;
    return differences.empty() ? "" : differences[0].destination();
  };
  EXPECT_EQ(why(Path("base"), "raw"), "");
  EXPECT_EQ(why(Path("base"), "qcow2"), "");
  EXPECT_EQ(Fit(payload).copies.at(0).below, Path("base"));
  for (const std::string& file :
       {std::string("base"), Path("state/own"), Path("state//own"), Path("./state/own"),
        Path("state/../state/own"), Path("link/own"), "/proc/self/root" + Path("state/own"),
        Path("state/disks/disk"), Path("larger/disk")}) {
    EXPECT_THAT(why(file, "qcow2"), HasSubstr("is not here with the same content")) << file;
  }
  EXPECT_THAT(why(Path("base"), "vmdk"), HasSubstr("is not here with the same content"));
  host_.overlays.images[Path("base")].below = Path("other");
  EXPECT_THAT(why(Path("base"), "qcow2"), HasSubstr("does not hold all of its data"));
}

TEST_F(IncomingMachineTest, DiskSizesAreReadFromFilesOnly) {
  Write("raw", std::string(5000, 'x'));
  EXPECT_EQ(*Await(DiskBytes(&reads_, Path("raw"), "raw")), 5000u);
  ASSERT_EQ(::mkfifo(Path("fifo").c_str(), 0600), 0);
  for (const std::string& path : {Path("fifo"), std::string("/dev/zero"), folder_.path()}) {
    EXPECT_EQ(Await(DiskBytes(&reads_, path, "raw")).status().code(),
              absl::StatusCode::kFailedPrecondition)
        << path;
  }
}

TEST_F(IncomingMachineTest, NobodyElsewhereSharesFoldersOfThisHost) {
  state::v1::VmPayload payload = Payload();
  schema::ComputeSystem document = *schema::ComputeSystemFromJson(payload.hcs_document_json());
  document.virtual_machine.devices.shares["0"] = {"/etc", true};
  payload.set_hcs_document_json(schema::ToJson(document));
  const auto machine = Await(FitMachine(payload, *host_.inventory, digests_));
  EXPECT_EQ(rpc::ReasonOf(machine.status()), "vm_stays");
  EXPECT_THAT(std::string(machine.status().message()), HasSubstr("shares folders of its host"));
}

}  // namespace
}  // namespace ferry::vm
