#include "vmmanager/backend/snapshots.h"

#include <gtest/gtest.h>

#include <vector>

namespace ferry::vm {
namespace {

TEST(SnapshotChecksTest, ASecondOfTheSameTagIsNotLoaded) {
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
