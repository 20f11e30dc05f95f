// What QemuImgOverlays does with files itself, and how it calls the tool.
#include "vmmanager/saving/qemu_img_overlays.h"

#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>

#include "tests/unit/bridge/task_test.h"

namespace ferry::vm {
namespace {

using ::testing::Contains;

// Notes what it is told to do, and prints what it is to print.
class ScriptedTools final : public ToolRunner {
 public:
  absl::StatusOr<std::optional<ProcessUser>> user() const override { return std::nullopt; }
  Task<absl::StatusOr<ToolEnd>> Run(ToolCommand command) override {
    arguments = command.arguments;
    if (command.output) command.output(prints);
    co_return ToolEnd{};
  }

  std::vector<std::string> arguments;
  std::string prints;
};

class QemuImgOverlaysTest : public TaskTest {
 protected:
  std::string File(const std::string& name) const { return folder_.path() + "/" + name; }
  // Another file under that name.
  void Replace(const std::string& name) {
    std::ofstream(File("new")) << "";
    std::filesystem::rename(File("new"), File(name));
  }
  uint64_t Reserve(const std::string& name) {
    std::ofstream(File("disk")) << "";
    const auto inode = Await(overlays_.Reserve(File(name), File("disk")));
    EXPECT_TRUE(inode.ok()) << inode.status();
    return inode.ok() ? *inode : 0;
  }
  absl::Status RemoveCopy(const std::string& name, uint64_t inode) {
    OverlayWish wish;
    wish.file = File(name);
    wish.inode = inode;
    return Await(overlays_.RemoveDraft(wish));
  }

  TestFolder folder_;
  ScriptedTools tools_;
  QemuImgOverlays overlays_{io_.get_executor(), tools_};
};

TEST_F(QemuImgOverlaysTest, OnlyWhatWasReservedIsRemoved) {
  const uint64_t inode = Reserve("copy");
  std::ofstream(File("copy")) << "filled";
  EXPECT_TRUE(RemoveCopy("copy", inode).ok());
  EXPECT_FALSE(std::filesystem::exists(File("copy")));
  const uint64_t other = Reserve("copy");
  Replace("copy");
  EXPECT_TRUE(RemoveCopy("copy", other).ok());
  EXPECT_TRUE(std::filesystem::exists(File("copy")));
}

TEST_F(QemuImgOverlaysTest, AReservedNameIsKnownAgain) {
  const uint64_t inode = Reserve("copy");
  EXPECT_TRUE(Await(overlays_.CheckReserved(File("copy"), inode)).ok());
  std::filesystem::rename(File("copy"), File("moved"));
  std::filesystem::create_symlink(File("moved"), File("copy"));
  EXPECT_TRUE(absl::IsAborted(Await(overlays_.CheckReserved(File("copy"), inode))));
  std::filesystem::remove(File("copy"));
  EXPECT_TRUE(absl::IsAborted(Await(overlays_.CheckReserved(File("copy"), inode))));
}

TEST_F(QemuImgOverlaysTest, TheToolBringsACopyToTheDisk) {
  DiskCopy copy;
  copy.from = File("disk");
  copy.format = "raw";
  copy.to = File("copy");
  copy.inode = Reserve("copy");
  const absl::Status copied = Await(overlays_.Copy(copy));
  EXPECT_TRUE(copied.ok()) << copied;
  EXPECT_THAT(tools_.arguments, Contains("writeback"));
  Replace("copy");
  EXPECT_TRUE(absl::IsAborted(Await(overlays_.Copy(copy))));
}

TEST_F(QemuImgOverlaysTest, WhatACopyTakesIsWhatTheToolSays) {
  tools_.prints = R"({"required": 327680, "fully-allocated": 67436544})";
  const auto bytes = Await(overlays_.Measure(File("disk"), "qcow2"));
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  EXPECT_EQ(*bytes, 327680u);
  tools_.prints = "none";
  EXPECT_FALSE(Await(overlays_.Measure(File("disk"), "qcow2")).ok());
}

TEST_F(QemuImgOverlaysTest, RoomIsOfTheFileSystemThatAFileIsToBeOn) {
  const auto room = Await(overlays_.RoomFor(File("copy")));
  ASSERT_TRUE(room.ok()) << room.status();
  EXPECT_NE(room->device, 0u);
  EXPECT_LE(room->bytes, std::filesystem::space(folder_.path()).capacity);
  EXPECT_FALSE(Await(overlays_.RoomFor(File("nowhere/copy"))).ok());
}

}  // namespace
}  // namespace ferry::vm
