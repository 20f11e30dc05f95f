#include "vmmanager/containers/empty_qcow2.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "tests/unit/bridge/task_test.h"

namespace ferry::vm {
namespace {

TEST(EmptyQcow2Test, SizesHaveBounds) {
  for (uint64_t size : {kMinScratchDisk, kDefaultScratchDisk, kMaxScratchDisk}) {
    EXPECT_TRUE(CheckScratchSize(size).ok());
  }
  for (uint64_t size : {uint64_t{0}, kMinScratchDisk - (1 << 20), kMinScratchDisk + 1,
                        kMaxScratchDisk + (1 << 20), UINT64_MAX}) {
    EXPECT_EQ(CheckScratchSize(size).code(), absl::StatusCode::kInvalidArgument) << size;
  }
}

// The reference: QEMU's own tool finds nothing wrong with it, and all of it is zeros.
TEST(EmptyQcow2Test, QemuTakesItForWhatItIs) {
  if (std::system("qemu-img --version >/dev/null 2>&1") != 0)
    GTEST_SKIP() << "there is no qemu-img";
  const TestFolder folder;
  for (uint64_t size :
       {kMinScratchDisk, kDefaultScratchDisk, kDefaultScratchDisk + (1 << 20), kMaxScratchDisk}) {
    const std::string file = absl::StrCat(folder.path(), "/", size);
    std::ofstream(file, std::ios::binary) << EmptyQcow2(size);
    const auto run = [&](const std::string& command) {
      return std::system(absl::StrCat("qemu-img ", command, " ", file, " >/dev/null").c_str());
    };
    EXPECT_EQ(run("check -q"), 0) << size;
    EXPECT_EQ(std::system(absl::StrCat("qemu-img info --output=json ", file,
                                       " | grep -q '\"virtual-size\": ", size, "'")
                              .c_str()),
              0)
        << size;
    EXPECT_EQ(
        std::system(absl::StrCat("qemu-img map --output=json ", file, " | grep -q '\"data\": true'")
                        .c_str()) == 0,
        false)
        << size;
    // And it takes data.
    EXPECT_EQ(std::system(absl::StrCat("qemu-io -f qcow2 -c 'write 5M 3M' ", file,
                                       " >/dev/null 2>&1 && qemu-img check -q ", file)
                              .c_str()),
              0)
        << size;
  }
}

TEST(EmptyQcow2Test, OneThatNamesAnotherFileIsFoundOut) {
  const std::string good = EmptyQcow2(kMinScratchDisk);
  EXPECT_TRUE(CheckStandsAlone(good).ok());
  EXPECT_TRUE(CheckStandsAlone(good.substr(0, kQcow2Header)).ok());
  EXPECT_FALSE(CheckStandsAlone(good.substr(0, kQcow2Header - 1)).ok());
  EXPECT_FALSE(CheckStandsAlone(std::string(kQcow2Header, '\0')).ok());
  std::string backed = good;
  backed[15] = 1;
  EXPECT_EQ(CheckStandsAlone(backed).code(), absl::StatusCode::kFailedPrecondition);
  std::string elsewhere = good;
  elsewhere[79] = 4;
  EXPECT_EQ(CheckStandsAlone(elsewhere).code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace ferry::vm
