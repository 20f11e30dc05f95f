#include "vmmanager/saves/file_identity.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/unit/vmmanager/saves/saves_fixture.h"
#include "vmmanager/saves/partial_file.h"

namespace ferry::vm {
namespace {

class FileIdentityTest : public SavesTest {
 protected:
  std::string Make(const std::string& name) {
    const std::string path = folder_ + "/" + name;
    std::ofstream(path) << name;
    return path;
  }
  static FileIdentity Of(const std::string& path) {
    const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    const auto identity = IdentityOf(file.get());
    EXPECT_TRUE(identity.ok()) << identity.status();
    return *identity;
  }
};

TEST_F(FileIdentityTest, OnlyThatFileIsRemoved) {
  const std::string file = Make("one");
  const FileIdentity identity = Of(file);
  ASSERT_NE(identity.born_ns, 0);
  std::filesystem::rename(Make("other"), file);
  EXPECT_TRUE(RemoveIfSame(file, identity).ok());
  EXPECT_TRUE(std::filesystem::exists(file));
  EXPECT_TRUE(RemoveIfSame(file, Of(file)).ok());
  EXPECT_FALSE(std::filesystem::exists(file));
  EXPECT_TRUE(RemoveIfSame(file, identity).ok());
}

// As the next file is that gets a free inode's number.
TEST_F(FileIdentityTest, OneOfTheSameNumberThatWasBornLaterStays) {
  const std::string file = Make("one");
  FileIdentity former = Of(file);
  --former.born_ns;
  EXPECT_TRUE(RemoveIfSame(file, former).ok());
  EXPECT_TRUE(std::filesystem::exists(file));
}

TEST_F(FileIdentityTest, WhatMayBeAnotherOneStays) {
  EXPECT_TRUE(RemoveIfSame("/proc/version", FileIdentity{}).ok());
  const UniqueFd file(::open("/proc/version", O_RDONLY | O_CLOEXEC));
  const auto identity = IdentityOf(file.get());
  ASSERT_TRUE(identity.ok());
  ASSERT_EQ(identity->born_ns, 0);
  EXPECT_TRUE(absl::IsFailedPrecondition(RemoveIfSame("/proc/version", *identity)));
}

TEST_F(FileIdentityTest, AFileKeepsItWhenItGetsItsName) {
  const std::string path = folder_ + "/named";
  auto file = PartialFile::Create(path, {});
  ASSERT_TRUE(file.ok()) << file.status();
  const auto before = (*file)->identity();
  ASSERT_TRUE(before.ok());
  ASSERT_TRUE((*file)->Commit().ok());
  EXPECT_EQ(Of(path), *before);
}

}  // namespace
}  // namespace ferry::vm
