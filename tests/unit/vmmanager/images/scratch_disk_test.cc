#include "vmmanager/images/scratch_disk.h"

#include <gtest/gtest.h>

#include "tests/unit/vmmanager/images/images_fixture.h"
#include "vmmanager/images/child_tool_runner.h"
#include "vmmanager/images/fake_tool_runner.h"

namespace ferry::vm {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr uint64_t kMiB = uint64_t{1} << 20;

class ScratchDiskTest : public ImagesTest {
 protected:
  std::string path_ = folder_.path() + "/scratch.qcow2";
};

TEST_F(ScratchDiskTest, ADiskHasAnEmptyFileSystemOfItsSize) {
  ChildToolRunner runner(io_.get_executor(), UserForTools());
  const absl::Status made =
      Await(MakeScratchDisk(*store_, runner, path_, 1024 * kMiB, std::nullopt));
  ASSERT_TRUE(made.ok()) << made;
  EXPECT_LT(std::filesystem::file_size(path_), 80 * kMiB);
  EXPECT_THAT(TempFiles(), IsEmpty());
  // By the tools' own words.
  ToolCommand info;
  info.program = "/usr/bin/qemu-img";
  info.arguments = {"info", path_};
  info.deadline = milliseconds(60'000);
  ChildToolRunner ours(io_.get_executor(), std::optional<ProcessUser>());
  const auto told = Await(ours.Run(info));
  ASSERT_TRUE(told.ok()) << told.status();
  EXPECT_THAT(told->last_words, HasSubstr("file format: qcow2"));
  EXPECT_THAT(told->last_words, HasSubstr("(1073741824 bytes)"));
  info.arguments = {"convert", "-O", "raw", path_, folder_.path() + "/raw"};
  ASSERT_TRUE(Await(RunTool(ours, info)).ok());
  info.program = "/usr/sbin/fsck.ext4";
  info.arguments = {"-f", "-n", folder_.path() + "/raw"};
  const auto checked = Await(ours.Run(info));
  ASSERT_TRUE(checked.ok()) << checked.status();
  EXPECT_EQ(checked->exit_code, 0) << checked->last_words;
}

TEST_F(ScratchDiskTest, OtherSizesAndAFileThatIsThereAreRefused) {
  FakeToolRunner runner(io_.get_executor());
  for (const uint64_t size :
       {uint64_t{0}, 15 * kMiB, 16 * kMiB + 1, uint64_t{16} << 40, uint64_t{1} << 60}) {
    EXPECT_TRUE(absl::IsInvalidArgument(
        Await(MakeScratchDisk(*store_, runner, path_, size, std::nullopt))));
  }
  WriteFile(path_, "mine");
  EXPECT_TRUE(absl::IsAlreadyExists(
      Await(MakeScratchDisk(*store_, runner, path_, 16 * kMiB, std::nullopt))));
  EXPECT_EQ(ReadFile(path_), "mine");
  EXPECT_THAT(runner.commands, IsEmpty());
}

TEST_F(ScratchDiskTest, AFileThatCameMeanwhileStays) {
  FakeToolRunner runner(io_.get_executor());
  runner.act = [this](const ToolCommand& command) {
    const std::string out =
        std::filesystem::read_symlink(absl::StrCat("/proc/self/fd/", command.descriptors.at(4)));
    WriteFile(out + "/scratch.qcow2", "scratch");
    WriteFile(path_, "mine");
    return ToolEnd{};
  };
  EXPECT_TRUE(absl::IsAlreadyExists(
      Await(MakeScratchDisk(*store_, runner, path_, 16 * kMiB, std::nullopt))));
  EXPECT_EQ(ReadFile(path_), "mine");
}

TEST_F(ScratchDiskTest, AToolThatFailsLeavesNothing) {
  FakeToolRunner runner(io_.get_executor());
  runner.act = [](const ToolCommand&) { return ToolEnd{1, "no space"}; };
  const absl::Status failed =
      Await(MakeScratchDisk(*store_, runner, path_, 16 * kMiB, std::nullopt));
  EXPECT_THAT(std::string(failed.message()), HasSubstr("mkfs.ext4 failed with status 1: no space"));
  EXPECT_FALSE(std::filesystem::exists(path_));
  EXPECT_THAT(TempFiles(), IsEmpty());
}

}  // namespace
}  // namespace ferry::vm
