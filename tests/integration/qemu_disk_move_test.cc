// Disks that go to other files, on real QEMU: what is there then, and what is left behind.
#include <sys/stat.h>

#include <memory>
#include <string>
#include <utility>

#include "tests/integration/qemu_overlay_fixture.h"

namespace ferry::vm {
namespace {

namespace json = boost::json;

using QemuDiskMoveTest = QemuOverlayTest;
using Machine = std::shared_ptr<QemuMachine>;

Task<absl::Status> Move(std::shared_ptr<QemuMachine> machine, DiskPlace place, DiskTarget target) {
  PlaceDiskFile nothing;
  co_return co_await MoveQemuDisk(machine, std::move(place), std::move(target), std::move(nothing),
                                  nullptr);
}

TEST_F(QemuDiskMoveTest, AMoveTakesAllOfItAlongAndNoMore) {
  MakeDisk(PathOf("moved"), "raw");
  OnMachine([](QemuOverlayTest* test, Machine machine) -> Task<void> {
    CO_EXPECT_OK(co_await test->Write("disk-0-1", 3, 1));
    DiskTarget target{test->PathOf("moved"), "raw"};
    CO_EXPECT_OK(co_await Move(machine, kSecond, std::move(target)));
    CO_EXPECT_OK(co_await test->Write("disk-0-1", 4, 2));
    EXPECT_EQ(machine->document().virtual_machine.devices.scsi["0"].attachments["1"].path,
              test->PathOf("moved"));
    EXPECT_EQ((co_await machine->RunState()).value_or("?"), "running");
    EXPECT_EQ(co_await CountOf(machine.get(), "query-jobs"), 0u);
    EXPECT_EQ((co_await NodeNamesOf(machine.get())).value().size(), 4u);
  });
  ExpectHolds(PathOf("moved"), "raw", 3, 1);
  ExpectHolds(PathOf("moved"), "raw", 4, 2);
  ExpectHolds(PathOf("disk1"), "raw", 0, 2);
  struct stat moved {};
  ASSERT_EQ(::stat(PathOf("moved").c_str(), &moved), 0);
  EXPECT_LT(moved.st_blocks * 512, 1 << 20);
}

TEST_F(QemuDiskMoveTest, AMoveLeavesWhatLiesBelow) {
  MakeOverlayDisk(PathOf("moved"), PathOf("disk0"), "qcow2");
  OnMachine([](QemuOverlayTest* test, Machine machine) -> Task<void> {
    CO_EXPECT_OK(co_await test->Write("disk-0-0", 3, 1));
    std::vector<DiskOverlay> both = test->Both();
    CO_EXPECT_OK(co_await AddQemuOverlays(machine, std::move(both)));
    CO_EXPECT_OK(co_await test->Write("disk-0-0", 4, 2));
    DiskTarget target{test->PathOf("moved"), "qcow2"};
    CO_EXPECT_OK(co_await Move(machine, kFirst, std::move(target)));
    CO_EXPECT_OK(co_await test->Write("disk-0-0", 5, 3));
    CO_EXPECT_OK(co_await Merge(machine, kFirst, "qcow2"));
  });
  for (const auto& [pattern, mib] : {std::pair(3, 1), std::pair(4, 2), std::pair(5, 3)}) {
    ExpectHolds(PathOf("disk0"), "qcow2", pattern, mib);
  }
}

// A daemon that died has left it.
TEST_F(QemuDiskMoveTest, AMoveThatWasLeftIsCalledOff) {
  MakeDisk(PathOf("moved"), "qcow2");
  OnMachine([](QemuOverlayTest* test, Machine machine) -> Task<void> {
    json::object file = {{"driver", "file"}, {"filename", test->PathOf("moved")}};
    json::object node = {
        {"driver", "qcow2"}, {"node-name", "disk-0-0-over1"}, {"file", std::move(file)}};
    CO_EXPECT_OK((co_await machine->Command("blockdev-add", std::move(node))).status());
    json::object left = {{"job-id", "disk-0-0-move"},
                         {"device", "disk-0-0-fmt"},
                         {"target", "disk-0-0-over1"},
                         {"sync", "top"},
                         {"auto-dismiss", false}};
    CO_EXPECT_OK((co_await machine->Command("blockdev-mirror", std::move(left))).status());
    const auto files = co_await ListQemuDiskFiles(machine);
    CO_EXPECT_OK(files.status());
    EXPECT_EQ(files->at(kFirst), test->PathOf("disk0"));
    EXPECT_EQ(co_await CountOf(machine.get(), "query-jobs"), 0u);
    EXPECT_EQ((co_await NodeNamesOf(machine.get())).value().size(), 4u);
    DiskTarget target{test->PathOf("moved"), "qcow2"};
    CO_EXPECT_OK(co_await Move(machine, kFirst, std::move(target)));
  });
}

}  // namespace
}  // namespace ferry::vm
