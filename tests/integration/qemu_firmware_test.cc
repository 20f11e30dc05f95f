// A machine with UEFI firmware on real QEMU: what becomes of its variable store. The firmware is
// one that halts at once; nothing of QEMU knows the difference.
#include <fstream>
#include <iterator>
#include <string>

#include "tests/integration/qemu_fixture.h"
#include "tests/integration/qemu_img.h"

namespace ferry::vm {
namespace {

class QemuFirmwareTest : public QemuFixture {
 public:
  using QemuFixture::Config;
  using QemuFixture::executor;
  using QemuFixture::NotePid;

  static constexpr size_t kFlashBytes = 128 * 1024;

  void SetUp() override {
    QemuFixture::SetUp();
    MakeDisk(PathOf("disk"), "qcow2");
    std::string code(kFlashBytes, '\0');
    code.replace(kFlashBytes - 16, 3, "\xf4\xeb\xfd");  // halts, and again
    std::ofstream(PathOf("code")) << code;
    Fill('A');
  }

  std::string PathOf(const std::string& name) const { return folder_ + "/" + name; }

  // What is in the store, if that is the same throughout.
  void Fill(char c) {
    std::fstream file(PathOf("store"), std::ios::in | std::ios::out | std::ios::app);
    file.close();
    std::fstream store(PathOf("store"), std::ios::in | std::ios::out | std::ios::binary);
    store << std::string(kFlashBytes, c);
  }
  std::string Stored() const {
    std::ifstream file(PathOf("store"), std::ios::binary);
    const std::string all((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    const bool uniform = all.size() == kFlashBytes && all.find_first_not_of(all[0]) == all.npos;
    return uniform ? all.substr(0, 1) : "mixed";
  }

  schema::ComputeSystem FirmwareDocument() const {
    schema::ComputeSystem document = Document();
    document.virtual_machine.compute_topology.memory.size_in_mb = 64;
    document.virtual_machine.chipset.uefi = schema::Uefi{PathOf("code"), PathOf("store")};
    document.virtual_machine.devices.scsi["0"].attachments["0"].path = PathOf("disk");
    return document;
  }

  Task<absl::StatusOr<std::unique_ptr<ComputeSystem>>> StartPaused() {
    QemuBackendConfig config = Config();
    auto backend = co_await QemuBackend::Open(executor(), std::move(config));
    if (!backend.ok()) co_return backend.status();
    backend_ = *std::move(backend);
    const std::string id = kId;
    const schema::ComputeSystem document = FirmwareDocument();
    auto system = co_await backend_->Create(id, document);
    if (!system.ok()) co_return system.status();
    const schema::StartOptions options;
    absl::Status started = co_await (*system)->Start(options, nullptr);
    if (started.ok()) co_await NotePid(system->get());
    if (started.ok()) started = co_await (*system)->Pause();
    if (!started.ok()) co_return started;
    co_return system;
  }

  static SnapshotOptions Snapshot() {
    SnapshotOptions options;
    options.tag = "then";
    options.disks = {{"0", "0"}};
    options.vm_state = {"0", "0"};
    return options;
  }

  std::unique_ptr<QemuBackend> backend_;
};

// What QEMU does by itself, and our rules rest upon.
TEST_F(QemuFirmwareTest, ASnapshotHasTheStoreInItsMemory) {
  Run([](QemuFirmwareTest* test) -> Task<void> {
    auto started = co_await test->StartPaused();
    CO_EXPECT_OK(started.status());
    ComputeSystem& system = **started;
    SnapshotOptions options = Snapshot();
    CO_EXPECT_OK(co_await system.SaveSnapshot(options));
    const auto listed = co_await system.ListSnapshots();
    CO_EXPECT_OK(listed.status());
    EXPECT_EQ(listed->size(), 1u);  // the store is no disk

    test->Fill('B');
    CO_EXPECT_OK(co_await system.LoadSnapshot(options));
    EXPECT_EQ(test->Stored(), "B");
    CO_EXPECT_OK(co_await system.Resume());
    EXPECT_EQ(test->Stored(), "A");

    CO_EXPECT_OK(co_await system.Pause());
    CO_EXPECT_OK(co_await system.DeleteSnapshot(options.tag, options.disks));
    CO_EXPECT_OK(co_await system.Terminate());
  }(this));
}

// QEMU would die of it.
TEST_F(QemuFirmwareTest, NoSecondStateIsTakenBeforeTheGuestHasRun) {
  Run([](QemuFirmwareTest* test) -> Task<void> {
    auto started = co_await test->StartPaused();
    CO_EXPECT_OK(started.status());
    ComputeSystem& system = **started;
    SnapshotOptions options = Snapshot();
    CO_EXPECT_OK(co_await system.SaveSnapshot(options));
    CO_EXPECT_OK(co_await system.LoadSnapshot(options));
    const absl::Status second = co_await system.LoadSnapshot(options);
    EXPECT_TRUE(absl::IsFailedPrecondition(second)) << second;
    EXPECT_TRUE(second.GetPayload(kNothingChanged).has_value()) << second;
    for (int i = 0; i < 2; ++i) {
      CO_EXPECT_OK(co_await system.Resume());
      CO_EXPECT_OK(co_await system.Pause());
      CO_EXPECT_OK(co_await system.LoadSnapshot(options));
    }
    CO_EXPECT_OK(co_await system.Resume());
    CO_EXPECT_OK(co_await system.Terminate());
  }(this));
}

TEST_F(QemuFirmwareTest, AHostWithoutTheFirmwareSaysSo) {
  std::filesystem::remove(PathOf("code"));
  Run([](QemuFirmwareTest* test) -> Task<void> {
    const absl::Status refused = (co_await test->StartPaused()).status();
    EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
    EXPECT_NE(std::string(refused.message()).find("ovmf"), std::string::npos) << refused;
  }(this));
}

}  // namespace
}  // namespace ferry::vm
