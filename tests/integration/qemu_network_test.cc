#include <gmock/gmock.h>
#include <linux/capability.h>
#include <sched.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <sstream>

#include "bridge/network/route_socket.h"
#include "bridge/runtime/status_macros.h"
#include "tests/integration/qemu_fixture.h"
#include "tests/integration/qemu_img.h"
#include "vmmanager/network/linux_host_network.h"
#include "vmmanager/network/tap_device.h"
#include "vmmanager/qemu/qmp_client.h"
#include "vmmanager/qemu/unix_socket.h"

// Network cards of real QEMUs on real bridges, in a network namespace of each test's own.
namespace ferry::vm {
namespace {

using schema::MigrationFinalOperation;
using schema::MigrationOrigin;
using ::testing::HasSubstr;

constexpr char kMac[] = "02-FE-00-00-00-01";

// Whether this thread may change networks.
void MayChangeNetworks(bool may) {
  struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {};
  ASSERT_EQ(::syscall(SYS_capget, &header, data), 0);
  uint32_t& effective = data[CAP_TO_INDEX(CAP_NET_ADMIN)].effective;
  effective &= ~CAP_TO_MASK(CAP_NET_ADMIN);
  if (may) effective |= CAP_TO_MASK(CAP_NET_ADMIN);
  ASSERT_EQ(::syscall(SYS_capset, &header, data), 0);
}

// As one who owns the tap, and has no other right to it.
absl::Status OpenAsItsOwner(const std::string& tap) {
  MayChangeNetworks(false);
  absl::StatusOr<net::RouteSocket> kernel = net::RouteSocket::Open();
  const absl::Status opened = kernel.ok() ? OpenOwnTap(*kernel, tap).status() : kernel.status();
  MayChangeNetworks(true);
  return opened;
}

class QemuNetworkTest : public QemuFixture {
 protected:
  void SetUp() override {
    QemuFixture::SetUp();
    if (::unshare(CLONE_NEWNET) != 0) GTEST_SKIP() << "network namespaces are refused here";
    if (::access("/dev/net/tun", R_OK | W_OK) != 0) GTEST_SKIP() << "there is no /dev/net/tun";
    RunTool({"ip", "link", "add", "br0", "type", "bridge"});
    RunTool({"ip", "link", "set", "br0", "mtu", "1400", "up"});
    LinuxHostNetwork::Options options;
    options.bridges = {{"lan", "br0"}};
    network_ = std::make_shared<LinuxHostNetwork>(executor(), options);
  }

  Task<absl::Status> OpenBackend() {
    QemuBackendConfig config = Config();
    config.network = network_;
    auto backend = co_await QemuBackend::Open(executor(), std::move(config));
    if (!backend.ok()) co_return backend.status();
    backend_ = *std::move(backend);
    co_return absl::OkStatus();
  }

  static schema::NetworkAdapter OnBridge(const std::string& bridge) {
    return {kMac, "eth0", bridge, "", false};
  }
  static schema::NetworkAdapter OnTap(const std::string& tap) {
    return {kMac, "eth0", "", tap, false};
  }

  Task<absl::StatusOr<std::unique_ptr<ComputeSystem>>> Create(schema::NetworkAdapter adapter) {
    schema::ComputeSystem document = Document();
    document.virtual_machine.devices.network_adapters["0"] = std::move(adapter);
    const std::string id = kId;
    co_return co_await backend_->Create(id, document);
  }

  Task<absl::Status> StartIt(ComputeSystem* system) {
    const schema::StartOptions options;
    const absl::Status started = co_await system->Start(options, nullptr);
    if (started.ok()) co_await NotePid(system);
    co_return started;
  }

  static std::vector<net::Link> Links() { return *net::RouteSocket::Open()->ListLinks(); }
  static net::Link Find(const std::string& name) {
    return net::RouteSocket::Open()->FindLink(name).value_or(net::Link());
  }
  // Of the kind that we make.
  static std::vector<net::Link> Taps() {
    std::vector<net::Link> taps;
    for (const net::Link& link : Links()) {
      if (link.kind == "tun") taps.push_back(link);
    }
    return taps;
  }
  static size_t CountUp() {
    size_t up = 0;
    for (const net::Link& tap : Taps()) up += tap.is_up ? 1 : 0;
    return up;
  }
  // What was posted to the networks' thread before is done then.
  Task<void> Settle() { co_await SettleOn(network_); }
  static Task<void> SettleOn(std::shared_ptr<HostNetwork> network) {
    (void)co_await network->Carry({});
  }

