#include "guestmanager/spool_file.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <limits>

namespace ferry::guest {
namespace {

constexpr uint64_t kNoReader = std::numeric_limits<uint64_t>::max();
constexpr size_t kCapacity = 100;

class SpoolFileTest : public ::testing::Test {
 protected:
  SpoolFileTest() {
    std::string pattern = ::testing::TempDir() + "ferry-spool-XXXXXX";
    folder_ = ::mkdtemp(pattern.data());
    path_ = folder_ + "/out";
  }
  ~SpoolFileTest() override { std::filesystem::remove_all(folder_); }

  SpoolFile::Content Read() {
    auto content = SpoolFile::Read(path_);
    EXPECT_TRUE(content.ok()) << content.status();
    return content.value_or(SpoolFile::Content());
  }

  std::string folder_;
  std::string path_;
};

TEST_F(SpoolFileTest, HoldsWhatWasAddedAtEveryMoment) {
  Spool spool(kCapacity, 5000, "");
  SpoolFile file(path_, kCapacity);
  ASSERT_TRUE(file.Update(spool, false).ok());
  EXPECT_EQ(Read().start, 5000u);
  EXPECT_EQ(Read().bytes, "");
  for (const char* more : {"one", "two", "three"}) {
    spool.Append(more, kNoReader);
    ASSERT_TRUE(file.Update(spool, false).ok());
    EXPECT_EQ(Read().bytes, spool.bytes());
    EXPECT_FALSE(Read().ended);
  }
  ASSERT_TRUE(file.Update(spool, true).ok());
  EXPECT_EQ(Read().bytes, "onetwothree");
  EXPECT_TRUE(Read().ended);
}

TEST_F(SpoolFileTest, StaysBoundedAndKeepsTheNewest) {
  Spool spool(kCapacity);
  SpoolFile file(path_, kCapacity);
  std::string all;
  for (int i = 0; i < 1000; ++i) {
    const std::string line = "line " + std::to_string(i) + "\n";
    all += line;
    spool.Append(line, kNoReader);
    ASSERT_TRUE(file.Update(spool, false).ok());
    const SpoolFile::Content content = Read();
    ASSERT_LE(content.bytes.size(), 2 * kCapacity);
    ASSERT_GE(content.bytes.size(), std::min(all.size(), kCapacity));
    ASSERT_EQ(content.bytes, all.substr(content.start));
  }
}

TEST_F(SpoolFileTest, BytesThatWereSkippedLeaveNoGap) {
  SpoolFile file(path_, kCapacity);
  ASSERT_TRUE(file.Update(Spool(kCapacity, 0, "early"), false).ok());
  ASSERT_TRUE(file.Update(Spool(kCapacity, 50, "late"), false).ok());
  EXPECT_EQ(Read().start, 50u);
  EXPECT_EQ(Read().bytes, "late");
}

TEST_F(SpoolFileTest, WhatAFormerDaemonWroteIsReplacedWhole) {
  ASSERT_TRUE(SpoolFile(path_, kCapacity).Update(Spool(kCapacity, 0, "former"), true).ok());
  SpoolFile file(path_, kCapacity);
  EXPECT_EQ(Read().bytes, "former");
  ASSERT_TRUE(file.Update(Spool(kCapacity, 3, "new"), false).ok());
  EXPECT_EQ(Read().start, 3u);
  EXPECT_EQ(Read().bytes, "new");
  EXPECT_FALSE(Read().ended);
}

TEST_F(SpoolFileTest, AnyLengthThatADeathLeavesIsAPrefix) {
  Spool spool(kCapacity, 7, "abcdef");
  ASSERT_TRUE(SpoolFile(path_, kCapacity).Update(spool, false).ok());
  for (uintmax_t size = std::filesystem::file_size(path_); size-- > 0;) {
    std::filesystem::resize_file(path_, size);
    auto content = SpoolFile::Read(path_);
    if (!content.ok()) {
      EXPECT_TRUE(absl::IsDataLoss(content.status())) << content.status();
    } else {
      EXPECT_EQ(content->start, 7u);
      EXPECT_TRUE(spool.bytes().starts_with(content->bytes));
    }
  }
}

TEST_F(SpoolFileTest, AnErrorIsMadeUpForLater) {
  std::filesystem::remove_all(folder_);
  Spool spool(kCapacity, 0, "first");
  SpoolFile file(path_, kCapacity);
  EXPECT_FALSE(file.Update(spool, false).ok());
  spool.Append(" second", kNoReader);
  std::filesystem::create_directory(folder_);
  ASSERT_TRUE(file.Update(spool, false).ok());
  EXPECT_EQ(Read().bytes, "first second");
}

TEST_F(SpoolFileTest, OneThatIsNotThereOrNoSpoolIsNotRead) {
  EXPECT_TRUE(absl::IsNotFound(SpoolFile::Read(path_).status()));
  std::ofstream(path_) << "something else altogether, long enough for a header";
  EXPECT_TRUE(absl::IsDataLoss(SpoolFile::Read(path_).status()));
}

TEST_F(SpoolFileTest, RemovedItStaysAway) {
  SpoolFile file(path_, kCapacity);
  ASSERT_TRUE(file.Update(Spool(kCapacity, 0, "x"), false).ok());
  file.Remove();
  EXPECT_FALSE(std::filesystem::exists(path_));
  EXPECT_TRUE(file.Update(Spool(kCapacity, 0, "xy"), false).ok());
  EXPECT_FALSE(std::filesystem::exists(path_));
}

}  // namespace
}  // namespace ferry::guest
