#include "vmmanager/sandbox/disk_generations.h"

#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>

#include "tests/unit/bridge/task_test.h"
#include "vmmanager/sandbox/fake_file_reads.h"

namespace ferry::vm {
namespace {

using ::testing::HasSubstr;

class DiskGenerationsTest : public TaskTest {
 protected:
  DiskGenerationsTest() {
    for (const char* name : {"a", "b"}) std::ofstream(Path(name)) << "bytes of " << name;
    Attach("0", "a", false);
    Attach("1", "b", true);
  }
  std::string Path(const std::string& name) { return folder_.path() + "/" + name; }
  void Attach(const std::string& lun, const std::string& name, bool read_only) {
    auto& disk = document_.virtual_machine.devices.scsi["0"].attachments[lun];
    disk.path = Path(name);
    disk.read_only = read_only;
  }
  absl::Status Check() { return Await(CheckGenerations(document_, then_, &reads_)); }

  TestFolder folder_;
  FakeFileReads reads_;
  schema::ComputeSystem document_;
  std::vector<state::v1::DiskGeneration> then_;
};

TEST_F(DiskGenerationsTest, SeesWhatBecameOfTheDisksThatTheGuestWritesTo) {
  then_ = *Await(ReadGenerations(document_, &reads_));
  ASSERT_EQ(then_.size(), 1u);
  EXPECT_TRUE(Check().ok());
  // What nobody may write to may be another copy.
  std::ofstream(Path("b")) << "others";
  EXPECT_TRUE(Check().ok());
  std::ofstream(Path("a"), std::ios::app) << "more";
  EXPECT_THAT(Check().message(), HasSubstr("was written to"));
  then_ = *Await(ReadGenerations(document_, &reads_));
  std::filesystem::rename(Path("b"), Path("a"));
  EXPECT_THAT(Check().message(), HasSubstr("is another file"));
  std::filesystem::remove(Path("a"));
  EXPECT_EQ(Check().code(), absl::StatusCode::kNotFound);
}

TEST_F(DiskGenerationsTest, SeesADiskThatIsNotThereOrIsNew) {
  EXPECT_TRUE(HasWritableDisks(document_));
  then_ = *Await(ReadGenerations(document_, &reads_));
  Attach("2", "b", false);
  EXPECT_FALSE(Check().ok());
  document_.virtual_machine.devices.scsi.clear();
  EXPECT_FALSE(HasWritableDisks(document_));
  EXPECT_FALSE(Check().ok());
  then_.clear();
  EXPECT_TRUE(Check().ok());
}

}  // namespace
}  // namespace ferry::vm
