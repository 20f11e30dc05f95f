#include "vmmanager/sandbox/fingerprint.h"

#include <gmock/gmock.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <functional>

#include "tests/unit/bridge/task_test.h"
#include "vmmanager/state/fingerprint_check.h"

namespace ferry::vm {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class FingerprintTest : public TaskTest {
 protected:
  FingerprintTest() {
    Write("kernel", "a kernel");
    Write("initrd", "an initramfs");
    auto& boot = document_.virtual_machine.chipset.linux_kernel_direct.emplace();
    boot.kernel_file_path = Path("kernel");
    boot.init_rd_path = Path("initrd");
    boot.kernel_cmd_line = "quiet";
    document_.virtual_machine.compute_topology.memory.size_in_mb = 256;
    document_.virtual_machine.compute_topology.processor.count = 2;
    document_.virtual_machine.platform.machine_type = "fake-1";
    document_.virtual_machine.platform.cpu_model = "any";
  }

  std::string Path(const std::string& name) const { return folder_.path() + "/" + name; }
  void Write(const std::string& name, const std::string& text) {
    std::ofstream(Path(name)) << text;
  }

  TestFolder folder_;
  schema::ComputeSystem document_;
  BackendInfo backend_{.name = "fake",
                       .version = "1",
                       .accelerator = "none",
                       .machine_type = "fake-1",
                       .cpu_models = {{"any", {}, {"add", "sub"}}, {"plain", {}, {}}}};
  ThreadedFileReads reads_{io_.get_executor()};
  ImageDigests digests_{reads_};
};

TEST_F(FingerprintTest, SameMachineAgrees) {
  ImageDigests other(reads_);
  auto a = Await(MakeFingerprint(document_, backend_, digests_));
  auto b = Await(MakeFingerprint(document_, backend_, other));
  ASSERT_TRUE(a.ok()) << a.status();
  EXPECT_THAT(CompareFingerprints(*a, *b), IsEmpty());
}

TEST_F(FingerprintTest, DifferencesAreFound) {
  const auto source = *Await(MakeFingerprint(document_, backend_, digests_));
  using Change = std::function<void(schema::ComputeSystem&, BackendInfo&)>;
  const Change changes[] = {
      [](auto&, auto& b) { b.name = "other"; },
      [](auto&, auto& b) { b.version = "2"; },
      [](auto&, auto& b) { b.accelerator = "kvm"; },
      [](auto&, auto& b) { b.cpu_models[0].host_features = {"add"}; },
      [](auto& d, auto&) { d.virtual_machine.platform.machine_type = "fake-2"; },
      [](auto& d, auto&) { d.virtual_machine.compute_topology.processor.count = 3; },
      [](auto& d, auto&) { d.virtual_machine.compute_topology.memory.size_in_mb = 512; },
      [](auto& d, auto&) {
        d.virtual_machine.chipset.linux_kernel_direct->kernel_cmd_line = "loud";
      },
      [this](auto& d, auto&) {
        Write("kernel-2", "another kernel");
        d.virtual_machine.chipset.linux_kernel_direct->kernel_file_path = Path("kernel-2");
      },
      [this](auto& d, auto&) {
        d.virtual_machine.chipset.linux_kernel_direct->init_rd_path = Path("kernel");
      },
      [](auto& d, auto&) { d.virtual_machine.devices.scsi["0"].attachments["0"].name = "data"; },
      [](auto& d, auto&) { d.virtual_machine.platform.layout = 1; },
      [](auto& d, auto&) { d.virtual_machine.devices.hv_socket.emplace().guest_cid = 5; },
      [this](auto& d, auto&) {
        d.virtual_machine.chipset.uefi = {Path("kernel"), "/store"};
      },
  };
  int index = 0;
  for (const Change& change : changes) {
    schema::ComputeSystem document = document_;
    BackendInfo backend = backend_;
    change(document, backend);
    auto here = Await(MakeFingerprint(document, backend, digests_));
    ASSERT_TRUE(here.ok()) << here.status();
    EXPECT_EQ(CompareFingerprints(source, *here).size(), 1u) << "change " << index;
    ++index;
  }
}

TEST_F(FingerprintTest, OnlyAModelThatDiffersFromHostToHostHasFeatures) {
  EXPECT_THAT(DescribeMachine(document_, backend_).cpu_features(), ElementsAre("add", "sub"));
  document_.virtual_machine.platform.cpu_model = "plain";
  EXPECT_THAT(DescribeMachine(document_, backend_).cpu_features(), IsEmpty());
}

TEST_F(FingerprintTest, ImagesAgreeByContentNotByPath) {
  const auto source = *Await(MakeFingerprint(document_, backend_, digests_));
  Write("copy", "a kernel");
  document_.virtual_machine.chipset.linux_kernel_direct->kernel_file_path = Path("copy");
  EXPECT_THAT(CompareFingerprints(source, *Await(MakeFingerprint(document_, backend_, digests_))),
              IsEmpty());
}

TEST_F(FingerprintTest, MissingImageIsNamed) {
  document_.virtual_machine.chipset.linux_kernel_direct->init_rd_path = Path("nowhere");
  const absl::Status status = Await(MakeFingerprint(document_, backend_, digests_)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(status.message(), HasSubstr(Path("nowhere")));
}

TEST_F(FingerprintTest, OnlyRegularFilesOfABoundedSizeAreRead) {
  ASSERT_EQ(::mkfifo(Path("fifo").c_str(), 0600), 0);
  std::ofstream(Path("huge")).close();
  std::filesystem::resize_file(Path("huge"), (1ull << 30) + 1);  // sparse
  for (const std::string& path :
       {Path("fifo"), std::string("/dev/zero"), folder_.path(), Path("huge")}) {
    const absl::Status status = Await(digests_.Get(path)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    EXPECT_THAT(status.message(), HasSubstr(path));
  }
}

TEST_F(FingerprintTest, DigestIsRememberedUntilTheFileChanges) {
  const std::string first = *Await(digests_.Get(Path("kernel")));
  EXPECT_EQ(*Await(digests_.Get(Path("kernel"))), first);
  Write("kernel", "a kernel of another size");
  const std::string second = *Await(digests_.Get(Path("kernel")));
  EXPECT_NE(second, first);
  // Another file of the same size put in its place.
  Write("next", "a kernel of Another size");
  std::filesystem::rename(Path("next"), Path("kernel"));
  EXPECT_NE(*Await(digests_.Get(Path("kernel"))), second);
  std::filesystem::remove(Path("kernel"));
  EXPECT_EQ(Await(digests_.Get(Path("kernel"))).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(FingerprintTest, FewDigestsAreRemembered) {
  for (size_t i = 0; i < ImageDigests::kMaxKnown + 10; ++i) {
    const std::string name = "image-" + std::to_string(i);
    Write(name, name);
    EXPECT_TRUE(Await(digests_.Get(Path(name))).ok());
  }
  EXPECT_EQ(digests_.known(), ImageDigests::kMaxKnown);
}

}  // namespace
}  // namespace ferry::vm