  Task<void> CarriesWhileItRuns() {
    CO_EXPECT_OK(co_await OpenBackend());
    auto system = co_await Create(OnBridge("br0"));
    CO_EXPECT_OK(system.status());
    EXPECT_EQ(Taps().size(), 0u);
    CO_EXPECT_OK(co_await StartIt(system->get()));
    EXPECT_EQ(Taps().size(), 1u);
    const net::Link tap = Taps().at(0);
    EXPECT_TRUE(tap.is_up);
    EXPECT_EQ(tap.master, Find("br0").index);
    EXPECT_EQ(tap.mac.ToString(), "fe:fe:00:00:00:01");
    EXPECT_EQ(tap.mtu, 1400u);
    EXPECT_EQ(Find("br0").mtu, 1400u);
    CO_EXPECT_OK(co_await (*system)->Terminate());
    EXPECT_EQ(Taps().size(), 0u) << "it goes with QEMU";
  }

  Task<void> RefusesWithTheFix() {
    CO_EXPECT_OK(co_await OpenBackend());
    for (const schema::NetworkAdapter& adapter :
         {OnBridge("br1"), OnBridge("lo"), OnTap("tap7"), OnTap("br0")}) {
      schema::NetworkAdapter asked = adapter;
      const absl::Status checked = co_await backend_->CheckAdapter(std::move(asked));
      EXPECT_TRUE(absl::IsFailedPrecondition(checked)) << checked;
      EXPECT_THAT(std::string(checked.message()),
                  HasSubstr(adapter.tap.empty() ? "ferryd --bridge" : "ip tuntap add"));
      schema::NetworkAdapter wanted = adapter;
      auto system = co_await Create(std::move(wanted));
      CO_EXPECT_OK(system.status());
      const absl::Status started = co_await StartIt(system->get());
      EXPECT_TRUE(absl::IsFailedPrecondition(started)) << started;
      EXPECT_THAT(std::string(started.message()), HasSubstr("eth0"));
    }
    for (const schema::NetworkAdapter& adapter : {OnBridge("br0/../x"), OnTap("tap%d")}) {
      schema::NetworkAdapter asked = adapter;
      const absl::Status checked = co_await backend_->CheckAdapter(std::move(asked));
      EXPECT_TRUE(absl::IsInvalidArgument(checked)) << checked;
    }
    RunTool({"ip", "link", "set", "br0", "down"});
    schema::NetworkAdapter asked = OnBridge("lan");
    const absl::Status down = co_await backend_->CheckAdapter(std::move(asked));
    EXPECT_THAT(std::string(down.message()), HasSubstr("br0 (which stands for lan here) is down"));
    EXPECT_EQ(Taps().size(), 0u);
    EXPECT_EQ(FoldersLeft(), 0u);
  }

  Task<void> MapsBridges() {
    CO_EXPECT_OK(co_await OpenBackend());
    auto system = co_await Create(OnBridge("lan"));
    CO_EXPECT_OK(system.status());
    CO_EXPECT_OK(co_await StartIt(system->get()));
    EXPECT_EQ(Taps().at(0).master, Find("br0").index);
    CO_EXPECT_OK(co_await (*system)->Terminate());
  }

  Task<void> UsesTheUsersTap() {
    RunTool({"ip", "tuntap", "add", "tap7", "mode", "tap"});
    CO_EXPECT_OK(co_await OpenBackend());
    schema::NetworkAdapter down = OnTap("tap7");
    CO_EXPECT_OK(co_await backend_->CheckAdapter(std::move(down)));
    EXPECT_FALSE(Find("tap7").is_up);
    RunTool({"ip", "link", "set", "tap7", "up"});
    schema::NetworkAdapter up = OnTap("tap7");
    CO_EXPECT_OK(co_await backend_->CheckAdapter(std::move(up)));
    EXPECT_TRUE(Find("tap7").is_up) << "a look at it set it down";
    auto system = co_await Create(OnTap("tap7"));
    CO_EXPECT_OK(system.status());
    CO_EXPECT_OK(co_await StartIt(system->get()));
    EXPECT_TRUE(Find("tap7").is_up);
    schema::NetworkAdapter second = OnTap("tap7");
    const absl::Status busy = co_await backend_->CheckAdapter(std::move(second));
    EXPECT_THAT(std::string(busy.message()), HasSubstr("in use"));
    CO_EXPECT_OK(co_await (*system)->Terminate());
    EXPECT_EQ(Taps().size(), 1u) << "it stays";
  }

