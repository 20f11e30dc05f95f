// Files on top of a VM's disks, on real QEMU: where what is written goes, and what is left behind.
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <boost/json/serialize.hpp>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "tests/integration/qemu_img.h"
#include "tests/integration/qemu_overlay_fixture.h"
#include "vmmanager/qemu/block_job.h"
#include "vmmanager/qemu/disk_nodes.h"
#include "vmmanager/qemu/job_report.h"
#include "vmmanager/qemu/qemu_disks.h"
#include "vmmanager/qemu/qemu_machine.h"
#include "vmmanager/qemu/qemu_overlays.h"
#include "vmmanager/qemu/qemu_save_behind.h"
#include "vmmanager/qemu/qemu_snapshot.h"
#include "vmmanager/qemu/unix_socket.h"

namespace ferry::vm {
namespace {

namespace json = boost::json;

TEST_F(QemuOverlayTest, WhatIsWrittenGoesWhereItShould) {
  OnMachine([](QemuOverlayTest* test, Machine machine) -> Task<void> {
    CO_EXPECT_OK(co_await test->Write("disk-0-0", 1, 1));
    CO_EXPECT_OK(co_await test->Write("disk-0-1", 2, 1));
    std::vector<DiskOverlay> both = test->Both();
    CO_EXPECT_OK(co_await AddQemuOverlays(machine, std::move(both)));
    CO_EXPECT_OK(co_await test->Write("disk-0-0", 3, 1));
    CO_EXPECT_OK(co_await test->Write("disk-0-1", 4, 2));
    const auto& disks = machine->document().virtual_machine.devices.scsi["0"].attachments;
    EXPECT_EQ(disks.at("1").path, test->PathOf("over1"));
    EXPECT_EQ(disks.at("1").format, "qcow2");
  });
  ExpectHolds(PathOf("disk0"), "qcow2", 1, 1);
  ExpectHolds(PathOf("over0"), "qcow2", 3, 1);
  ExpectHolds(PathOf("disk1"), "raw", 2, 1);
  ExpectHolds(PathOf("disk1"), "raw", 0, 2);
  ExpectHolds(PathOf("over1"), "qcow2", 2, 1);
  ExpectHolds(PathOf("over1"), "qcow2", 4, 2);
}

TEST_F(QemuOverlayTest, AMergeBringsAllOfItBelow) {
  OnMachine([](QemuOverlayTest* test, Machine machine) -> Task<void> {
    std::vector<DiskOverlay> both = test->Both();
    CO_EXPECT_OK(co_await AddQemuOverlays(machine, std::move(both)));
    CO_EXPECT_OK(co_await test->Write("disk-0-0", 3, 1));
    CO_EXPECT_OK(co_await test->Write("disk-0-1", 4, 2));
    CO_EXPECT_OK(co_await Merge(machine, kFirst, "qcow2"));
    CO_EXPECT_OK(co_await test->Write("disk-0-0", 5, 5));
    CO_EXPECT_OK((co_await machine->Command("stop")).status());
    CO_EXPECT_OK(co_await Merge(machine, kSecond, "raw"));
    EXPECT_EQ((co_await machine->RunState()).value_or("?"), "paused");
    EXPECT_EQ(machine->document().virtual_machine.devices.scsi["0"].attachments["1"].format, "raw");
    EXPECT_EQ(co_await CountOf(machine.get(), "query-jobs"), 0u);
    const auto names = co_await NodeNamesOf(machine.get());
    CO_EXPECT_OK(names.status());
    EXPECT_EQ(names->size(), 4u);
  });
  ExpectHolds(PathOf("disk0"), "qcow2", 3, 1);
  ExpectHolds(PathOf("disk0"), "qcow2", 5, 5);
  ExpectHolds(PathOf("disk1"), "raw", 4, 2);
}

// The topmost file is written to meanwhile, and after that it lies over the lowest.
TEST_F(QemuOverlayTest, WhatLiesFurtherBelowIsMergedWhileTheGuestWrites) {
  MakeOverlayDisk(PathOf("over2"), PathOf("over0"), "qcow2");
  OnMachine([](QemuOverlayTest* test, Machine machine) -> Task<void> {
    std::vector<DiskOverlay> both = test->Both();
    CO_EXPECT_OK(co_await AddQemuOverlays(machine, std::move(both)));
    CO_EXPECT_OK(co_await test->Write("disk-0-0", 3, 1));
    std::vector<DiskOverlay> third = {{kFirst, test->PathOf("over2")}};
    CO_EXPECT_OK(co_await AddQemuOverlays(machine, std::move(third)));
    CO_EXPECT_OK(co_await test->Write("disk-0-0", 5, 2));
    const LowerOverlay lower{kFirst, test->PathOf("over0"), test->PathOf("disk0")};
    CO_EXPECT_OK(co_await MergeLowerQemuOverlay(machine, lower, nullptr));
    CO_EXPECT_OK(co_await test->Write("disk-0-0", 6, 3));
    const auto files = co_await ListQemuDiskFiles(machine);
    CO_EXPECT_OK(files.status());
    EXPECT_EQ(files->at(kFirst), test->PathOf("over2"));
    EXPECT_EQ(co_await CountOf(machine.get(), "query-jobs"), 0u);
  });
  // What was merged is nobody's any more.
  std::filesystem::remove(PathOf("over0"));
  ExpectHolds(PathOf("disk0"), "qcow2", 3, 1);
  ExpectHolds(PathOf("disk0"), "qcow2", 0, 2);
  ExpectHolds(PathOf("over2"), "qcow2", 3, 1);
  ExpectHolds(PathOf("over2"), "qcow2", 5, 2);
  ExpectHolds(PathOf("over2"), "qcow2", 6, 3);
}

// A daemon that died has left its job, paused so that it is on its way.
TEST_F(QemuOverlayTest, AMergeFurtherBelowThatWasLeftIsDoneAgain) {
  MakeOverlayDisk(PathOf("over2"), PathOf("over0"), "qcow2");
  OnMachine([](QemuOverlayTest* test, Machine machine) -> Task<void> {
    std::vector<DiskOverlay> both = test->Both();
    CO_EXPECT_OK(co_await AddQemuOverlays(machine, std::move(both)));
    CO_EXPECT_OK(co_await test->Write("disk-0-0", 3, 1));
    std::vector<DiskOverlay> third = {{kFirst, test->PathOf("over2")}};
    CO_EXPECT_OK(co_await AddQemuOverlays(machine, std::move(third)));
    json::object left = {{"job-id", "disk-0-0-lower-merge"},
                         {"device", "disk-0-0-over2"},
                         {"top", test->PathOf("over0")},
                         {"base", test->PathOf("disk0")},
                         {"speed", 1},
                         {"auto-dismiss", false}};
    CO_EXPECT_OK((co_await machine->Command("block-commit", std::move(left))).status());
    const LowerOverlay lower{kFirst, test->PathOf("over0"), test->PathOf("disk0")};
    CO_EXPECT_OK(co_await MergeLowerQemuOverlay(machine, lower, nullptr));
    CO_EXPECT_OK(co_await MergeLowerQemuOverlay(machine, lower, nullptr));
    EXPECT_EQ(co_await CountOf(machine.get(), "query-jobs"), 0u);
    // Nothing of what was merged is kept open.
    EXPECT_EQ((co_await NodeNamesOf(machine.get())).value().size(), 8u);
  });
  std::filesystem::remove(PathOf("over0"));
  ExpectHolds(PathOf("over2"), "qcow2", 3, 1);
}

// Its images are closed then, which QEMU calls read-only.
TEST_F(QemuOverlayTest, AfterItsStateWasWrittenBothCanBeDone) {
  OnMachine([](QemuOverlayTest* test, Machine machine) -> Task<void> {
    CO_EXPECT_OK((co_await machine->Command("stop")).status());
    machine->set_state(schema::SystemState::kPaused);
    CO_EXPECT_OK(co_await SaveIntoNothing(machine));
    EXPECT_EQ((co_await machine->RunState()).value_or("?"), "postmigrate");
    std::vector<DiskOverlay> both = test->Both();
    CO_EXPECT_OK(co_await AddQemuOverlays(machine, std::move(both)));
    CO_EXPECT_OK(co_await Merge(machine, kFirst, "qcow2"));
    EXPECT_EQ((co_await machine->RunState()).value_or("?"), "postmigrate");
    CO_EXPECT_OK(co_await machine->RunGuest());
    CO_EXPECT_OK(co_await test->Write("disk-0-0", 6, 1));
    CO_EXPECT_OK(co_await test->Write("disk-0-1", 7, 1));
    CO_EXPECT_OK(co_await Merge(machine, kSecond, "raw"));
  });
  ExpectHolds(PathOf("disk0"), "qcow2", 6, 1);
  ExpectHolds(PathOf("disk1"), "raw", 7, 1);
}

TEST_F(QemuOverlayTest, IfOneFailsNoneHasChanged) {
  OnMachine([](QemuOverlayTest* test, Machine machine) -> Task<void> {
    std::vector<DiskOverlay> both = test->Both();
    both[1].file = test->PathOf("missing");
    EXPECT_FALSE((co_await AddQemuOverlays(machine, both)).ok());
    // It can be opened, and not be put on top: it has that below it already.
    both[1].file = test->PathOf("over0");
    EXPECT_FALSE((co_await AddQemuOverlays(machine, both)).ok());
    const auto files = co_await ListQemuDiskFiles(machine);
    CO_EXPECT_OK(files.status());
    const DiskFiles wanted = {{kFirst, test->PathOf("disk0")}, {kSecond, test->PathOf("disk1")}};
    EXPECT_EQ(*files, wanted);
    EXPECT_EQ(machine->document().virtual_machine.devices.scsi["0"].attachments["0"].path,
              test->PathOf("disk0"));
    EXPECT_EQ((co_await NodeNamesOf(machine.get())).value().size(), 4u);
    both = test->Both();
    CO_EXPECT_OK(co_await AddQemuOverlays(machine, std::move(both)));
  });
}

TEST_F(QemuOverlayTest, AFailedMergeLeavesTheDiskWhereItWas) {
  OnMachine([](QemuOverlayTest* test, Machine machine) -> Task<void> {
    std::vector<DiskOverlay> both = test->Both();
    CO_EXPECT_OK(co_await AddQemuOverlays(machine, std::move(both)));
    CO_EXPECT_OK(co_await test->Write("disk-0-1", 4, 60));
    const auto told = std::make_shared<std::vector<std::pair<bool, std::string>>>();
    PlaceDiskFile place = [told, machine](bool below) -> Task<absl::Status> {
      auto state = co_await machine->RunState();
      told->emplace_back(below, state.value_or("?"));
      co_return below ? absl::ResourceExhaustedError("no room for that note") : absl::OkStatus();
    };
    const absl::Status failed =
        co_await MergeQemuOverlay(machine, kSecond, "raw", std::move(place), nullptr);
    EXPECT_TRUE(absl::IsResourceExhausted(failed)) << failed;
    // Neither was told while the guest ran.
    const std::vector<std::pair<bool, std::string>> wanted = {{true, "paused"}, {false, "paused"}};
    EXPECT_EQ(*told, wanted);
    EXPECT_EQ((co_await machine->RunState()).value_or("?"), "running");
    EXPECT_EQ(co_await CountOf(machine.get(), "query-jobs"), 0u);
    const auto files = co_await ListQemuDiskFiles(machine);
    CO_EXPECT_OK(files.status());
    EXPECT_EQ(files->at(kSecond), test->PathOf("over1"));
    CO_EXPECT_OK(co_await Merge(machine, kSecond, "raw"));
  });
  ExpectHolds(PathOf("disk1"), "raw", 4, 60);
}

// A daemon that died has left it, at work or at its end.
TEST_F(QemuOverlayTest, AJobThatWasLeftIsTakenOver) {
  OnMachine([](QemuOverlayTest* test, Machine machine) -> Task<void> {
    std::vector<DiskOverlay> both = test->Both();
    CO_EXPECT_OK(co_await AddQemuOverlays(machine, std::move(both)));
    CO_EXPECT_OK(co_await test->Write("disk-0-0", 3, 1));
    json::object left = {{"job-id", "disk-0-0-merge"},
                         {"device", "disk-0-0-over1"},
                         {"base", test->PathOf("disk0")},
                         {"auto-dismiss", false}};
    CO_EXPECT_OK((co_await machine->Command("block-commit", std::move(left))).status());
    CO_EXPECT_OK(co_await Merge(machine, kFirst, "qcow2"));

    SwitchJob ended{.id = "disk-0-1-merge", .command = "block-commit"};
    ended.arguments = {{"device", "disk-0-1-over1"}, {"base", test->PathOf("disk1")}};
    CO_EXPECT_OK(co_await RunSwitchJob(machine, ended));
    EXPECT_EQ(co_await CountOf(machine.get(), "query-jobs"), 1u);
    // One that has ended says nothing of what the disk has on top now.
    std::vector<DiskOverlay> second = {{kSecond, test->PathOf("again")}};
    MakeOverlayDisk(second[0].file, test->PathOf("disk1"), "raw");
    CO_EXPECT_OK(co_await AddQemuOverlays(machine, std::move(second)));
    CO_EXPECT_OK(co_await test->Write("disk-0-1", 5, 2));
    CO_EXPECT_OK(co_await Merge(machine, kSecond, "raw"));
    EXPECT_EQ(co_await CountOf(machine.get(), "query-jobs"), 0u);
    EXPECT_EQ((co_await NodeNamesOf(machine.get())).value().size(), 4u);
    const auto files = co_await ListQemuDiskFiles(machine);
    CO_EXPECT_OK(files.status());
    EXPECT_EQ(files->at(kSecond), test->PathOf("disk1"));
  });
  ExpectHolds(PathOf("disk0"), "qcow2", 3, 1);
  ExpectHolds(PathOf("disk1"), "raw", 5, 2);
}

// Else it would change over after somebody was told where the disk is.
TEST_F(QemuOverlayTest, WhoAsksForTheFilesEndsAJobThatWasLeft) {
  OnMachine([](QemuOverlayTest* test, Machine machine) -> Task<void> {
    std::vector<DiskOverlay> both = test->Both();
    CO_EXPECT_OK(co_await AddQemuOverlays(machine, std::move(both)));
    CO_EXPECT_OK(co_await test->Write("disk-0-0", 3, 1));
    json::object left = {{"job-id", "disk-0-0-merge"},
                         {"device", "disk-0-0-over1"},
                         {"base", test->PathOf("disk0")},
                         {"auto-dismiss", false}};
    CO_EXPECT_OK((co_await machine->Command("block-commit", std::move(left))).status());
    JobReport job;
    while (job.state != "ready") {
      const auto asked = co_await AskForJob(machine.get(), "disk-0-0-merge");
      CO_EXPECT_OK(asked.status());
      job = *asked;
    }
    const auto files = co_await ListQemuDiskFiles(machine);
    CO_EXPECT_OK(files.status());
    EXPECT_EQ(files->at(kFirst), test->PathOf("over0"));
    const auto ended = co_await AskForJob(machine.get(), "disk-0-0-merge");
    CO_EXPECT_OK(ended.status());
    EXPECT_EQ(ended->state, "concluded");
    CO_EXPECT_OK(co_await test->Write("disk-0-0", 4, 1));
    CO_EXPECT_OK(co_await Merge(machine, kFirst, "qcow2"));
  });
  ExpectHolds(PathOf("disk0"), "qcow2", 4, 1);
}

// Snapshots are in the file on top, which must not be merged away with them.
TEST_F(QemuOverlayTest, SnapshotsInsideTheFileOnTop) {
  OnMachine([](QemuOverlayTest* test, Machine machine) -> Task<void> {
    std::vector<DiskOverlay> both = test->Both();
    CO_EXPECT_OK(co_await AddQemuOverlays(machine, std::move(both)));
    CO_EXPECT_OK((co_await machine->Command("stop")).status());
    machine->set_state(schema::SystemState::kPaused);
    SnapshotOptions options;
    options.tag = "t";
    options.disks = {kFirst, kSecond};
    options.vm_state = kFirst;
    CO_EXPECT_OK(co_await SaveQemuSnapshot(machine, options));
    const auto listed = co_await ListQemuSnapshots(machine);
    CO_EXPECT_OK(listed.status());
    EXPECT_EQ(listed->size(), 2u);
    CO_EXPECT_OK(co_await LoadQemuSnapshot(machine, options));
    const absl::Status refused = co_await Merge(machine, kFirst, "qcow2");
    EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
    std::vector<DiskPlace> disks = options.disks;
    CO_EXPECT_OK(co_await DeleteQemuSnapshot(machine, "t", std::move(disks)));
    CO_EXPECT_OK(co_await Merge(machine, kFirst, "qcow2"));
  });
}

// QEMU waits for whoever reads, and its end must still be heard.
TEST_F(QemuOverlayTest, SavingBehindEndsWithQemu) {
  OnMachine([](QemuOverlayTest* test, Machine machine) -> Task<void> {
    CO_EXPECT_OK((co_await machine->Command("stop")).status());
    machine->set_state(schema::SystemState::kPaused);
    int ends[2] = {-1, -1};
    EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    const UniqueFd never_read(ends[0]);
    UniqueFd to(ends[1]);
    auto end = [](std::shared_ptr<QemuMachine> what) -> Task<void> {
      (void)co_await what->End(SystemExit::Cause::kTerminated);
    };
    std::function<void()> on_running = [&] { Spawn(test->executor(), end(machine)); };
    const schema::SaveOptions options;
    const absl::Status saved =
        co_await SaveQemuBehind(machine, options, std::move(to), std::move(on_running));
    EXPECT_FALSE(saved.ok());
    EXPECT_TRUE(absl::IsUnimplemented(saved) || absl::IsUnavailable(saved)) << saved;
  });
}

// QEMU took it when its call was given up, and keeps it, and with it the pipe open.
TEST_F(QemuOverlayTest, ADescriptorThatCameLateIsNotInTheWayOfSavingBehind) {
  OnMachine([](QemuOverlayTest* test, Machine machine) -> Task<void> {
    CO_EXPECT_OK((co_await machine->Command("stop")).status());
    machine->set_state(schema::SystemState::kPaused);
    UniqueFd nowhere(::open("/dev/null", O_WRONLY | O_CLOEXEC));
    auto write = co_await machine->OpenStatePipe(std::move(nowhere));
    CO_EXPECT_OK(write.status());
    QmpCallOptions with_pipe;
    with_pipe.send_fd = write->get();
    json::object name = {{"fdname", "state-behind"}};
    CO_EXPECT_OK((co_await machine->Command("getfd", std::move(name), with_pipe)).status());
    write->Reset();
    const std::string file = test->PathOf("memory");
    UniqueFd to(::open(file.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    std::function<void()> on_running;
    const schema::SaveOptions options;
    const absl::Status saved =
        co_await SaveQemuBehind(machine, options, std::move(to), std::move(on_running));
    // As an unprivileged user it cannot be done at all.
    EXPECT_FALSE(absl::StrContains(saved.message(), "still writes")) << saved;
    EXPECT_TRUE(saved.ok() || (::geteuid() != 0 && absl::IsUnimplemented(saved))) << saved;
  });
}

// What the firmware counts at 18 Hz while it runs.
class QemuSaveBehindTest : public QemuOverlayTest {
 public:
  using QemuFixture::MigrationPath;
  using QemuFixture::StartDestination;
  using QemuFixture::StartSystem;

  std::string Ticks() const {
    const std::string said = Monitor("xp /1wx 0x46c");
    const size_t from = said.find("0x");
    return from == std::string::npos ? said : said.substr(from, said.find("\\r", from) - from);
  }

  Task<void> AwaitOtherTicks(std::string than) const {
    while (Ticks() == than) co_await Delay(milliseconds(20));
  }

  // Gives a system that waits for its state what is in a file.
  static std::thread FeedFile(const std::string& path, const std::string& file) {
    return std::thread([path, file] {
      auto socket = ConnectUnixPath(path);
      EXPECT_TRUE(socket.ok()) << socket.status();
      if (!socket.ok()) return;
      ::fcntl(socket->get(), F_SETFL, ::fcntl(socket->get(), F_GETFL) & ~O_NONBLOCK);
      std::ifstream in(file, std::ios::binary);
      std::string state((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
      EXPECT_GT(state.size(), 100'000u);
      std::string_view rest = state;
      while (!rest.empty()) {
        const ssize_t count = ::send(socket->get(), rest.data(), rest.size(), MSG_NOSIGNAL);
        if (count <= 0) return;
        rest.remove_prefix(static_cast<size_t>(count));
      }
      ::shutdown(socket->get(), SHUT_WR);
      char ignored = 0;
      while (::read(socket->get(), &ignored, 1) > 0) continue;
    });
  }
};

TEST_F(QemuSaveBehindTest, MemoryIsOfTheInstantOfThePause) {
  Run([](QemuSaveBehindTest* test) -> Task<void> {
    QemuBackendConfig config = test->Config();
    auto backend = co_await QemuBackend::Open(test->executor(), config);
    CO_EXPECT_OK(backend.status());
    auto source = co_await test->StartSystem(backend->get());
    CO_EXPECT_OK(source.status());
    co_await test->AwaitOtherTicks("0x00000000");
    CO_EXPECT_OK(co_await (*source)->Pause());
    const std::string then = test->Ticks();
    const std::string file = test->PathOf("memory");
    UniqueFd to(::open(file.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    std::function<void()> on_running;
    const schema::SaveOptions options;
    const absl::Status saved =
        co_await (*source)->SaveBehind(options, std::move(to), std::move(on_running));
    if (absl::IsUnimplemented(saved)) {
      // As an unprivileged user.
      CO_EXPECT_OK(co_await (*source)->Terminate());
      co_return;
    }
    CO_EXPECT_OK(saved);
    co_await test->AwaitOtherTicks(then);
    CO_EXPECT_OK(co_await (*source)->Terminate());
    schema::MigrationInitializeOptions incoming;
    incoming.origin = schema::MigrationOrigin::kDestination;
    auto destination = co_await test->StartDestination(backend->get(), incoming);
    CO_EXPECT_OK(destination.status());
    std::thread feed = FeedFile(test->MigrationPath(), file);
    const schema::MigrationTransferOptions transfer{schema::MigrationOrigin::kDestination};
    TransferHooks hooks;
    const absl::Status loaded =
        co_await (*destination)->StartLiveMigrationTransfer(transfer, std::move(hooks));
    feed.join();
    CO_EXPECT_OK(loaded);
    EXPECT_EQ(test->Ticks(), then);
    CO_EXPECT_OK(co_await (*destination)->Terminate());
  }(this));
}

TEST(BlockJobErrorTest, AFullDiskIsTold) {
  EXPECT_TRUE(absl::IsResourceExhausted(BlockJobError("merge", "No space left on device")));
  EXPECT_TRUE(absl::IsAborted(BlockJobError("merge", "Input/output error")));
}

TEST(DiskNodesTest, NamesAreFreeAndShort) {
  EXPECT_EQ(FreeNodeName({}, "disk-0-0"), "disk-0-0-over1");
  EXPECT_EQ(FreeNodeName({"disk-0-0-over1", "disk-0-0-over2"}, "disk-0-0"), "disk-0-0-over3");
  EXPECT_EQ(PathInFileName("/a"), "/a");
  EXPECT_EQ(PathInFileName(R"(json:{"driver":"qcow2","file":{"driver":"file","filename":"/b"}})"),
            "/b");
}

}  // namespace
}  // namespace ferry::vm
