#include "vmmanager/saves/partial_file.h"

#include <gmock/gmock.h>
#include <sched.h>
#include <sys/mount.h>

#include <cerrno>
#include <cstring>

#include "tests/unit/vmmanager/saves/saves_fixture.h"

namespace ferry::vm {
namespace {

using testing::HasSubstr;

TEST(SaveWriteFailureTest, FullDisksAreToldApart) {
  for (const int error : {ENOSPC, EDQUOT, EFBIG}) {
    const absl::Status status = SaveWriteFailure(error, "/var/saves", 12345, 678);
    EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
    const std::string message(status.message());
    EXPECT_THAT(message, HasSubstr("/var/saves"));
    EXPECT_THAT(message, HasSubstr("12345 bytes were written so far"));
    EXPECT_THAT(message, HasSubstr("678 bytes are free"));
  }
  const absl::Status unknown = SaveWriteFailure(ENOSPC, "/var/saves", 0, std::nullopt);
  EXPECT_EQ(std::string(unknown.message()).find("free"), std::string::npos);
  EXPECT_FALSE(absl::IsResourceExhausted(SaveWriteFailure(EIO, "/var/saves", 0, 0)));
  EXPECT_TRUE(absl::IsPermissionDenied(SaveWriteFailure(EACCES, "/var/saves", 0, 0)));
}

TEST(SaveFolderOfTest, APathWithoutOneIsHere) {
  EXPECT_EQ(SaveFolderOf("vm.save"), ".");
  EXPECT_EQ(SaveFolderOf("/a/b"), "/a");
  EXPECT_EQ(SaveFolderOf("a/b"), "a");
}

using FullDiskTest = SavesTest;

TEST_F(FullDiskTest, ItIsSaidHowMuchIsFreeAndNothingIsLeft) {
  // Nobody else sees what is mounted here, and it goes away with the process.
  if (::unshare(CLONE_NEWNS) != 0 ||
      ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
      ::mount("ferry-test", folder_.c_str(), "tmpfs", 0, "size=1m") != 0) {
    GTEST_SKIP() << "needs to mount a small tmpfs, but: " << std::strerror(errno);
  }
  for (const bool bypass : {false, true}) {
    SavedFileOptions options;
    options.bypass_cache = bypass;
    auto writer = SavedFileWriter::Create(path_, options);
    ASSERT_TRUE(writer.ok()) << writer.status();
    ASSERT_TRUE((*writer)->WriteHead("head").ok());
    const absl::Status status = (*writer)->WriteMemory(MixedBytes(3'000'000));
    EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(folder_ + ": the disk is full; 1048576 "));
    EXPECT_THAT(std::string(status.message()), HasSubstr(" and 0 bytes are free"));
    // What was not written whole is never committed.
    EXPECT_EQ((*writer)->WriteMemory("x"), status);
    EXPECT_EQ((*writer)->Commit("tail").status(), status);
    writer->reset();
    EXPECT_TRUE(Names().empty());
  }
  EXPECT_EQ(::umount(folder_.c_str()), 0);
}

}  // namespace
}  // namespace ferry::vm
