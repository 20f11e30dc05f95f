// How a disk is told from another one of the same name and size.
#include "vmmanager/sandbox/disk_marks.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "tests/unit/vmmanager/sandbox/sandbox_fixture.h"

namespace ferry::vm {
namespace {

using ::testing::Not;

class DiskMarksTest : public SandboxTest {
 protected:
  std::string Path(const std::string& name) const { return folder_.path() + "/" + name; }
  std::string Write(const std::string& name, const std::string& text = "disk") {
    std::ofstream(Path(name), std::ios::trunc) << text;
    return Path(name);
  }
  v1::VmSpec Spec(bool read_only) {
    v1::VmSpec spec;
    v1::DiskSpec* disk = spec.add_disks();
    disk->set_name("data");
    disk->set_file(Write("data"));
    disk->set_read_only(read_only);
    return spec;
  }
  std::string Why(const state::v1::DiskPayload& disk, const std::string& path) {
    const auto why = Await(WhyOtherDisk(disk, path, &digests_));
    EXPECT_TRUE(why.ok()) << why.status();
    return why.ok() ? *why : "";
  }

  using Marks = std::shared_ptr<std::vector<DiskMark>>;
  Marks Mark(const v1::VmSpec& spec, state::v1::VmPayload* vm) {
    auto marks = std::make_shared<std::vector<DiskMark>>();
    auto mark = [](ImageDigests* digests, v1::VmSpec disks, state::v1::VmPayload* payload,
                   Marks into) -> Task<bool> {
      *into = co_await MarkDisks(std::move(disks), payload->mutable_disks(), digests);
      co_return true;
    };
    EXPECT_TRUE(Await(mark(&digests_, spec, vm, marks)));
    return marks;
  }

  ThreadedFileReads reads_{io_.get_executor()};
  ImageDigests digests_{reads_};
};

TEST_F(DiskMarksTest, TheSameFileHasItUnderAnyName) {
  const std::string path = Write("one");
  std::filesystem::create_hard_link(path, Path("other"));
  std::filesystem::create_symlink(path, Path("link"));
  auto mark = MarkDisk(path);
  ASSERT_TRUE(mark.ok()) << mark.status();
  for (const char* name : {"one", "other", "link"}) EXPECT_TRUE(*HasMark(Path(name), mark->word));
  std::filesystem::copy_file(path, Path("copy"));
  EXPECT_FALSE(*HasMark(Path("copy"), mark->word));
  const std::string word = mark->word;
  mark = absl::UnknownError("over");
  EXPECT_FALSE(*HasMark(path, word));
}

TEST_F(DiskMarksTest, ItNeedsNoRightToWrite) {
  const std::string path = Write("one");
  ASSERT_EQ(::chmod(path.c_str(), 0400), 0);
  const auto mark = MarkDisk(path);
  ASSERT_TRUE(mark.ok()) << mark.status();
  EXPECT_TRUE(*HasMark(path, mark->word));
  EXPECT_EQ(std::filesystem::file_size(path), 4u);
}

TEST_F(DiskMarksTest, AWordIsAPeers) {
  const std::string path = Write("one");
  const auto mark = MarkDisk(path);
  ASSERT_TRUE(mark.ok()) << mark.status();
  for (const std::string word :
       {"", "lock:", "lock:0", "lock:100", "lock:-1", "lock:9223372036854775807",
        "lock:99999999999999999999999", "lock:1x"}) {
    EXPECT_FALSE(*HasMark(path, word)) << word;
  }
  EXPECT_TRUE(absl::IsNotFound(HasMark(Path("none"), mark->word).status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(HasMark(folder_.path(), mark->word).status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(MarkDisk("/dev/zero").status()));
}

// As flock() does on a network's file system.
TEST_F(DiskMarksTest, ALockOfAllOfItIsNoMark) {
  const std::string path = Write("one");
  const auto mark = MarkDisk(path);
  ASSERT_TRUE(mark.ok()) << mark.status();
  std::filesystem::copy_file(path, Path("copy"));
  const UniqueFd whole(::open(Path("copy").c_str(), O_RDONLY | O_CLOEXEC));
  struct flock lock {};
  lock.l_type = F_RDLCK;
  ASSERT_EQ(::fcntl(whole.get(), F_OFD_SETLK, &lock), 0);
  EXPECT_FALSE(*HasMark(Path("copy"), mark->word));
}

TEST_F(DiskMarksTest, WhatLiesBelowIsNotProved) {
  std::string head("QFI\xfb", 4);
  head += std::string(12, '\0');
  state::v1::VmPayload vm;
  vm.add_disks()->set_name("data");
  v1::VmSpec spec = Spec(false);
  Write("data", head);
  { const Marks alone = Mark(spec, &vm); }
  EXPECT_FALSE(vm.disks(0).below());
  head[15] = 1;
  Write("data", head);
  const Marks over = Mark(spec, &vm);
  EXPECT_TRUE(vm.disks(0).below());
}

TEST_F(DiskMarksTest, OneThatIsWrittenToMustBeTheSameFile) {
  state::v1::VmPayload vm;
  vm.add_disks()->set_name("data");
  vm.add_disks()->set_name("scratch-1");
  const Marks marks = Mark(Spec(false), &vm);
  EXPECT_EQ(marks->size(), 1u);
  EXPECT_EQ(Why(vm.disks(0), Path("data")), "");
  EXPECT_THAT(Why(vm.disks(0), Write("other")), HasSubstr("another file than the source's"));
  // Nothing is said of a container's, nor by a source that is older.
  EXPECT_EQ(Why(vm.disks(1), Path("other")), "");
}

TEST_F(DiskMarksTest, OneThatIsOnlyReadMayBeACopy) {
  state::v1::VmPayload vm;
  vm.add_disks()->set_name("data");
  {
    const Marks marks = Mark(Spec(true), &vm);
    EXPECT_EQ(marks->size(), 1u);
    EXPECT_EQ(Why(vm.disks(0), Path("data")), "");
  }
  EXPECT_EQ(Why(vm.disks(0), Write("copy")), "");
  EXPECT_THAT(Why(vm.disks(0), Write("other", "eisk")), HasSubstr("with other content"));
  EXPECT_THAT(Why(vm.disks(0), Write("other", "eisk")), Not(HasSubstr("eisk")));
}

}  // namespace
}  // namespace ferry::vm
