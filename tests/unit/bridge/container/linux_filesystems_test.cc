#include "bridge/container/linux_filesystems.h"

#include <errno.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/fs.h>
#include <sys/stat.h>

#include <atomic>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "bridge/container/mount_table.h"
#include "tests/unit/bridge/runtime/no_more_threads.h"
#include "tests/unit/bridge/task_test.h"

namespace ferry::bridge {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr char kTypes[] = "nodev\ttmpfs\nnodev\toverlay\n\text4\n\terofs\n\tbtrfs\n\tfuseblk\n";

std::vector<std::string> PointsIn(const std::string& mountinfo) {
  std::vector<std::string> points;
  for (const DiskMount& mount : WritableDiskMounts(mountinfo, kTypes)) {
    points.push_back(mount.point);
  }
  return points;
}

TEST(WritableDiskMountsTest, OnlyWhatLiesOnDevicesAndCanBeWrittenTo) {
  EXPECT_THAT(PointsIn("21 1 0:20 / / rw - tmpfs tmpfs rw\n"
                       "22 21 8:0 / /data rw,relatime - ext4 /dev/sda rw,errors=remount-ro\n"
                       "23 21 8:16 / /layer ro - erofs /dev/sdb ro\n"
                       "24 21 8:32 / /kept ro - ext4 /dev/sdc ro,errors=continue\n"
                       "25 21 0:30 / /c/rootfs rw - overlay overlay rw,upperdir=/data/u\n"
                       "26 21 0:31 /sub /tree rw shared:1 master:2 - btrfs /dev/sdd rw\n"
                       "27 21 0:32 / /win rw - fuseblk.ntfs /dev/sde rw\n"
                       "28 21 0:33 / /ssh rw - fuse.sshfs host:/ rw\n"),
              ElementsAre("/data", "/tree", "/win"));
}

TEST(WritableDiskMountsTest, AMountThatIsReadOnlyCounts) {
  const auto mounts =
      WritableDiskMounts("22 21 8:0 /a\\040b /my\\040data ro,noatime - ext4 /dev/sda rw\n", kTypes);
  ASSERT_EQ(mounts.size(), 1u);
  EXPECT_EQ(mounts[0].id, 22u);
  EXPECT_EQ(mounts[0].device, "8:0");
  EXPECT_EQ(mounts[0].point, "/my data");
  EXPECT_EQ(mounts[0].type, "ext4");
}

TEST(WritableDiskMountsTest, LinesThatAreNoneAreLeftOut) {
  EXPECT_THAT(PointsIn("\nnonsense\n22 21 8:0 / /data rw - ext4 /dev/sda\n"
                       "22 21 8:0 / /data rw ext4 /dev/sda rw\nx 21 8:0 / /d rw - ext4 s rw\n"),
              IsEmpty());
  EXPECT_THAT(WritableDiskMounts("22 21 8:0 / /d rw - ext4 /dev/sda rw\n", ""), IsEmpty());
}

std::vector<std::string> PathsOf(const DiskFilesystem& it) {
  std::vector<std::string> paths;
  for (const DiskFilesystem::Place& place : it.places) paths.push_back(place.path);
  return paths;
}

TEST(LinuxFilesystemsTest, EachOnceInTheOrderOfItsFirstMountAlsoThoseOfOtherNamespaces) {
  const std::vector<DiskFilesystem> all =
      FilesystemsIn({{"22 21 8:16 / /b rw - ext4 /dev/sdb rw\n"
                      "23 21 8:0 / /a rw - ext4 /dev/sda rw\n"
                      "24 21 8:16 /x /again rw - ext4 /dev/sdb rw\n",
                      "", ""},
                     {"40 39 8:16 / /its rw - ext4 /dev/sdb rw\n"
                      "41 39 8:32 / /own rw - ext4 /dev/sdc rw\n",
                      "/proc/7/root", " of process 7"}},
                    kTypes);
  ASSERT_EQ(all.size(), 3u);
  EXPECT_EQ(all[0].name, "/b");
  EXPECT_THAT(PathsOf(all[0]), ElementsAre("/b", "/again", "/proc/7/root/its"));
  EXPECT_EQ(all[0].places[2].mount, 40u);
  EXPECT_EQ(all[1].device, "8:0");
  EXPECT_EQ(all[2].name, "/own of process 7");
  EXPECT_THAT(PathsOf(all[2]), ElementsAre("/proc/7/root/own"));
}

// A machine with one filesystem, which is a folder: all but the freezing can be seen.
class LinuxFilesystemsDriverTest : public TaskTest {
 protected:
  LinuxFilesystemsDriverTest()
      : filesystems_({.proc = folder_.path() + "/proc",
                      .ioctl = [this](int, unsigned long request) { return Control(request); }}) {
    const std::string proc = folder_.Make("proc");
    for (const char* process : {"self", "1", "2", "30"}) {
      std::filesystem::create_directories(proc + "/" + process + "/ns");
    }
    Namespace("self", "mnt:[1]", "22 21 8:0 / /data rw - ext4 /dev/sda rw\n");
    Namespace("1", "mnt:[1]", "");
    Namespace("2", "mnt:[2]", "");
    Namespace("30", "mnt:[2]", "50 49 8:16 / /late rw - ext4 /dev/sdb rw\n");
    std::ofstream(proc + "/filesystems") << kTypes;
  }

