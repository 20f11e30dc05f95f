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

TEST(SnapshotChecksTest, ADiskIsNamedForEachStateOfTheTag) {
  const DiskPlace root{"0", "0"};
  const DiskPlace data{"0", "1"};
  const std::vector<DiskSnapshots> present = {{root, {{"t", 1, 1}, {"u", 1, 2}, {"t", 1, 3}}},
                                              {data, {{"u", 1, 2}}}};
  const auto with = DisksWithTag(present, {root, data}, "t");
  ASSERT_TRUE(with.ok()) << with.status();
  EXPECT_EQ(*with, (std::vector<DiskPlace>{root, root}));
  EXPECT_TRUE(absl::IsNotFound(DisksWithTag(present, {data}, "t").status()));
}

}  // namespace
}  // namespace ferry::vm