  Task<void> AdoptsItsCards() {
    CO_EXPECT_OK(co_await OpenBackend());
    auto system = co_await Create(OnBridge("br0"));
    CO_EXPECT_OK(system.status());
    CO_EXPECT_OK(co_await StartIt(system->get()));
    const std::string record = (*system)->adoption_record();
    schema::ComputeSystem document = Document();
    document.virtual_machine.devices.network_adapters["0"] = OnBridge("br0");
    system->reset();
    RunTool({"ip", "link", "set", Taps().at(0).name, "down"});
    const std::string id = kId;
    auto adopted = co_await backend_->Adopt(id, document, record);
    CO_EXPECT_OK(adopted.status());
    co_await Settle();
    EXPECT_EQ(CountUp(), 1u);
    CO_EXPECT_OK(co_await (*adopted)->Terminate());
    EXPECT_EQ(Taps().size(), 0u);
  }

  // Both in one place: which tap is whose is known by their order.
  Task<absl::Status> OpenPair() {
    absl::Status status = co_await OpenBackend();
    if (!status.ok()) co_return status;
    auto source = co_await Create(OnBridge("br0"));
    if (!source.ok()) co_return source.status();
    source_ = *std::move(source);
    status = co_await StartIt(source_.get());
    if (!status.ok()) co_return status;
    auto destination = co_await Create(OnBridge("lan"));
    if (!destination.ok()) co_return destination.status();
    destination_ = *std::move(destination);
    schema::StartOptions options;
    options.destination_migration_options.emplace();
    const MigrationEndpoint endpoint{MigrationPath()};
    status = co_await destination_->Start(options, &endpoint);
    if (!status.ok()) co_return status;
    co_await NotePid(destination_.get());
    const schema::MigrationInitializeOptions initialize;
    status = co_await source_->InitializeLiveMigrationOnSource(initialize);
    if (!status.ok()) co_return status;
    const schema::MigrationStartOptions start;
    co_return co_await source_->StartLiveMigrationOnSource(start, endpoint);
  }

  static Task<absl::Status> Refuse() { co_return absl::UnavailableError("called off"); }

  static Task<void> TakeIn(ComputeSystem* system, AsyncEvent* over) {
    constexpr schema::MigrationTransferOptions kIn{MigrationOrigin::kDestination};
    TransferHooks none;
    (void)co_await system->StartLiveMigrationTransfer(kIn, std::move(none));
    over->Set();
  }

  Task<void> MovesWithItsCard() {
    constexpr schema::MigrationTransferOptions kOut{MigrationOrigin::kSource};
    CO_EXPECT_OK(co_await OpenPair());
    const std::vector<net::Link> before = Taps();
    EXPECT_EQ(before.size(), 2u);
    EXPECT_TRUE(before.at(0).is_up);
    EXPECT_FALSE(before.at(1).is_up) << "carries before it runs";
    EXPECT_EQ(before.at(1).master, Find("br0").index);
    AsyncEvent over(executor());
    Spawn(executor(), TakeIn(destination_.get(), &over));
    TransferHooks none;
    CO_EXPECT_OK(co_await source_->StartLiveMigrationTransfer(kOut, std::move(none)));
    co_await over.Wait();
    co_await Settle();
    EXPECT_EQ(CountUp(), 0u) << "nobody has it now";
    constexpr schema::MigrationFinalizedOptions kRun{MigrationOrigin::kDestination,
                                                     MigrationFinalOperation::kResume};
    CO_EXPECT_OK(co_await destination_->FinalizeLiveMigration(kRun));
    EXPECT_FALSE(Taps().at(0).is_up);
    EXPECT_TRUE(Taps().at(1).is_up);
    CO_EXPECT_OK(co_await source_->Terminate());
    CO_EXPECT_OK(co_await destination_->Terminate());
    EXPECT_EQ(Taps().size(), 0u);
  }