  void Namespace(const std::string& process, const std::string& id, const std::string& text) {
    const std::string folder = folder_.path() + "/proc/" + process;
    std::filesystem::create_symlink(id, folder + "/ns/mnt");
    std::ofstream(folder + "/mountinfo") << text;
  }

  // That of /data, which is our folder.
  DiskFilesystem Data() {
    struct statx found = {};
    EXPECT_EQ(statx(AT_FDCWD, folder_.path().c_str(), 0, STATX_MNT_ID, &found), 0);
    DiskFilesystem it;
    it.device = absl::StrCat(found.stx_dev_major, ":", found.stx_dev_minor);
    it.name = "/data";
    it.places = {{folder_.path(), found.stx_mnt_id}};
    return it;
  }
  int Control(unsigned long request) {
    if (request == FIFREEZE) return 0;
    ++thaws_;
    return thaw_error_;
  }

  TestFolder folder_;
  std::atomic<int> thaws_ = 0;
  std::atomic<int> thaw_error_ = 0;
  LinuxFilesystems filesystems_;
};

TEST_F(LinuxFilesystemsDriverTest, EachNamespaceIsLookedAtOnce) {
  std::ofstream(folder_.path() + "/proc/2/mountinfo") << "40 39 8:32 / /m rw - ext4 /dev/sdc rw\n";
  const auto all = Await(filesystems_.Writable());
  ASSERT_TRUE(all.ok()) << all.status();
  ASSERT_EQ(all->size(), 2u);
  EXPECT_EQ((*all)[0].name, "/data");
  EXPECT_EQ((*all)[1].name, "/m of process 2");
  EXPECT_THAT(PathsOf((*all)[1]), ElementsAre(folder_.path() + "/proc/2/root/m"));
}

TEST_F(LinuxFilesystemsDriverTest, WhatCannotBeReadIsNoEmptyList) {
  std::filesystem::remove(folder_.path() + "/proc/self/mountinfo");
  EXPECT_FALSE(Await(filesystems_.Writable()).ok());
}

TEST_F(LinuxFilesystemsDriverTest, WhatIsNotThatMountIsNotFrozen) {
  DiskFilesystem it;
  it.device = "8:0";
  it.places = {{folder_.path(), 0}};
  const absl::Status hidden = Await(filesystems_.Freeze(it));
  EXPECT_THAT(std::string(hidden.message()), HasSubstr("mounted over"));
  it.places = {{folder_.path() + "/none", 0}};
  EXPECT_FALSE(Await(filesystems_.Freeze(it)).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(Await(filesystems_.Thaw(it))));
}

TEST_F(LinuxFilesystemsDriverTest, AGuestWithoutThreadsFreezesNothing) {
  const NoMoreThreads none;
  EXPECT_TRUE(absl::IsResourceExhausted(Await(filesystems_.Writable()).status()));
  EXPECT_TRUE(absl::IsResourceExhausted(Await(filesystems_.Freeze(Data()))));
}

TEST_F(LinuxFilesystemsDriverTest, WhatIsFrozenIsThawedHoweverFewThreadsThereAre) {
  const absl::Status frozen = Await(filesystems_.Freeze(Data()));
  ASSERT_TRUE(frozen.ok()) << frozen;
  const NoMoreThreads none;
  const absl::Status thawed = Await(filesystems_.Thaw(Data()));
  EXPECT_TRUE(thawed.ok()) << thawed;
  EXPECT_EQ(thaws_, 1);
  EXPECT_TRUE(absl::IsFailedPrecondition(Await(filesystems_.Thaw(Data()))));
}

TEST_F(LinuxFilesystemsDriverTest, WhatCouldNotBeThawedCanBeTriedAgain) {
  ASSERT_TRUE(Await(filesystems_.Freeze(Data())).ok());
  for (const int error : {EIO, EBUSY}) {
    thaw_error_ = error;
    const absl::Status failed = Await(filesystems_.Thaw(Data()));
    EXPECT_TRUE(absl::IsInternal(failed)) << failed;
  }
  EXPECT_TRUE(absl::IsFailedPrecondition(Await(filesystems_.Freeze(Data()))));
  thaw_error_ = 0;
  EXPECT_TRUE(Await(filesystems_.Thaw(Data())).ok());
  EXPECT_EQ(thaws_, 3);
}

TEST_F(LinuxFilesystemsDriverTest, WhatSomebodyElseThawedIsLetGoOf) {
  ASSERT_TRUE(Await(filesystems_.Freeze(Data())).ok());
  thaw_error_ = EINVAL;
  EXPECT_TRUE(absl::IsFailedPrecondition(Await(filesystems_.Thaw(Data()))));
  EXPECT_TRUE(Await(filesystems_.Freeze(Data())).ok());
  thaw_error_ = 0;
  EXPECT_TRUE(Await(filesystems_.Thaw(Data())).ok());
}

}  // namespace
}  // namespace ferry::bridge
