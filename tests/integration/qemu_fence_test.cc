// A VM's lock on real QEMU: who has it, for how long, and what it keeps from happening.
#include <fstream>

#include "tests/integration/qemu_fixture.h"
#include "vmmanager/fence/image_lock_fence.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/sandbox/disk_lock.h"

namespace ferry::vm {
namespace {

class QemuFenceTest : public QemuFixture {
 protected:
  // What one daemon has of a host.
  struct Daemon {
    std::unique_ptr<ImageLockFence> fence;
    std::unique_ptr<QemuBackend> backend;
    std::unique_ptr<ComputeSystem> system;
  };

  Task<absl::Status> Open(Daemon* daemon, const char* name) {
    const std::string locks = folder_ + "/locks";
    std::filesystem::create_directory(locks);
    ImageLockOptions options;
    options.folder = locks;
    options.shared = true;
    options.host_id = name;
    options.address = name;
    auto fence = co_await ImageLockFence::Open(executor(), std::move(options));
    if (!fence.ok()) co_return fence.status();
    daemon->fence = *std::move(fence);
    QemuBackendConfig config = Config();
    ImageLockFence* lock = daemon->fence.get();
    config.kept = KeptDescriptor{};
    config.kept->of = [lock](const std::string& id) { return lock->Descriptor(id); };
    config.kept->take_back = [lock](const std::string& id, absl::StatusOr<UniqueFd> kept) {
      lock->TakeBack(id, std::move(kept));
    };
    auto backend = co_await QemuBackend::Open(executor(), std::move(config));
    if (!backend.ok()) co_return backend.status();
    daemon->backend = *std::move(backend);
    co_return absl::OkStatus();
  }

  static Task<absl::Status> Claim(Daemon* daemon, uint64_t epoch) {
    FenceClaim claim{kId, "web", epoch};
    co_return co_await daemon->fence->Claim(std::move(claim));
  }

  static Task<void> ExpectHeld(Daemon* daemon, uint64_t epoch) {
    const absl::Status refused = co_await Claim(daemon, epoch);
    EXPECT_EQ(rpc::ReasonOf(refused), kFenceHeld) << refused;
    EXPECT_NE(refused.message().find("qemu-system"), absl::string_view::npos) << refused;
  }

  Task<void> OutlivesItsDaemon() {
    Daemon first;
    CO_EXPECT_OK(co_await Open(&first, "host-a:1"));
    CO_EXPECT_OK(co_await Claim(&first, 1));
    auto started = co_await StartSystem(first.backend.get());
    CO_EXPECT_OK(started.status());
    first.system = *std::move(started);
    Daemon other;
    CO_EXPECT_OK(co_await Open(&other, "host-b:1"));
    co_await ExpectHeld(&other, 2);
    // As when it is killed: its descriptors are closed, and QEMU runs on.
    const std::string record = first.system->adoption_record();
    first = Daemon();
    co_await ExpectHeld(&other, 2);
    // The next one has the lock back, and can give it up and take it while the VM is there.
    Daemon next;
    CO_EXPECT_OK(co_await Open(&next, "host-a:1"));
    const std::string id = kId;
    const schema::ComputeSystem document = Document();
    auto adopted = co_await next.backend->Adopt(id, document, record);
    CO_EXPECT_OK(adopted.status());
    next.system = *std::move(adopted);
    CO_EXPECT_OK(co_await Claim(&next, 1));
    co_await ExpectHeld(&other, 2);
    co_await next.fence->Yield(id);
    CO_EXPECT_OK(co_await Claim(&other, 2));
    const absl::Status refused = co_await Claim(&next, 3);
    EXPECT_EQ(rpc::ReasonOf(refused), kFenceHeld) << refused;
    co_await other.fence->Yield(id);
    CO_EXPECT_OK(co_await Claim(&next, 3));
    co_await ExpectHeld(&other, 4);
    CO_EXPECT_OK(co_await next.system->Terminate());
    co_await next.fence->Yield(id);
    CO_EXPECT_OK(co_await Claim(&other, 4));
  }

  Task<void> DestinationTakesItOver() {
    Daemon source;
    CO_EXPECT_OK(co_await Open(&source, "host-a:1"));
    CO_EXPECT_OK(co_await Claim(&source, 1));
    Daemon destination;
    CO_EXPECT_OK(co_await Open(&destination, "host-b:1"));
    const std::string id = kId;
    CO_EXPECT_OK(co_await destination.fence->Prepare(id));
    schema::MigrationInitializeOptions options;
    auto incoming = co_await StartDestination(destination.backend.get(), std::move(options));
    CO_EXPECT_OK(incoming.status());
    destination.system = *std::move(incoming);
    co_await source.fence->Yield(id);
    CO_EXPECT_OK(co_await Claim(&destination, 2));
    destination = Daemon();
    co_await ExpectHeld(&source, 3);
  }

  Task<void> DiskInUse() {
    Daemon daemon;
    CO_EXPECT_OK(co_await Open(&daemon, "host-a:1"));
    const std::string image = folder_ + "/disk.img";
    { std::ofstream(image) << std::string(65536, '\0'); }
    schema::ComputeSystem document = Document();
    schema::Attachment& disk = document.virtual_machine.devices.scsi["0"].attachments["0"];
    disk.path = image;
    disk.format = "raw";
    const schema::StartOptions options;
    const std::string id = kId;
    auto one = co_await daemon.backend->Create(id, document);
    CO_EXPECT_OK(one.status());
    CO_EXPECT_OK(co_await (*one)->Start(options, nullptr));
    co_await NotePid(one->get());
    auto copy = co_await daemon.backend->Create(id, document);
    CO_EXPECT_OK(copy.status());
    const absl::Status refused = AsFenceHeld(co_await (*copy)->Start(options, nullptr));
    EXPECT_EQ(rpc::ReasonOf(refused), kFenceHeld) << refused;
    CO_EXPECT_OK(co_await (*one)->Terminate());
  }
};

TEST_F(QemuFenceTest, OutlivesItsDaemon) { Run(OutlivesItsDaemon()); }
TEST_F(QemuFenceTest, DestinationTakesItOver) { Run(DestinationTakesItOver()); }
TEST_F(QemuFenceTest, DiskInUse) { Run(DiskInUse()); }

}  // namespace
}  // namespace ferry::vm
