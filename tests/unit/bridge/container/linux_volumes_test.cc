#include "bridge/container/linux_volumes.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <future>

#include "bridge/container/mount_plan.h"
#include "bridge/runtime/unique_fd.h"
#include "tests/unit/bridge/task_test.h"

namespace ferry::bridge {
namespace {

namespace fs = std::filesystem;

// A machine with one disk, which is a file: everything works but the mount itself.
class LinuxVolumesTest : public TaskTest {
 protected:
  LinuxVolumesTest() {
    options_.sysfs = folder_.Make("sys");
    options_.devices = folder_.Make("dev");
    options_.mount_table = folder_.path() + "/mountinfo";
    options_.format_program = folder_.path() + "/format";
    fs::create_directories(options_.sysfs + "/class/scsi_host/host0");
    fs::create_directories(options_.sysfs + "/bus/scsi/devices/0:0:0:0/block/sda");
    SetMountTable("21 1 0:20 / / rw - tmpfs tmpfs rw\n");
    std::ofstream(options_.format_program)
        << "#!/bin/sh\ntouch " << folder_.path() << "/formatted\n";
    chmod(options_.format_program.c_str(), 0755);
    disk_.mount_path = folder_.path() + "/mnt";
    disk_.ensure_filesystem = true;
  }

  std::string Device() const { return options_.devices + "/sda"; }

  void SetMountTable(const std::string& text) { std::ofstream(options_.mount_table) << text; }

  // A disk of zeros with `mark` at an offset.
  void MakeDisk(size_t size, size_t offset = 0, const std::string& mark = "") {
    std::string content(size, '\0');
    content.replace(offset, mark.size(), mark);
    std::ofstream(Device()) << content;
  }

  LinuxVolumes& Volumes() { return volumes_.emplace(options_, pids_); }

  bool formatted() const { return fs::exists(folder_.path() + "/formatted"); }