  // Has a QEMU that takes a migration run as soon as it has it, which Ferry does not tell it to.
  Task<absl::Status> LetArrivalRun() {
    for (const auto& entry : std::filesystem::directory_iterator(folder_ + "/state")) {
      auto folder = OpenFolder(entry.path());
      if (!folder.ok()) continue;
      auto socket = ConnectUnix(folder->get(), "qmp-spare");
      if (!socket.ok()) continue;
      QmpClient monitor(executor(), *std::move(socket));
      CO_RETURN_IF_ERROR(co_await monitor.WaitReady(milliseconds(60'000)));
      auto status = co_await monitor.Execute("query-status");
      if (!status.ok()) co_return status.status();
      if (status->as_object().at("status").as_string() != "inmigrate") continue;
      co_return (co_await monitor.Execute("cont")).status();
    }
    co_return absl::NotFoundError("nothing takes a migration");
  }

  Task<void> RunsUntold() {
    constexpr schema::MigrationTransferOptions kOut{MigrationOrigin::kSource};
    CO_EXPECT_OK(co_await OpenPair());
    CO_EXPECT_OK(co_await LetArrivalRun());
    AsyncEvent over(executor());
    Spawn(executor(), TakeIn(destination_.get(), &over));
    TransferHooks none;
    CO_EXPECT_OK(co_await source_->StartLiveMigrationTransfer(kOut, std::move(none)));
    co_await over.Wait();
    co_await Settle();
    EXPECT_EQ(CountUp(), 0u) << "whoever runs it next is not alone with its address";
    CO_EXPECT_OK(co_await source_->Terminate());
    CO_EXPECT_OK(co_await destination_->Terminate());
  }

  Task<void> ComesBack() {
    constexpr schema::MigrationTransferOptions kOut{MigrationOrigin::kSource};
    CO_EXPECT_OK(co_await OpenPair());
    AsyncEvent over(executor());
    Spawn(executor(), TakeIn(destination_.get(), &over));
    TransferHooks hooks;
    hooks.on_stopped = [] { return Refuse(); };
    const absl::Status refused =
        co_await source_->StartLiveMigrationTransfer(kOut, std::move(hooks));
    EXPECT_FALSE(refused.ok());
    CO_EXPECT_OK(co_await destination_->Terminate());
    co_await over.Wait();
    co_await Settle();
    EXPECT_EQ(Taps().size(), 1u);
    EXPECT_EQ(CountUp(), 1u) << "the source runs on without its network";
    CO_EXPECT_OK(co_await source_->Terminate());
  }

  std::shared_ptr<LinuxHostNetwork> network_;
  std::unique_ptr<QemuBackend> backend_;
  std::unique_ptr<ComputeSystem> source_;
  std::unique_ptr<ComputeSystem> destination_;
};

TEST_F(QemuNetworkTest, ACardCarriesWhileItsGuestRuns) { Run(CarriesWhileItRuns()); }
TEST_F(QemuNetworkTest, WhatCannotBePluggedInIsRefused) { Run(RefusesWithTheFix()); }
TEST_F(QemuNetworkTest, ABridgeMayHaveAnotherNameHere) { Run(MapsBridges()); }
TEST_F(QemuNetworkTest, AUsersOwnTapIsUsedAndStays) { Run(UsesTheUsersTap()); }
TEST_F(QemuNetworkTest, ATapThatIsDownAndStaysSoIsRefused) {
  RunTool({"ip", "tuntap", "add", "tap7", "mode", "tap", "user", "root"});
  const absl::Status refused = OpenAsItsOwner("tap7");
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("ip link set tap7 up"));
  RunTool({"ip", "link", "set", "tap7", "up"});
  const absl::Status opened = OpenAsItsOwner("tap7");
  EXPECT_TRUE(opened.ok()) << opened;
}
// Who owns it need not be able to, and an administrator could do nothing about it.
TEST_F(QemuNetworkTest, OfATapThatMayNotBeSetDownNothingIsSaid) {
  RunTool({"ip", "tuntap", "add", "tap7", "mode", "tap", "user", "root"});
  RunTool({"ip", "link", "set", "tap7", "up"});
  std::ostringstream said;
  const auto log = spdlog::default_logger();
  spdlog::set_default_logger(std::make_shared<spdlog::logger>(
      "test", std::make_shared<spdlog::sinks::ostream_sink_mt>(said)));
  MayChangeNetworks(false);
  // Its thread has the rights that this one has now.
  auto owners = std::make_shared<LinuxHostNetwork>(executor(), LinuxHostNetwork::Options());
  MayChangeNetworks(true);
  owners->Silence({Find("tap7").index});
  Run(SettleOn(owners));
  spdlog::set_default_logger(log);
  EXPECT_EQ(said.str(), "");
  EXPECT_TRUE(Find("tap7").is_up);
}
TEST_F(QemuNetworkTest, CardsAreTakenOverByTheNextDaemon) { Run(AdoptsItsCards()); }
TEST_F(QemuNetworkTest, ACardMoves) { Run(MovesWithItsCard()); }
TEST_F(QemuNetworkTest, ACardStaysSilentIfItsGuestRunsUntold) { Run(RunsUntold()); }
TEST_F(QemuNetworkTest, ACardComesBackAfterARollback) { Run(ComesBack()); }

}  // namespace
}  // namespace ferry::vm
