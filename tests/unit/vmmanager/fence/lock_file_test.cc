#include "vmmanager/fence/lock_file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "tests/unit/bridge/task_test.h"
#include "vmmanager/fence/fence.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::vm {
namespace {

using ::testing::HasSubstr;

class LockFileTest : public ::testing::Test {
 protected:
  static LockRequest By(const std::string& host, uint64_t epoch = 1) {
    LockRequest request;
    request.own = {epoch, host, host + ":1"};
    request.vm_name = "web";
    return request;
  }
  std::string Text() const {
    std::ifstream file(path_);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  }
  void Write(const std::string& text) const { std::ofstream(path_) << text; }

  TestFolder folder_;
  const std::string path_ = folder_.path() + "/vm.lock";
};

TEST_F(LockFileTest, OneOfManyHasIt) {
  LockFile first(path_);
  LockFile second(path_);
  EXPECT_TRUE(first.Lock(By("host-a")).ok());
  EXPECT_TRUE(first.Lock(By("host-a", 2)).ok());
  const absl::Status refused = second.Lock(By("host-b", 3));
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_EQ(rpc::ReasonOf(refused), kFenceHeld);
  // Who holds it, and since when.
  EXPECT_THAT(std::string(refused.message()),
              HasSubstr("(process " + std::to_string(::getpid()) + ")"));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("host-a:1 locked it last, for epoch 2"));
  first.Unlock();
  EXPECT_TRUE(second.Lock(By("host-b", 3)).ok());
  EXPECT_EQ(DecodeLockRecord(Text()), (LockRecord{3, "host-b", "host-b:1"}));
}

TEST_F(LockFileTest, IsForItsOwnerAlone) {
  LockFile file(path_);
  ASSERT_TRUE(file.Open().ok());
  struct stat status {};
  ASSERT_EQ(::stat(path_.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0600u);
  EXPECT_NE(::fcntl(file.descriptor(), F_GETFD) & FD_CLOEXEC, 0);
}

TEST_F(LockFileTest, AnOutdatedHostIsRefused) {
  LockFile newer(path_);
  ASSERT_TRUE(newer.Lock(By("host-b", 4)).ok());
  newer.Unlock();
  LockFile older(path_);
  const absl::Status refused = older.Lock(By("host-a", 3));
  EXPECT_EQ(rpc::ReasonOf(refused), kFenceStale) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("host-b:1 with epoch 4"));
  // It has not kept it either.
  EXPECT_TRUE(newer.Lock(By("host-b", 4)).ok());
  newer.Unlock();
  EXPECT_TRUE(older.Lock(By("host-a", 5)).ok());
  older.Unlock();
  // A host's own record may lag behind, and does not go back.
  EXPECT_TRUE(older.Lock(By("host-a", 2)).ok());
  EXPECT_EQ(DecodeLockRecord(Text())->epoch, 5u);
}

