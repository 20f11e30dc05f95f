#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "vmmanager/backend/fake_backend.h"
#include "vmmanager/backend/snapshot_conformance.h"

namespace ferry::vm {
namespace {

class FakeSnapshotFixture final : public SnapshotFixture {
 public:
  explicit FakeSnapshotFixture(Executor executor) : backend_(executor) {
    char name[] = "/tmp/ferry-fake-XXXXXX";
    folder_ = ::mkdtemp(name);
  }
  ~FakeSnapshotFixture() override { std::filesystem::remove_all(folder_); }

  Backend& source() override { return backend_; }
  Backend& destination() override { return backend_; }
  schema::ComputeSystem Document() override { return {}; }
  std::string Folder() override { return folder_; }
  Task<absl::StatusOr<uint64_t>> Progress(ComputeSystem& system) override {
    co_return dynamic_cast<FakeComputeSystem&>(system).counter();
  }
  Task<void> LetRun(ComputeSystem& system) override {
    dynamic_cast<FakeComputeSystem&>(system).Step(3);
    co_return;
  }
  void MakeQcow2(const std::string& path) override { std::ofstream(path) << "disk"; }
  void SnapshotDiskAlone(const std::string& path, const std::string& tag) override {
    backend_.script().snapshots[path].push_back({{tag, 0, 1}, 0});
  }

 private:
  FakeBackend backend_;
  std::string folder_;
};

const bool kRegisteredSnapshots = RegisterSnapshotConformance(
    "FakeSnapshotConformance",
    [](Executor executor) { return std::make_unique<FakeSnapshotFixture>(executor); });

TEST(SnapshotChecksTest, ASecondOfTheSameTagIsNotLoaded) {
  EXPECT_TRUE(kRegisteredSnapshots);
  const DiskPlace place{"0", "0"};
  const std::vector<DiskSnapshots> present = {{place, {{"t", 1, 1}, {"t", 1, 2}}}};
  SnapshotOptions options;
  options.tag = "t";
  options.disks = {place};
  options.vm_state = place;
  const absl::Status status = CheckCanBeLoaded(present, options);
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_EQ(status.message(), "the disk at Scsi/0/0 has 2 snapshots 't'");
}

}  // namespace
}  // namespace ferry::vm
