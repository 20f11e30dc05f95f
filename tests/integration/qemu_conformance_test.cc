#include <stdlib.h>

#include <boost/json/parse.hpp>
#include <filesystem>
#include <fstream>

#include "tests/integration/qemu_fixture.h"
#include "tests/integration/qemu_img.h"
#include "vmmanager/backend/backend_conformance.h"
#include "vmmanager/qemu/qmp_client.h"
#include "vmmanager/qemu/unix_socket.h"

namespace ferry::vm {
namespace {

// In the BIOS data area: a count since midnight, and a byte that tells whether that has passed.
constexpr uint64_t kTickCount = 0x46c;
constexpr uint64_t kTicksOfADay = 0x1800b0;

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
  explicit QemuConformanceFixture(Executor executor) : executor_(executor) {
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
  // The firmware's clock, which its interrupt handler raises 18 times in a second.
  Task<absl::StatusOr<uint64_t>> Progress(ComputeSystem& system) override {
    const boost::json::value record = boost::json::parse(system.adoption_record());
    const std::string folder(record.at("folder").as_string());
    auto socket = ConnectUnixPath(folder + "/qmp-spare");
    if (!socket.ok()) co_return socket.status();
    QmpClient monitor(executor_, *std::move(socket));
    const absl::Status ready = co_await monitor.WaitReady(milliseconds(60'000));
    if (!ready.ok()) co_return ready;
    const std::string file = folder_ + "/ticks";
    const std::string command = "pmemsave";
    boost::json::object arguments = {
        {"val", kTickCount}, {"size", sizeof(uint32_t) + 1}, {"filename", file}};
    const auto answer = co_await monitor.Execute(command, std::move(arguments));
    if (!answer.ok()) co_return answer.status();
    uint32_t ticks = 0;
    char midnight = 0;
    std::ifstream content(file, std::ios::binary);
    content.read(reinterpret_cast<char*>(&ticks), sizeof ticks).get(midnight);
    co_return ticks + (midnight != 0 ? kTicksOfADay : 0);
  }
  Task<void> LetRun(ComputeSystem& system) override {
    const auto before = co_await Progress(system);
    EXPECT_TRUE(before.ok()) << before.status();
    while (before.ok()) {
      const auto now = co_await Progress(system);
      EXPECT_TRUE(now.ok()) << now.status();
      if (!now.ok() || *now > *before) co_return;
    }
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

  const Executor executor_;
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
