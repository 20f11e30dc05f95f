#include "bridge/container/scsi_disks.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>

namespace ferry::bridge {
namespace {

namespace fs = std::filesystem;

class ScsiDisksTest : public testing::Test {
 protected:
  ScsiDisksTest() {
    char name[] = "/tmp/ferry-sysfs-XXXXXX";
    root_ = mkdtemp(name);
  }
  ~ScsiDisksTest() override { fs::remove_all(root_); }

  std::string root_;
};

TEST_F(ScsiDisksTest, ControllersCountInTheKernelsOrder) {
  EXPECT_TRUE(absl::IsNotFound(ScsiHostNumber(0, root_).status()));
  for (const char* host : {"host10", "host2", "nothost"}) {
    fs::create_directories(root_ + "/class/scsi_host/" + host);
  }
  EXPECT_EQ(*ScsiHostNumber(0, root_), 2);
  EXPECT_EQ(*ScsiHostNumber(1, root_), 10);
  const auto none = ScsiHostNumber(2, root_);
  EXPECT_NE(std::string(none.status().message()).find("the VM has 2"), std::string::npos);
}

TEST_F(ScsiDisksTest, ADiskHasANameOnceItIsThere) {
  fs::create_directories(root_ + "/class/scsi_host/host0");
  const ScsiDevice device{0, 5};
  EXPECT_EQ(*ScsiDeviceFolder(device, root_), root_ + "/bus/scsi/devices/0:0:0:5");
  EXPECT_EQ(ScsiDiskName(device, root_), "");
  fs::create_directories(root_ + "/bus/scsi/devices/0:0:0:5/block");
  EXPECT_EQ(ScsiDiskName(device, root_), "");
  fs::create_directories(root_ + "/bus/scsi/devices/0:0:0:5/block/sdc");
  EXPECT_EQ(ScsiDiskName(device, root_), "sdc");
  EXPECT_EQ(ScsiDiskName(ScsiDevice{1, 5}, root_), "");
}

}  // namespace
}  // namespace ferry::bridge
