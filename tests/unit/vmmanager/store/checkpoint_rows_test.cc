#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/unit/bridge/task_test.h"
#include "vmmanager/store/sqlite.h"
#include "vmmanager/store/store.h"

namespace ferry::vm {
namespace {

using ::testing::ElementsAre;

class CheckpointRowsTest : public TaskTest {
 protected:
  CheckpointRowsTest() { Reopen(); }
  void Reopen() {
    store_.reset();
    auto opened = OpenSqliteStore(path_, io_.get_executor());
    ASSERT_TRUE(opened.ok()) << opened.status();
    store_ = *std::move(opened);
  }
  // Changes the closed store behind its back.
  void Tamper(const std::string& sql) {
    store_.reset();
    auto connection = SqliteConnection::Open(path_);
    ASSERT_TRUE(connection.ok());
    ASSERT_TRUE((*connection)->Execute(sql).ok()) << sql;
  }
  absl::Status Put(std::vector<CheckpointRow> rows, std::optional<VmRow> vm = std::nullopt) {
    return Await(store_->PutCheckpoints(std::move(rows), std::move(vm)));
  }
  // What is there, as vm/name=record.
  std::vector<std::string> Rows() {
    std::vector<std::string> found;
    const auto rows = Await(store_->ListCheckpoints());
    EXPECT_TRUE(rows.ok()) << rows.status();
    if (!rows.ok()) return found;
    for (const CheckpointRow& row : *rows) {
      found.push_back(row.vm_id + "/" + row.name + "=" + row.record);
    }
    return found;
  }
  std::vector<std::string> Vms() {
    std::vector<std::string> found;
    const auto rows = Await(store_->ListVms());
    EXPECT_TRUE(rows.ok()) << rows.status();
    if (!rows.ok()) return found;
    for (const VmRow& row : *rows) found.push_back(row.id + ":" + row.desired_state);
    return found;
  }
  static VmRow Vm(const std::string& id, const std::string& desired) {
    VmRow row;
    row.id = id;
    row.desired_state = desired;
    return row;
  }

  TestFolder folder_;
  const std::string path_ = folder_.path() + "/ferry.db";
  std::unique_ptr<Store> store_;
};

TEST_F(CheckpointRowsTest, SurviveAReopenAndGoWithTheirVm) {
  const std::string odd("\0\xff'", 3);
  ASSERT_TRUE(Put({{"v", "a", "former"}, {"w", "a", "w's"}}).ok());
  ASSERT_TRUE(Put({{"v", "a", odd}, {"v", "b", "2"}}).ok());
  ASSERT_TRUE(Put({}).ok());
  Reopen();
  EXPECT_THAT(Rows(), ElementsAre("v/a=" + odd, "v/b=2", "w/a=w's"));
  ASSERT_TRUE(Await(store_->DeleteVm("v")).ok());
  Reopen();
  EXPECT_THAT(Rows(), ElementsAre("w/a=w's"));
}

TEST_F(CheckpointRowsTest, AreWrittenTogetherWithTheirVm) {
  ASSERT_TRUE(Put({{"v", "a", "1"}, {"v", "b", "2"}}, Vm("v", "stopped")).ok());
  EXPECT_THAT(Vms(), ElementsAre("v:stopped"));
  ASSERT_TRUE(Put({}, Vm("v", "running")).ok());
  std::vector<CheckpointRow> others = {{"v", "b", "first now"}};
  ASSERT_TRUE(Await(store_->DeleteCheckpoint("v", "a", std::move(others), Vm("v", "paused"))).ok());
  ASSERT_TRUE(Await(store_->DeleteCheckpoint("v", "never was", {}, std::nullopt)).ok());
  Reopen();
  EXPECT_THAT(Rows(), ElementsAre("v/b=first now"));
  EXPECT_THAT(Vms(), ElementsAre("v:paused"));
}

TEST_F(CheckpointRowsTest, AreWrittenAllOrNotAtAll) {
  ASSERT_TRUE(Put({{"v", "a", "1"}}, Vm("v", "stopped")).ok());
  Tamper(
      "CREATE TRIGGER full BEFORE INSERT ON vms WHEN NEW.desired_state = x'72756e6e696e67' "
      "BEGIN SELECT RAISE(ABORT, 'full'); END");
  Reopen();
  EXPECT_FALSE(Put({{"v", "a", "2"}, {"v", "b", "2"}}, Vm("v", "running")).ok());
  EXPECT_THAT(Rows(), ElementsAre("v/a=1"));
  std::vector<CheckpointRow> others = {{"v", "b", "2"}};
  EXPECT_FALSE(
      Await(store_->DeleteCheckpoint("v", "a", std::move(others), Vm("v", "running"))).ok());
  EXPECT_THAT(Rows(), ElementsAre("v/a=1"));
  EXPECT_THAT(Vms(), ElementsAre("v:stopped"));
  // What failed is not in the way of what comes.
  ASSERT_TRUE(Put({{"v", "a", "3"}}, Vm("v", "paused")).ok());
  EXPECT_THAT(Rows(), ElementsAre("v/a=3"));
}

TEST_F(CheckpointRowsTest, AreNewToAnOlderStore) {
  ASSERT_TRUE(Await(store_->PutVm(Vm("v", "stopped"))).ok());
  ASSERT_TRUE(Await(store_->PutSnapshot({"v", "t", "record"})).ok());
  Tamper(
      "DROP TABLE checkpoints; ALTER TABLE vms DROP COLUMN save_draft; ALTER TABLE vms DROP COLUMN "
      "disk_move; "
      "UPDATE store SET version = 6");
  Reopen();
  EXPECT_THAT(Rows(), ElementsAre());
  ASSERT_TRUE(Put({{"v", "a", "1"}}).ok());
  Reopen();
  EXPECT_THAT(Rows(), ElementsAre("v/a=1"));
  EXPECT_THAT(Vms(), ElementsAre("v:stopped"));
  EXPECT_EQ(Await(store_->ListSnapshots())->size(), 1u);
}

}  // namespace
}  // namespace ferry::vm