  TestFolder folder_;
  LinuxVolumes::Options options_;
  HelperPids pids_;
  std::optional<LinuxVolumes> volumes_;
  MappedVirtualDisk disk_;
};

TEST_F(LinuxVolumesTest, ABlankDiskIsFormattedIfThatIsAskedFor) {
  MakeDisk(kProbeSize);
  disk_.ensure_filesystem = false;
  EXPECT_TRUE(absl::IsInvalidArgument(Await(Volumes().MountDisk(disk_))));
  EXPECT_FALSE(formatted());
  disk_.ensure_filesystem = true;
  const absl::Status status = Await(Volumes().MountDisk(disk_));
  EXPECT_NE(status.message().find("cannot mount"), absl::string_view::npos) << status;
  EXPECT_TRUE(formatted());
}

TEST_F(LinuxVolumesTest, ADiskWithAMarkAnywhereInItsFirstMebibyteIsNotFormatted) {
  for (const size_t offset : {size_t{0}, size_t{65536 + 64}, kProbeSize - 8}) {
    MakeDisk(kProbeSize, offset, "_BHRfS_M");
    EXPECT_TRUE(absl::IsInvalidArgument(Await(Volumes().MountDisk(disk_)))) << offset;
    EXPECT_FALSE(formatted()) << offset;
  }
}

TEST_F(LinuxVolumesTest, ADiskThatCannotBeReadSoFarIsNotFormatted) {
  for (const size_t size : {size_t{0}, kProbeSize - 1}) {
    MakeDisk(size);
    EXPECT_TRUE(absl::IsInvalidArgument(Await(Volumes().MountDisk(disk_)))) << size;
    EXPECT_FALSE(formatted()) << size;
  }
}

TEST_F(LinuxVolumesTest, AMountThatFailsLeavesNoMountPointAndCanBeRemoved) {
  MakeDisk(kProbeSize);
  EXPECT_FALSE(Await(Volumes().MountDisk(disk_)).ok());
  EXPECT_FALSE(fs::exists(disk_.mount_path));
  EXPECT_TRUE(Await(volumes_->Unmount(disk_.mount_path)).ok());
}

TEST_F(LinuxVolumesTest, WhatIsHeldForAMomentIsUnmountedOnceItIsLetGoOf) {
  MakeDisk(kProbeSize);
  std::atomic<int> attempts = 0;
  options_.mount = [](const std::string&, const std::string&, const MountPlan&) {
    return absl::OkStatus();
  };
  options_.unmount = [&attempts](const std::string& path) {
    return ++attempts < 3 ? absl::FailedPreconditionError(path + " is in use") : absl::OkStatus();
  };
  bool held = true;
  options_.held = [&held] { return held; };
  options_.held_again = milliseconds(1);
  ASSERT_TRUE(Await(Volumes().MountDisk(disk_)).ok());
  EXPECT_TRUE(Await(volumes_->Unmount(disk_.mount_path)).ok());
  EXPECT_EQ(attempts, 3);
  // Not for ever, nor if somebody else uses it.
  for (const bool by_us : {true, false}) {
    held = by_us;
    options_.held_limit = milliseconds(by_us ? 0 : 60'000);
    attempts = 0;
    ASSERT_TRUE(Await(Volumes().MountDisk(disk_)).ok());
    EXPECT_TRUE(absl::IsFailedPrecondition(Await(volumes_->Unmount(disk_.mount_path))));
    EXPECT_EQ(attempts, 1);
  }
}

TEST_F(LinuxVolumesTest, OnlyWhatARequestHasMountedIsUnmounted) {
  SetMountTable("22 21 0:20 / /run/elsewhere rw - tmpfs tmpfs rw\n");
  EXPECT_TRUE(absl::IsFailedPrecondition(Await(Volumes().Unmount("/run/elsewhere"))));
  EXPECT_TRUE(Await(volumes_->Unmount("/run/nowhere")).ok());
}

TEST_F(LinuxVolumesTest, NothingIsMountedOverAMount) {
  MakeDisk(kProbeSize);
  SetMountTable("22 21 0:20 / " + disk_.mount_path + " rw - tmpfs tmpfs rw\n");
  EXPECT_TRUE(absl::IsAlreadyExists(Await(Volumes().MountDisk(disk_))));
  fs::remove(options_.mount_table);
  EXPECT_EQ(Await(volumes_->MountDisk(disk_)).code(), absl::StatusCode::kInternal);
  EXPECT_FALSE(formatted());
}

// Opening a pipe that nobody writes to takes for ever, as a disk that hangs does.
TEST_F(LinuxVolumesTest, ADiskThatHangsHoldsUpNobodyElse) {
  ASSERT_EQ(mkfifo(Device().c_str(), 0600), 0);
  const auto hanging = Begin(Volumes().MountDisk(disk_));
  Settle();
  EXPECT_TRUE(absl::IsFailedPrecondition(Await(volumes_->MountDisk(disk_)))) << "not twice";
  EXPECT_TRUE(Await(volumes_->Unmount("/run/nowhere")).ok());
  EXPECT_FALSE(hanging->has_value());
  // Both ends, so that the thread comes back.
  UniqueFd end(open(Device().c_str(), O_RDWR | O_CLOEXEC));
  EXPECT_FALSE(Finish(hanging).ok());
}

TEST_F(LinuxVolumesTest, ADiskThatHangsIsGivenUp) {
  ASSERT_EQ(mkfifo(Device().c_str(), 0600), 0);
  options_.io_limit = milliseconds(1);
  EXPECT_TRUE(absl::IsDeadlineExceeded(Await(Volumes().MountDisk(disk_))));
  UniqueFd end(open(Device().c_str(), O_RDWR | O_CLOEXEC));
}

TEST_F(LinuxVolumesTest, ADiskIsThereWhenItCanBeOpened) {
  MakeDisk(kProbeSize);
  EXPECT_TRUE(Await(Volumes().AwaitDisk(ScsiDevice{0, 0})).ok());
  EXPECT_TRUE(absl::IsNotFound(Await(volumes_->AwaitDisk(ScsiDevice{1, 0}))));
}

TEST_F(LinuxVolumesTest, ADeviceIsRemovedThroughSysfs) {
  MakeDisk(kProbeSize);
  const std::string file = options_.sysfs + "/bus/scsi/devices/0:0:0:0/delete";
  std::ofstream(file) << "";
  EXPECT_TRUE(Await(Volumes().RemoveDevice(ScsiDevice{0, 0})).ok());
  std::string word;
  std::getline(std::ifstream(file), word);
  EXPECT_EQ(word, "1");
  EXPECT_TRUE(Await(volumes_->RemoveDevice(ScsiDevice{0, 7})).ok());
}

TEST_F(LinuxVolumesTest, ADiskGrowsWhereItIsMounted) {
  MakeDisk(kProbeSize);
  const std::string file = options_.sysfs + "/bus/scsi/devices/0:0:0:0/rescan";
  std::ofstream(file) << "";
  options_.mount = [](const std::string&, const std::string&, const MountPlan&) {
    return absl::OkStatus();
  };
  std::string grown;
  options_.grow = [&](const std::string& device, const std::string& path) {
    std::string word;
    std::getline(std::ifstream(file), word);
    grown = word + " " + device + " " + path;
    return absl::OkStatus();
  };
  EXPECT_TRUE(absl::IsNotFound(Await(Volumes().GrowDisk(disk_))));
  disk_.filesystem = "ext4";
  ASSERT_TRUE(Await(volumes_->MountDisk(disk_)).ok());
  EXPECT_TRUE(Await(volumes_->GrowDisk(disk_)).ok());
  EXPECT_EQ(grown, "1 " + Device() + " " + disk_.mount_path);
  disk_.lun = 5;
  EXPECT_TRUE(absl::IsNotFound(Await(volumes_->GrowDisk(disk_))));
}

TEST_F(LinuxVolumesTest, ABundlesRemovalTakesNothingButTheBundle) {
  const std::string bundle = folder_.path() + "/bundle";
  EXPECT_TRUE(Volumes().WriteBundle(bundle, {{"config.json", "{}"}, {"hosts", "h"}}).ok());
  EXPECT_TRUE(Await(volumes_->RemoveBundle(bundle)).ok());
  EXPECT_FALSE(fs::exists(bundle));
  EXPECT_TRUE(volumes_->WriteBundle(bundle, {{"config.json", "{}"}, {"hosts", "h"}}).ok());
  fs::create_directories(bundle + "/rootfs");
  std::ofstream(bundle + "/rootfs/precious") << "kept";
  EXPECT_TRUE(Await(volumes_->RemoveBundle(bundle)).ok());
  EXPECT_FALSE(fs::exists(bundle + "/config.json"));
  EXPECT_FALSE(fs::exists(bundle + "/hosts"));
  EXPECT_TRUE(fs::exists(bundle + "/rootfs/precious"));
}

TEST_F(LinuxVolumesTest, AFileOfABundleIsRewrittenInPlaceUnlessItWasChanged) {
  const std::string bundle = folder_.path() + "/bundle";
  const std::string path = bundle + "/resolv.conf";
  ASSERT_TRUE(Volumes().WriteBundle(bundle, {{"config.json", "{}"}, {"resolv.conf", ""}}).ok());
  std::ifstream mounted(path);
  for (const auto& [from, to] : {std::pair("", "a longer text"), std::pair("a longer text", "b")}) {
    EXPECT_TRUE(volumes_->RewriteBundleFile(bundle, "resolv.conf", from, to).ok());
    EXPECT_EQ(std::string(std::istreambuf_iterator<char>(std::ifstream(path).rdbuf()), {}), to);
  }
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(mounted), {}), "b") << "another file";
  for (const char* known : {"", "a", "bb"}) {
    EXPECT_TRUE(
        absl::IsFailedPrecondition(volumes_->RewriteBundleFile(bundle, "resolv.conf", known, "c")));
  }
  EXPECT_FALSE(volumes_->RewriteBundleFile(bundle, "none", "", "c").ok());
}

// Mounts that hang until the test says so.
class LateMountTest : public LinuxVolumesTest {
 protected:
  LateMountTest() {
    layers_.container_root_path = folder_.path() + "/root";
    layers_.layers = {{"a", folder_.Make("layer")}};
    options_.io_limit = milliseconds(1);
    options_.mount = [go = gone_on_](auto&&...) {
      go.wait();
      return absl::OkStatus();
    };
    options_.unmount = [unmounted = unmounted_](const std::string& path) {
      unmounted->set_value(path);
      return absl::OkStatus();
    };
  }

