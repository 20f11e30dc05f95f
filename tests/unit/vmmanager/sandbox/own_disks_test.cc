#include "vmmanager/sandbox/own_disks.h"

#include <gmock/gmock.h>

namespace ferry::vm {
namespace {

using ::testing::HasSubstr;

v1::VmSpec SpecWith(std::initializer_list<std::pair<const char*, int>> disks) {
  v1::VmSpec spec;
  for (const auto& [name, lun] : disks) {
    v1::DiskSpec* disk = spec.add_disks();
    disk->set_name(name);
    if (lun >= 0) disk->set_lun(static_cast<uint32_t>(lun));
  }
  return spec;
}

TEST(OwnDisksTest, AreOneBehindTheOtherUnlessTheySayWhere) {
  const v1::VmSpec spec = SpecWith({{"root", -1}, {"data", 7}, {"more", -1}});
  EXPECT_EQ(LunOf(spec, 0), 0u);
  EXPECT_EQ(LunOf(spec, 1), 7u);
  EXPECT_EQ(LunOf(spec, 2), 2u);
  EXPECT_EQ(OwnDiskAt(spec, "7"), 1);
  EXPECT_EQ(OwnDiskAt(spec, "1"), std::nullopt);
  EXPECT_EQ(OwnDiskAt(spec, "x"), std::nullopt);
  EXPECT_EQ(OwnDiskNamed(spec, "more"), 2);
  EXPECT_EQ(OwnDiskNamed(spec, "none"), std::nullopt);
}

TEST(OwnDisksTest, StayWhereTheyAreWhenOthersGo) {
  v1::VmSpec spec = SpecWith({{"root", -1}, {"data", -1}});
  RemoveOwnDisk(&spec, 0);
  EXPECT_EQ(LunOf(spec, 0), 1u);
  v1::DiskSpec more;
  more.set_name("more");
  more.set_lun(0);
  AddOwnDisk(&spec, more);
  EXPECT_EQ(LunOf(spec, 0), 1u);
  EXPECT_EQ(LunOf(spec, 1), 0u);
  RemoveOwnDisk(&spec, 0);
  EXPECT_EQ(LunOf(spec, 0), 0u);
  EXPECT_FALSE(spec.disks(0).has_lun());
}

TEST(OwnDisksTest, AreInTheMachineWhereTheyBelong) {
  const v1::VmSpec spec = SpecWith({{"root", -1}, {"data", 7}});
  schema::ComputeSystem document;
  EXPECT_FALSE(HasOwnDisks(document, spec));
  auto& attachments = document.virtual_machine.devices.scsi[kDiskController].attachments;
  attachments["0"].name = "root";
  attachments["1"].name = "data";
  EXPECT_FALSE(HasOwnDisks(document, spec));
  attachments["7"].name = "data";
  EXPECT_TRUE(HasOwnDisks(document, spec));
  attachments["7"].read_only = true;
  EXPECT_FALSE(HasOwnDisks(document, spec));
  EXPECT_TRUE(HasOwnDisks(schema::ComputeSystem(), v1::VmSpec()));
}

TEST(OwnDisksTest, NoTwoAreAtOnePlace) {
  EXPECT_TRUE(CheckLuns(SpecWith({{"root", -1}, {"data", 255}})).ok());
  EXPECT_THAT(CheckLuns(SpecWith({{"root", 1}, {"data", -1}})).message(),
              HasSubstr("lun of disk data is 1, as is that of another"));
  EXPECT_THAT(CheckLuns(SpecWith({{"root", 256}})).message(), HasSubstr("use 0 to 255"));
}

}  // namespace
}  // namespace ferry::vm
