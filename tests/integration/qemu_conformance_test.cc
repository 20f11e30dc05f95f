#include <stdlib.h>

#include <filesystem>

#include "tests/integration/qemu_fixture.h"
#include "tests/integration/qemu_img.h"
#include "vmmanager/backend/backend_conformance.h"

namespace ferry::vm {
namespace {

// Opens a backend from outside a coroutine.
std::unique_ptr<QemuBackend> OpenBackend(asio::io_context& context, Executor executor,
                                         QemuBackendConfig config) {
  std::unique_ptr<QemuBackend> opened;
  auto open = [](Executor with, QemuBackendConfig from,
                 std::unique_ptr<QemuBackend>* into) -> Task<void> {
    auto backend = co_await QemuBackend::Open(with, std::move(from));
    EXPECT_TRUE(backend.ok()) << backend.status();
    if (backend.ok()) *into = *std::move(backend);
  };
  Spawn(executor, open(executor, std::move(config), &opened));
  while (!opened && context.run_one() > 0) {
  }
  context.restart();  // it stops when it runs out of work
  return opened;
}

// Two hosts' backends on real QEMU, in folders of their own.
class QemuConformanceFixture : public BackendFixture {
 public:
  explicit QemuConformanceFixture(Executor executor) {
    std::string pattern = ::testing::TempDir() + "ferry-conf-XXXXXX";
    EXPECT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    auto& context = static_cast<asio::io_context&>(asio::query(executor, asio::execution::context));
    source_ = OpenBackend(context, executor, Config("source"));
    destination_ = OpenBackend(context, executor, Config("destination"));
  }

  ~QemuConformanceFixture() override {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  Backend& source() override { return *source_; }
  Backend& destination() override { return *destination_; }
  // In the oldest layout; the other tests with real QEMU have the newest.
  schema::ComputeSystem Document() override { return {}; }
  std::string Folder() override { return folder_; }
  void MakeQcow2(const std::string& path) override { MakeDisk(path, "qcow2"); }
  void MakeOverlay(const std::string& path, const std::string& below,
                   const std::string& format) override {
    MakeOverlayDisk(path, below, format);
  }
  void SnapshotDiskAlone(const std::string& path, const std::string& tag) override {
    RunTool({"qemu-img", "snapshot", "-c", tag, path});
  }

 private:
  QemuBackendConfig Config(const char* name) {
    QemuBackendConfig config;
    config.state_dir = folder_ + "/" + name;
    config.allow_kvm = false;
    config.make_link = [](Executor executor, uint32_t) -> std::unique_ptr<GuestLink> {
      return std::make_unique<SerialGuestLink>(executor);
    };
    return config;
  }

  std::string folder_;
  std::unique_ptr<QemuBackend> source_;
  std::unique_ptr<QemuBackend> destination_;
};

const bool kRegistered = RegisterBackendConformance(
    "QemuBackendConformance", [](Executor executor) -> std::unique_ptr<BackendFixture> {
      return std::make_unique<QemuConformanceFixture>(executor);
    });

}  // namespace
}  // namespace ferry::vm
