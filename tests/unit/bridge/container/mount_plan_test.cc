#include "bridge/container/mount_plan.h"

#include <gtest/gtest.h>
#include <sys/mount.h>

#include "bridge/container/mount_table.h"

namespace ferry::bridge {
namespace {

std::string StartWith(size_t offset, const std::string& magic) {
  std::string start(kProbeSize, '\0');
  start.replace(offset, magic.size(), magic);
  return start;
}

TEST(MountPlanTest, KnowsFileSystemsByTheirSuperBlocks) {
  EXPECT_EQ(ProbeFilesystem(StartWith(0, "hsqs")), "squashfs");
  EXPECT_EQ(ProbeFilesystem(StartWith(1024, "\xe2\xe1\xf5\xe0")), "erofs");
  EXPECT_EQ(ProbeFilesystem(StartWith(1080, "\x53\xef")), "ext4");
  EXPECT_EQ(ProbeFilesystem(StartWith(0, "XFSB")), "");
  EXPECT_EQ(ProbeFilesystem("hs"), "");
  EXPECT_EQ(ProbeFilesystem(""), "");
}

TEST(MountPlanTest, ADiskWithAnythingOnItIsNotBlank) {
  EXPECT_TRUE(IsBlank(std::string(kProbeSize, '\0')));
  EXPECT_FALSE(IsBlank(StartWith(kProbeSize - 1, "x")));
  // btrfs' super block.
  EXPECT_FALSE(IsBlank(StartWith(65536 + 64, "_BHRfS_M")));
}

TEST(MountPlanTest, ADiskThatWasNotReadIsNotBlank) {
  EXPECT_FALSE(IsBlank(""));
  EXPECT_FALSE(IsBlank(std::string(kProbeSize - 1, '\0')));
}

TEST(MountPlanTest, LayersAreReadOnlyAndScratchesAreNot) {
  MappedVirtualDisk disk;
  EXPECT_FALSE(PlanDisk(disk, "erofs").ok());
  EXPECT_FALSE(PlanDisk(disk, "squashfs").ok());
  EXPECT_EQ(PlanDisk(disk, "ext4")->flags, 0u);
  disk.read_only = true;
  EXPECT_EQ(PlanDisk(disk, "erofs")->flags, static_cast<unsigned long>(MS_RDONLY));
  EXPECT_EQ(PlanDisk(disk, "erofs")->type, "erofs");
  EXPECT_EQ(PlanDisk(disk, "ext4")->data, "noload");
  EXPECT_FALSE(PlanDisk(disk, "xfs").ok());
  EXPECT_FALSE(PlanDisk(disk, "").ok());
}

TEST(MountPlanTest, OptionsAreFlagsOrTheFileSystemsOwn) {
  MappedVirtualDisk disk;
  disk.options = {"noatime", "nodev", "commit=30", "rw"};
  const auto plan = PlanDisk(disk, "ext4");
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->flags, static_cast<unsigned long>(MS_NOATIME | MS_NODEV));
  EXPECT_EQ(plan->data, "commit=30");
  disk.options.assign(1, std::string(5000, 'x'));
  EXPECT_FALSE(PlanDisk(disk, "ext4").ok());
}

TEST(MountPlanTest, TheTopmostLayerComesFirst) {
  CombinedLayers layers;
  EXPECT_FALSE(PlanOverlay(layers).ok());
  layers.layers = {{"top", "/l/2"}, {"base", "/l/1"}};
  layers.scratch_path = "/s";
  auto plan = PlanOverlay(layers);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->data, "lowerdir=/l/2:/l/1,upperdir=/s/upper,workdir=/s/work");
  EXPECT_EQ(plan->flags, 0u);
  layers.scratch_path.clear();
  plan = PlanOverlay(layers);
  EXPECT_EQ(plan->data, "lowerdir=/l/2:/l/1");
  EXPECT_EQ(plan->flags, static_cast<unsigned long>(MS_RDONLY));
}

TEST(MountPlanTest, OneLayerWithoutAScratchIsThatLayer) {
  CombinedLayers layers;
  layers.layers = {{"only", "/l/1"}};
  const auto plan = PlanOverlay(layers);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->source, "/l/1");
  EXPECT_EQ(plan->flags, static_cast<unsigned long>(MS_BIND | MS_RDONLY));
}

TEST(MountPlanTest, LayersWhosePathsDoNotFitAreRefused) {
  CombinedLayers layers;
  layers.scratch_path = "/s";
  layers.layers.resize(8, {"id", "/" + std::string(600, 'a')});
  const auto plan = PlanOverlay(layers);
  ASSERT_FALSE(plan.ok());
  EXPECT_NE(std::string(plan.status().message()).find("shorter"), std::string::npos);
}

TEST(MountTableTest, FindsWhatIsMountedInAFolderTheLastFirst) {
  constexpr char kTable[] =
      "21 1 0:20 / / rw - tmpfs tmpfs rw\n"
      "30 21 8:0 / /run/c/1/rootfs rw - overlay overlay rw\n"
      "31 30 0:22 / /run/c/1/rootfs/a\\040b rw - tmpfs tmpfs rw\n"
      "32 21 0:23 / /run/c/12 rw - tmpfs tmpfs rw\n"
      "nonsense\n";
  EXPECT_EQ(MountPointsBelow(kTable, "/run/c/1"),
            (std::vector<std::string>{"/run/c/1/rootfs/a b", "/run/c/1/rootfs"}));
  EXPECT_EQ(MountPointsBelow(kTable, "/run/c/12"), std::vector<std::string>{"/run/c/12"});
  EXPECT_TRUE(MountPointsBelow(kTable, "/other").empty());
}

TEST(MountPlanTest, ASharedFolderFollowsNoLinks) {
  MappedDirectory directory;
  directory.mount_path = "/run/gcs/s/0";
  directory.share_name = "ferry-share-0";
  constexpr unsigned long kNoSymlinks = 256;
  MountPlan plan = PlanDirectory(directory);
  EXPECT_EQ(plan.type, "virtiofs");
  EXPECT_EQ(plan.source, "ferry-share-0");
  EXPECT_EQ(plan.flags, kNoSymlinks | MS_NODEV);
  directory.read_only = true;
  EXPECT_EQ(PlanDirectory(directory).flags, kNoSymlinks | MS_NODEV | MS_RDONLY);
}

}  // namespace
}  // namespace ferry::bridge
