#include "vmmanager/qemu/snapshot_job.h"

#include <gtest/gtest.h>

#include <string>

namespace ferry::vm {
namespace {

using Kind = SnapshotJob::Kind;

// What cannot be brought about in a test with QEMU, from its source.
TEST(SnapshotJobErrorTest, WhatElseQemuSays) {
  struct Case {
    const char* text;
    absl::StatusCode code;
  };
  constexpr Case kCases[] = {
      {"State blocked by non-migratable device '0000:00:02.0/vhost-user-vsock'",
       absl::StatusCode::kFailedPrecondition},
      {"There's a migration process in progress", absl::StatusCode::kFailedPrecondition},
      {"vmstate block device 'd0' does not support snapshots", absl::StatusCode::kInvalidArgument},
      {"Could not create snapshot 't' on 'd0'", absl::StatusCode::kAborted},
      {"Error -22 while loading VM state", absl::StatusCode::kDataLoss},
  };
  for (const Case& test : kCases) {
    const absl::Status status = SnapshotJobError(Kind::kSave, "t", test.text, "");
    EXPECT_EQ(status.code(), test.code) << status;
    EXPECT_EQ(std::string(status.message()),
              std::string("QEMU could not save the snapshot 't': ") + test.text);
  }
}

TEST(SnapshotJobErrorTest, CarriesWhatQemuWroteMeanwhile) {
  const absl::Status status =
      SnapshotJobError(Kind::kDelete, "t", "it failed", "qemu: write: No space left on device");
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(std::string(status.message()),
            "QEMU could not delete the snapshot 't': it failed; QEMU said: qemu: write: No space "
            "left on device");
}

}  // namespace
}  // namespace ferry::vm
