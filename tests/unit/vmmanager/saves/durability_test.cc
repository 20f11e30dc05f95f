// When a save is on the disk, and under which name.
#include <gmock/gmock.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "tests/unit/vmmanager/saves/saves_fixture.h"

namespace ferry::vm {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::IsEmpty;
using ::testing::StartsWith;

// What the kernel is asked for as long as it lives.
struct KernelWatch {
  KernelWatch() { now = this; }
  ~KernelWatch() { now = nullptr; }
  KernelWatch(const KernelWatch&) = delete;
  KernelWatch& operator=(const KernelWatch&) = delete;

  // False if that is to fail.
  bool Note(std::string what) {
    calls.push_back(std::move(what));
    return calls.size() != fails_at;
  }

  std::vector<std::string> calls;
  size_t fails_at = 0;
  static inline KernelWatch* now = nullptr;
};

std::string SyncOf(int file) {
  std::error_code ignored;
  const auto link = std::filesystem::path("/proc/self/fd") / std::to_string(file);
  struct stat info {};
  const bool is_folder = ::fstat(file, &info) == 0 && S_ISDIR(info.st_mode);
  return "sync " + std::filesystem::read_symlink(link, ignored).string() + " " +
         (is_folder ? "whole" : std::to_string(info.st_size));
}

int FailedOr(bool may, long number, long a, long b = 0, long c = 0, long d = 0, long e = 0) {
  if (may) return static_cast<int>(::syscall(number, a, b, c, d, e));
  errno = EIO;
  return -1;
}

}  // namespace
}  // namespace ferry::vm

// In place of the C library's own.
extern "C" int fsync(int file) {
  auto* watch = ferry::vm::KernelWatch::now;
  const bool may = watch == nullptr || watch->Note(ferry::vm::SyncOf(file));
  return ferry::vm::FailedOr(may, SYS_fsync, file);
}

extern "C" int renameat2(int from_folder, const char* from, int to_folder, const char* to,
                         unsigned int flags) noexcept {
  auto* watch = ferry::vm::KernelWatch::now;
  const bool may = watch == nullptr || watch->Note("name " + std::string(to));
  return ferry::vm::FailedOr(may, SYS_renameat2, from_folder, reinterpret_cast<long>(from),
                             to_folder, reinterpret_cast<long>(to), flags);
}

// Which of the two it is depends on the file system.
extern "C" int linkat(int from_folder, const char* from, int to_folder, const char* to,
                      int flags) noexcept {
  auto* watch = ferry::vm::KernelWatch::now;
  const bool may = watch == nullptr || watch->Note("name " + std::string(to));
  return ferry::vm::FailedOr(may, SYS_linkat, from_folder, reinterpret_cast<long>(from), to_folder,
                             reinterpret_cast<long>(to), flags);
}

namespace ferry::vm {
namespace {

class DurabilityTest : public SavesTest {
 protected:
  absl::StatusOr<SavedFileInfo> Write(size_t fails_at = 0) {
    auto writer = SavedFileWriter::Create(path_, SavedFileOptions());
    EXPECT_TRUE(writer.ok()) << writer.status();
    EXPECT_TRUE((*writer)->WriteHead("head").ok());
    EXPECT_TRUE((*writer)->WriteMemory(MixedBytes(3'000'000)).ok());
    EXPECT_FALSE(std::filesystem::exists(path_));
    KernelWatch watch;
    watch.fails_at = fails_at;
    auto info = (*writer)->Commit("tail");
    calls_ = watch.calls;
    return info;
  }

  std::vector<std::string> calls_;
};

TEST_F(DurabilityTest, AFileHasItsNameOnceItIsOnTheDiskWhole) {
  const auto info = Write();
  ASSERT_TRUE(info.ok()) << info.status();
  // As long as it has no name, or none of its own, it is synced as what it is: all of its bytes.
  const auto synced =
      AllOf(StartsWith("sync " + folder_ + "/"), EndsWith(" " + std::to_string(info->file_bytes)));
  EXPECT_THAT(calls_, ElementsAre(synced, "name " + path_, "sync " + folder_ + " whole"));
  EXPECT_TRUE(Load().ok());
}

TEST_F(DurabilityTest, WhatIsNotKnownToBeOnTheDiskIsNotThere) {
  for (size_t step = 1; step <= 3; ++step) {
    EXPECT_FALSE(Write(step).ok()) << step;
    EXPECT_EQ(calls_.size(), step);
    EXPECT_THAT(Names(), IsEmpty()) << step;
  }
}

}  // namespace
}  // namespace ferry::vm
