// Checkpoints of a VM that moves.
#include <filesystem>
#include <fstream>

#include "tests/unit/migration/controller/controller_fixture.h"

namespace ferry::migration {
namespace {

using ::testing::IsEmpty;
using ::testing::SizeIs;

class CheckpointsMoveTest : public ControllerTest {
 protected:
  std::shared_ptr<vm::UtilityVm> BootWithCheckpoint() {
    auto vm = Boot();
    std::ofstream(disk_) << "disk";
    vm::CheckpointRecords records;
    records["a"].set_schema_version(1);
    records["a"].set_stage(state::v1::CHECKPOINT_STAGE_WHOLE);
    records["a"].add_disks()->set_file(disk_);
    const vm::CheckpointRow row{vm->id(), "a", records["a"].SerializeAsString()};
    EXPECT_TRUE(Await(a_.host.store.PutCheckpoints({row}, std::nullopt)).ok());
    vm->SetCheckpoints(std::move(records));
    return vm;
  }
  std::vector<vm::CheckpointRow> RowsOf(MigrationHost& host) {
    return Await(host.host.store.ListCheckpoints()).value();
  }

  TestFolder folder_;
  const std::string disk_ = folder_.path() + "/disk.qcow2";
};

TEST_F(CheckpointsMoveTest, TheyAreTheDestinationsAfterwards) {
  auto vm = BootWithCheckpoint();
  const std::string id = vm->id();
  EXPECT_EQ(Wait(a_, Migrate()).vm_location(), "host-b:1");
  Wait(b_, b_.sessions->List("").front().session_id());
  const auto moved = b_.host.inventory->Find(id);
  ASSERT_TRUE(moved.ok()) << moved.status();
  EXPECT_TRUE((*moved)->checkpoints().contains("a"));
  ASSERT_THAT(RowsOf(b_), SizeIs(1));
  EXPECT_EQ(RowsOf(b_)[0].name, "a");
  EXPECT_THAT(RowsOf(a_), IsEmpty());
  EXPECT_TRUE(std::filesystem::exists(disk_));
}

TEST_F(CheckpointsMoveTest, OfAMigrationThatIsCalledOffNothingStaysThere) {
  auto vm = BootWithCheckpoint();
  a_.host.backend.script().Block("Page");
  const std::string id = Migrate();
  Await(a_.host.backend.script().WaitBlocked("Page"));
  EXPECT_THAT(RowsOf(b_), SizeIs(1));
  EXPECT_TRUE(Await(a_.sessions->Find(id).value()->Cancel("no more")).ok());
  a_.host.backend.script().Release("Page");
  Wait(a_, id);
  Wait(b_, id);
  EXPECT_THAT(RowsOf(b_), IsEmpty());
  ASSERT_THAT(RowsOf(a_), SizeIs(1));
  EXPECT_TRUE(vm->checkpoints().contains("a"));
  EXPECT_TRUE(std::filesystem::exists(disk_));
}

}  // namespace
}  // namespace ferry::migration