  CombinedLayers layers_;
  std::promise<void> go_;
  const std::shared_future<void> gone_on_ = go_.get_future().share();
  // The thread may outlive the test.
  std::shared_ptr<std::promise<std::string>> unmounted_ =
      std::make_shared<std::promise<std::string>>();
};

TEST_F(LateMountTest, AMountThatComesAfterItsRemovalIsUndone) {
  EXPECT_TRUE(absl::IsDeadlineExceeded(Await(Volumes().CombineLayers(layers_))));
  EXPECT_TRUE(absl::IsAlreadyExists(Await(volumes_->CombineLayers(layers_))));
  EXPECT_TRUE(Await(volumes_->Unmount(layers_.container_root_path)).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(Await(volumes_->CombineLayers(layers_))));
  go_.set_value();
  EXPECT_EQ(unmounted_->get_future().get(), layers_.container_root_path);
}

TEST_F(LateMountTest, ABundlesRemovalUndoesItToo) {
  EXPECT_TRUE(absl::IsDeadlineExceeded(Await(Volumes().CombineLayers(layers_))));
  EXPECT_TRUE(Await(volumes_->RemoveBundle(folder_.path())).ok());
  go_.set_value();
  EXPECT_EQ(unmounted_->get_future().get(), layers_.container_root_path);
}

TEST_F(LateMountTest, TheEndOfTheVmDoesNotWaitForEver) {
  options_.unmount = [go = gone_on_](const std::string&) {
    go.wait();
    return absl::OkStatus();
  };
  EXPECT_TRUE(absl::IsDeadlineExceeded(Await(Volumes().CombineLayers(layers_))));
  Await(volumes_->UnmountAll());
  go_.set_value();
}

// A guest's clock can run many times faster than the host's.
TEST_F(LateMountTest, LimitsAreMinutes) {
  const LinuxVolumes::Options usual;
  for (const milliseconds limit : {usual.disk_limit, usual.io_limit, usual.format_limit}) {
    EXPECT_GE(limit, std::chrono::minutes(5));
  }
}

}  // namespace
}  // namespace ferry::bridge
