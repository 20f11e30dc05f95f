#include "bridge/container/user_files.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "tests/unit/bridge/task_test.h"

namespace ferry::bridge {
namespace {

namespace fs = std::filesystem;

class UserFilesTest : public ::testing::Test {
 protected:
  UserFilesTest() {
    root_.path = folder_.Make("root");
    fs::create_directories(root_.path + "/etc");
  }

  std::string Etc(const std::string& name) const { return root_.path + "/etc/" + name; }

  TestFolder folder_;
  ContainerRoot root_;
};

TEST_F(UserFilesTest, ReadsBothFiles) {
  std::ofstream(Etc("passwd")) << "users";
  std::ofstream(Etc("group")) << "groups";
  const auto files = ReadUserFilesIn(root_);
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_EQ(files->passwd, "users");
  EXPECT_EQ(files->group, "groups");
}

TEST_F(UserFilesTest, WhatIsNotThereIsEmpty) {
  fs::remove_all(root_.path + "/etc");
  const auto files = ReadUserFilesIn(root_);
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_EQ(files->passwd + files->group, "");
  root_.path += "/elsewhere";
  EXPECT_TRUE(absl::IsInvalidArgument(ReadUserFilesIn(root_).status()));
}

TEST_F(UserFilesTest, LinksEndInTheContainer) {
  std::ofstream(folder_.path() + "/outside") << "outside";
  std::ofstream(root_.path + "/outside") << "inside";
  fs::create_symlink("../../../../../../outside", Etc("passwd"));
  fs::create_symlink("/outside", Etc("group"));
  const auto files = ReadUserFilesIn(root_);
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_EQ(files->passwd, "inside");
  EXPECT_EQ(files->group, "inside");
}

TEST_F(UserFilesTest, RefusesWhatIsNoFileAndDoesNotWaitForIt) {
  ASSERT_EQ(mkfifo(Etc("passwd").c_str(), 0600), 0);
  EXPECT_TRUE(absl::IsInvalidArgument(ReadUserFilesIn(root_).status()));
  fs::remove(Etc("passwd"));
  fs::create_directory(Etc("passwd"));
  EXPECT_TRUE(absl::IsInvalidArgument(ReadUserFilesIn(root_).status()));
}

TEST_F(UserFilesTest, RefusesAFileBeyondItsBound) {
  std::ofstream(Etc("passwd")) << std::string(kMaxUserFile, 'a');
  EXPECT_TRUE(ReadUserFilesIn(root_).ok());
  std::ofstream(Etc("passwd")) << std::string(kMaxUserFile + 1, 'a');
  const auto files = ReadUserFilesIn(root_);
  EXPECT_TRUE(absl::IsInvalidArgument(files.status()));
}

TEST_F(UserFilesTest, AProcesssRootIsHeldOpen) {
  const auto own = RootOfProcess(getpid());
  ASSERT_TRUE(own.ok()) << own.status();
  ASSERT_NE(own->open, nullptr);
  EXPECT_TRUE(own->open->valid());
  EXPECT_TRUE(absl::IsFailedPrecondition(RootOfProcess(0x7ffffffe).status()));
}

}  // namespace
}  // namespace ferry::bridge