TEST_F(LockFileTest, WhatItSaysIsParsedWithinBounds) {
  const std::string full = EncodeLockRecord({7, "id", std::string(1000, 'x')});
  EXPECT_EQ(full.size(), kLockRecordBytes);
  EXPECT_EQ(DecodeLockRecord(full)->host_id, "id");
  EXPECT_EQ(EncodeLockRecord({7, "id", "h:1"}).size(), kLockRecordBytes);
  EXPECT_EQ(DecodeLockRecord(EncodeLockRecord({7, "id", "h:1"})), (LockRecord{7, "id", "h:1"}));
  // Whatever an address is, the rest stays readable.
  EXPECT_EQ(DecodeLockRecord(EncodeLockRecord({7, "id", "two words\n"}))->address, "two?words?");
  EXPECT_EQ(DecodeLockRecord(EncodeLockRecord({7, "id", ""}))->address, "-");
  const std::string long_id(65, 'i');
  for (const std::string& text :
       {std::string(), std::string("ferry-lock 1 "), std::string("ferry-lock 1 9"),
        std::string("ferry-lock 1 9 id"), std::string("ferry-lock 1 9  h:1"),
        std::string("ferry-lock 1 -9 id h:1"),
        std::string("ferry-lock 1 99999999999999999999999 id h:1"),
        std::string("ferry-lock 2 9 id h:1"), std::string("ferry-lock 1 9 id h\x1b[2J"),
        std::string("ferry-lock 1 9 id two words"), std::string("ferry-lock 1 x id h:1"),
        "ferry-lock 1 9 " + long_id + " h:1"}) {
    EXPECT_FALSE(DecodeLockRecord(text)) << text;
  }
  Write(std::string(100'000, 'A'));
  LockFile file(path_);
  EXPECT_TRUE(file.Lock(By("host-a")).ok());
  // Nothing of it is cut off: it may be somebody's.
  EXPECT_EQ(Text().size(), 100'000u);
}

TEST_F(LockFileTest, HostsThatShareAnAddressAreTwo) {
  const std::string address = "unix:/run/ferry/ferryd.sock" + std::string(300, 'x');
  LockRequest one = By("id-1", 5);
  one.own.address = address;
  LockRequest two = By("id-2", 3);
  two.own.address = address;
  LockFile first(path_);
  ASSERT_TRUE(first.Lock(one).ok());
  LockFile second(path_);
  two.vmm_may_hold = true;
  EXPECT_EQ(rpc::ReasonOf(second.Lock(two)), kFenceHeld);
  first.Unlock();
  EXPECT_EQ(rpc::ReasonOf(second.Lock(two)), kFenceStale);
  // The one that had it is itself, however long its address is.
  one.own.epoch = 2;
  EXPECT_TRUE(first.Lock(one).ok());
}

TEST_F(LockFileTest, NobodyIsWhoHasNoIdentity) {
  LockFile first(path_);
  ASSERT_TRUE(first.Lock(By("host-a")).ok());
  LockFile second(path_);
  LockRequest request = By("");
  request.vmm_may_hold = true;
  for (const char* text : {"", "nonsense", "ferry-lock 1 1 - -"}) {
    Write(text);
    EXPECT_EQ(rpc::ReasonOf(second.Lock(request)), kFenceHeld) << text;
  }
}

// A VM runs under it, whatever the file says by now.
TEST_F(LockFileTest, WhatIsLockedAlreadyIsNotGivenUpForAStaleRecord) {
  LockFile file(path_);
  ASSERT_TRUE(file.Lock(By("host-a", 2)).ok());
  Write(EncodeLockRecord({9, "host-b", "host-b:1"}));
  EXPECT_TRUE(file.Lock(By("host-a", 3)).ok());
  LockFile other(path_);
  EXPECT_EQ(rpc::ReasonOf(other.Lock(By("host-b", 10))), kFenceHeld);
  // The same for what a VMM has kept locked.
  UniqueFd kept(::fcntl(file.descriptor(), F_DUPFD_CLOEXEC, 0));
  LockFile adopted(path_);
  ASSERT_TRUE(adopted.Adopt(std::move(kept)).ok());
  EXPECT_TRUE(adopted.locked());
  Write(EncodeLockRecord({9, "host-b", "host-b:1"}));
  EXPECT_TRUE(adopted.Lock(By("host-a", 3)).ok());
  EXPECT_EQ(rpc::ReasonOf(other.Lock(By("host-b", 10))), kFenceHeld);
}

TEST_F(LockFileTest, AVmmThatKeptItUnlockedHasNoLock) {
  LockFile opened(path_);
  ASSERT_TRUE(opened.Open().ok());
  UniqueFd kept(::fcntl(opened.descriptor(), F_DUPFD_CLOEXEC, 0));
  LockFile adopted(path_);
  ASSERT_TRUE(adopted.Adopt(std::move(kept)).ok());
  EXPECT_FALSE(adopted.locked());
  Write(EncodeLockRecord({9, "host-b", "host-b:1"}));
  EXPECT_EQ(rpc::ReasonOf(adopted.Lock(By("host-a", 3))), kFenceStale);
}

TEST_F(LockFileTest, LookingChangesNothing) {
  LockFile other(path_);
  EXPECT_EQ(*other.Look(By("host-b", 2), "host-a"), FenceSight::kFree);
  EXPECT_FALSE(std::filesystem::exists(path_));
  LockFile file(path_);
  ASSERT_TRUE(file.Lock(By("host-a", 4)).ok());
  const std::string text = Text();
  EXPECT_EQ(*other.Look(By("host-b", 5), "host-a"), FenceSight::kHeld);
  EXPECT_EQ(rpc::ReasonOf(other.Look(By("host-b", 5), "host-c").status()), kFenceHeld);
  file.Unlock();
  EXPECT_EQ(*other.Look(By("host-b", 5), "host-a"), FenceSight::kFree);
  EXPECT_EQ(rpc::ReasonOf(other.Look(By("host-b", 3), "host-a").status()), kFenceStale);
  EXPECT_EQ(Text(), text);
  EXPECT_TRUE(file.Lock(By("host-a", 4)).ok());
}

TEST_F(LockFileTest, WhatIsNoFileIsNotTouched) {
  const std::string elsewhere = folder_.path() + "/elsewhere";
  std::ofstream(elsewhere) << "precious";
  ASSERT_EQ(::symlink(elsewhere.c_str(), path_.c_str()), 0);
  LockFile link(path_);
  EXPECT_TRUE(absl::IsFailedPrecondition(link.Lock(By("host-a"))));
  link.Remove("host-a", true);
  EXPECT_TRUE(std::filesystem::is_symlink(path_));
  EXPECT_EQ(std::filesystem::file_size(elsewhere), 8u);
  ::unlink(path_.c_str());
  ASSERT_EQ(::mkfifo(path_.c_str(), 0600), 0);
  LockFile fifo(path_);
  EXPECT_TRUE(absl::IsFailedPrecondition(fifo.Lock(By("host-a"))));
  ::unlink(path_.c_str());
  ASSERT_EQ(::mkdir(path_.c_str(), 0700), 0);
  LockFile folder(path_);
  EXPECT_TRUE(absl::IsFailedPrecondition(folder.Lock(By("host-a"))));
}

TEST_F(LockFileTest, AFileThatWasReplacedLocksNobodyOut) {
  LockFile before(path_);
  ASSERT_TRUE(before.Lock(By("host-a")).ok());
  ::unlink(path_.c_str());
  LockFile after(path_);
  ASSERT_TRUE(after.Lock(By("host-b", 2)).ok());
  // What is locked is what others see, not what was open before.
  EXPECT_EQ(rpc::ReasonOf(before.Lock(By("host-a", 3))), kFenceHeld);
  after.Unlock();
  EXPECT_TRUE(before.Lock(By("host-a", 3)).ok());
  EXPECT_EQ(rpc::ReasonOf(after.Lock(By("host-b", 4))), kFenceHeld);
}

TEST_F(LockFileTest, OnlyWhatNobodyHoldsIsRemoved) {
  LockFile holder(path_);
  ASSERT_TRUE(holder.Lock(By("host-a")).ok());
  LockFile other(path_);
  other.Remove("host-a", true);
  EXPECT_TRUE(std::filesystem::exists(path_));
  holder.Unlock();
  // The host that had it last may want it back.
  other.Remove("host-b", true);
  EXPECT_TRUE(std::filesystem::exists(path_));
  other.Remove("host-a", true);
  EXPECT_FALSE(std::filesystem::exists(path_));
  other.Remove("host-a", true);
  EXPECT_TRUE(holder.Lock(By("host-a")).ok());
  EXPECT_TRUE(std::filesystem::exists(path_));
}

// Another host's VMM may have it open, and would go on with a file that nobody sees.
TEST_F(LockFileTest, WhatWasFoundStays) {
  LockFile maker(path_);
  ASSERT_TRUE(maker.Lock(By("host-a")).ok());
  maker.Unlock();
  LockFile guest(path_);
  ASSERT_TRUE(guest.Lock(By("host-b", 2)).ok());
  guest.Remove("host-b", false);
  EXPECT_TRUE(std::filesystem::exists(path_));
  EXPECT_EQ(guest.descriptor(), -1);
  // That of its own making goes, but not from under another host.
  maker.Remove("host-a", false);
  EXPECT_TRUE(std::filesystem::exists(path_));
  std::filesystem::remove(path_);
  ASSERT_TRUE(guest.Open().ok());
  guest.Remove("host-b", false);
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(LockFileTest, ADescriptorOfAnotherFileIsNotTakenOver) {
  LockFile file(path_);
  ASSERT_TRUE(file.Open().ok());
  UniqueFd same(::fcntl(file.descriptor(), F_DUPFD_CLOEXEC, 0));
  UniqueFd other(::open((folder_.path() + "/other").c_str(), O_RDWR | O_CREAT, 0600));
  UniqueFd none(::open("/dev/null", O_RDWR));
  EXPECT_TRUE(file.Adopt(std::move(same)).ok());
  EXPECT_FALSE(file.Adopt(std::move(other)).ok());
  EXPECT_FALSE(file.Adopt(std::move(none)).ok());
  EXPECT_TRUE(file.Lock(By("host-a")).ok());
}

TEST_F(LockFileTest, AVmmThatKeepsItToItselfIsTakenForItsHolder) {
  LockFile vmm(path_);
  ASSERT_TRUE(vmm.Lock(By("host-a")).ok());
  LockFile file(path_);
  LockRequest request = By("host-a");
  EXPECT_EQ(rpc::ReasonOf(file.Lock(request)), kFenceHeld);
  request.vmm_may_hold = true;
  EXPECT_TRUE(file.Lock(request).ok());
  // But not where another host has locked it since.
  vmm.Unlock();
  ASSERT_TRUE(vmm.Lock(By("host-b", 2)).ok());
  EXPECT_EQ(rpc::ReasonOf(file.Lock(request)), kFenceHeld);
}

}  // namespace
}  // namespace ferry::vm
