#include "vmmanager/fence/image_lock_fence.h"

#include <gmock/gmock.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
extern "C" {
#include <sys/pidfd.h>
}

#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <sstream>

#include "tests/unit/bridge/task_test.h"
#include "vmmanager/fence/lock_record.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::vm {
namespace {

using ::testing::HasSubstr;

constexpr char kVm[] = "11111111-2222-3333-4444-555555555555";

// A process that has what descriptors this one had, and does nothing: a VMM.
class Vmm {
 public:
  Vmm() : pid_(::fork()) {
    if (pid_ == 0) ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (pid_ == 0) ::pause();
  }
  ~Vmm() { End(); }

  void End() {
    if (std::exchange(ended_, true)) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  absl::StatusOr<UniqueFd> Take(int descriptor) const {
    const UniqueFd process(::pidfd_open(pid_, 0));
    UniqueFd taken(::pidfd_getfd(process.get(), descriptor, 0));
    if (!taken.valid()) return absl::ErrnoToStatus(errno, "pidfd_getfd");
    return taken;
  }

 private:
  const pid_t pid_;
  bool ended_ = false;
};

class ImageLockFenceTest : public TaskTest {
 protected:
  ImageLockOptions Options(const std::string& host) const {
    ImageLockOptions options;
    options.folder = folder_.path();
    options.shared = true;
    options.host_id = host;
    options.address = host + ":1";
    return options;
  }
  // What cannot be copied.
  std::unique_ptr<ImageLockFence> Open(ImageLockOptions options) {
    std::unique_ptr<ImageLockFence> opened;
    Await(Keep(ImageLockFence::Open(io_.get_executor(), std::move(options)), &opened));
    return opened;
  }
  std::unique_ptr<ImageLockFence> Open(const std::string& host) { return Open(Options(host)); }
  static Task<void> Keep(Task<absl::StatusOr<std::unique_ptr<ImageLockFence>>> opening,
                         std::unique_ptr<ImageLockFence>* opened) {
    auto fence = co_await std::move(opening);
    EXPECT_TRUE(fence.ok()) << fence.status();
    if (fence.ok()) *opened = *std::move(fence);
  }
  static Task<void> NoteStatus(Task<absl::StatusOr<std::unique_ptr<ImageLockFence>>> opening,
                               absl::Status* status) {
    *status = (co_await std::move(opening)).status();
  }
  std::string Path() const { return folder_.path() + "/" + kVm + ".lock"; }
  absl::Status Claim(ImageLockFence& fence, uint64_t epoch) {
    return Await(fence.Claim({kVm, "web", epoch}));
  }
  void ExpectHeld(ImageLockFence& fence, uint64_t epoch) {
    const absl::Status refused = Claim(fence, epoch);
    EXPECT_EQ(rpc::ReasonOf(refused), kFenceHeld) << refused;
  }

  TestFolder folder_;
};

TEST_F(ImageLockFenceTest, ACopyRunsWhereTheFenceWasClaimedLast) {
  auto a = Open("host-a");
  auto b = Open("host-b");
  EXPECT_TRUE(Claim(*a, 1).ok());
  ExpectHeld(*b, 2);
  Await(a->Yield(kVm));
  EXPECT_TRUE(Claim(*b, 2).ok());
  ExpectHeld(*a, 3);
  Await(b->Yield(kVm));
  Await(b->Yield(kVm));
  EXPECT_TRUE(Claim(*a, 3).ok());
}

TEST_F(ImageLockFenceTest, LastsAsLongAsTheVmm) {
  auto a = Open("host-a");
  auto b = Open("host-b");
  ASSERT_TRUE(Claim(*a, 1).ok());
  ASSERT_GE(a->Descriptor(kVm), 0);
  Vmm vmm;
  a.reset();  // the daemon ends
  ExpectHeld(*b, 2);
  vmm.End();
  EXPECT_TRUE(Claim(*b, 2).ok());
}

TEST_F(ImageLockFenceTest, AVmmThatStartsBeforeTheClaimHoldsIt) {
  auto a = Open("host-a");
  auto b = Open("host-b");
  ASSERT_TRUE(Await(b->Prepare(kVm)).ok());
  Vmm vmm;
  ASSERT_TRUE(Claim(*a, 1).ok());
  Await(a->Yield(kVm));
  ASSERT_TRUE(Claim(*b, 2).ok());
  b.reset();
  ExpectHeld(*a, 3);
}

TEST_F(ImageLockFenceTest, ARestartedDaemonGivesUpWhatItsVmmHolds) {
  auto a = Open("host-a");
  auto b = Open("host-b");
  ASSERT_TRUE(Claim(*a, 1).ok());
  const int number = a->Descriptor(kVm);
  Vmm vmm;
  a.reset();
  a = Open("host-a");
  a->TakeBack(kVm, vmm.Take(number));
  ExpectHeld(*b, 2);
  // As after a COMMIT that the former daemon wrote last.
  Await(a->Yield(kVm));
  EXPECT_TRUE(Claim(*b, 2).ok());
  ExpectHeld(*a, 3);
  Await(b->Yield(kVm));
  EXPECT_TRUE(Claim(*a, 3).ok());
  a.reset();
  ExpectHeld(*b, 4);
}

TEST_F(ImageLockFenceTest, WhatTheKernelDoesNotGiveOutIsHeld) {
  auto a = Open("host-a");
  auto b = Open("host-b");
  ASSERT_TRUE(Claim(*a, 1).ok());
  Vmm vmm;
  a.reset();
  a = Open("host-a");
  a->TakeBack(kVm, absl::PermissionDeniedError("not yours to trace"));
  EXPECT_TRUE(Claim(*a, 1).ok());
  // It cannot be given up, so the VM cannot go; but it can come back.
  Await(a->Yield(kVm));
  ExpectHeld(*b, 2);
  EXPECT_TRUE(Claim(*a, 3).ok());
  // Once that VMM is gone, nothing of the host's own may hold it.
  vmm.End();
  Await(a->Yield(kVm));
  ASSERT_TRUE(Claim(*b, 4).ok());
  ASSERT_TRUE(Await(a->Prepare(kVm)).ok());
  ExpectHeld(*a, 5);
}

TEST_F(ImageLockFenceTest, WhoHasNothingOfTheVmLeavesWhatOthersMayHaveOpen) {
  auto a = Open("host-a");
  auto b = Open("host-b");
  ASSERT_TRUE(Claim(*a, 1).ok());
  ASSERT_TRUE(Await(b->Prepare(kVm)).ok());
  Await(a->Yield(kVm));
  ASSERT_TRUE(Claim(*b, 2).ok());
  Await(b->Yield(kVm));
  // A destination that was refused, or has refused, before the source has it back.
  Await(b->Forget(kVm, FenceFate::kElsewhere));
  EXPECT_TRUE(std::filesystem::exists(Path()));
  EXPECT_EQ(b->Descriptor(kVm), -1);
  ASSERT_TRUE(Claim(*a, 3).ok());
  // A deleted VM's goes, unless somebody has it.
  Await(b->Forget(kVm, FenceFate::kDeleted));
  EXPECT_TRUE(std::filesystem::exists(Path()));
  Await(a->Forget(kVm, FenceFate::kDeleted));
  EXPECT_FALSE(std::filesystem::exists(Path()));
}

TEST_F(ImageLockFenceTest, AFolderOfItsOwnKeepsNothingOfWhatIsGone) {
  ImageLockOptions own = Options("host-a");
  own.shared = false;
  auto a = Open(own);
  EXPECT_EQ(a->level(), kHostLock);
  ASSERT_TRUE(Claim(*a, 1).ok());
  a.reset();
  a = Open(own);
  Await(a->Forget(kVm, FenceFate::kElsewhere));
  EXPECT_FALSE(std::filesystem::exists(Path()));
}

TEST_F(ImageLockFenceTest, AVmmThatEndedKeepsNothingOpen) {
  auto a = Open("host-a");
  ASSERT_TRUE(Claim(*a, 1).ok());
  Await(a->Release(kVm));
  EXPECT_EQ(a->Descriptor(kVm), -1);
  auto b = Open("host-b");
  EXPECT_TRUE(Claim(*b, 2).ok());
}

TEST_F(ImageLockFenceTest, LooksWithoutClaiming) {
  auto a = Open("host-a");
  auto b = Open("host-b");
  const FenceClaim next{kVm, "web", 2};
  EXPECT_EQ(*Await(b->Look(next, "host-a")), FenceSight::kFree);
  ASSERT_TRUE(Claim(*a, 1).ok());
  EXPECT_EQ(*Await(a->Look(next, "host-a")), FenceSight::kHeld);
  EXPECT_EQ(*Await(b->Look(next, "host-a")), FenceSight::kHeld);
  EXPECT_EQ(rpc::ReasonOf(Await(b->Look(next, "host-c")).status()), kFenceHeld);
  std::filesystem::remove_all(folder_.path());
  EXPECT_TRUE(absl::IsFailedPrecondition(Await(b->Look(next, "host-a")).status()));
}

TEST_F(ImageLockFenceTest, NeedsAFolderWhereFilesCanBeLocked) {
  for (const std::string& folder : {folder_.path() + "/none", std::string("/dev/null")}) {
    ImageLockOptions options = Options("h");
    options.folder = folder;
    absl::Status refused;
    Await(NoteStatus(ImageLockFence::Open(io_.get_executor(), options), &refused));
    EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
    EXPECT_THAT(std::string(refused.message()), HasSubstr(folder));
  }
  auto fence = Open("host-a");
  EXPECT_EQ(fence->level(), kImageLock);
  EXPECT_TRUE(std::filesystem::is_empty(folder_.path()));
}

TEST_F(ImageLockFenceTest, AnIdThatIsNoneNamesNoFile) {
  auto fence = Open("host-a");
  for (const char* id : {"", "../x", "a/b", "."}) {
    EXPECT_TRUE(absl::IsInvalidArgument(Await(fence->Claim({id, "web", 1})))) << id;
    EXPECT_TRUE(absl::IsInvalidArgument(Await(fence->Prepare(id)))) << id;
    Await(fence->Forget(id, FenceFate::kDeleted));
  }
}

// A file system that gives no answer until Open().
class Gate {
 public:
  void Shut() {
    const std::lock_guard lock(mutex_);
    open_ = false;
  }
  void Open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  void Pass() {
    std::unique_lock lock(mutex_);
    ++reached_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return open_; });
  }
  // Returns when something stands before it.
  void WaitReached(int times) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return reached_ >= times; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = true;
  int reached_ = 0;
};

class HungFolderTest : public ImageLockFenceTest {
 protected:
  ImageLockOptions Slow(const std::string& host) {
    ImageLockOptions options = Options(host);
    options.limit = milliseconds(20);
    options.patience = milliseconds(60'000);
    options.before_work = [gate = gate_] { gate->Pass(); };
    return options;
  }
  // Whose VMM, if there is one from here on, shares the lock.
  std::unique_ptr<ImageLockFence> Prepared() {
    auto fence = Open(Slow("host-a"));
    while (!Await(fence->Prepare(kVm)).ok()) {
    }
    return fence;
  }
  static void ExpectLate(const absl::Status& status) {
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    EXPECT_THAT(std::string(status.message()),
                HasSubstr("whether another copy of the VM may run cannot be told"));
  }

  static std::optional<LockRecord> RecordIn(const std::string& path) {
    std::ifstream file(path);
    std::stringstream text;
    text << file.rdbuf();
    return DecodeLockRecord(text.str());
  }

  // Shared with threads that are left to themselves.
  std::shared_ptr<Gate> gate_ = std::make_shared<Gate>();
};

TEST_F(HungFolderTest, ADaemonStartsAndItsClaimsAreRefused) {
  gate_->Shut();
  auto a = Open(Slow("host-a"));
  ASSERT_NE(a, nullptr);
  ExpectLate(Await(a->Prepare(kVm)));
  ExpectLate(Claim(*a, 1));
  ExpectLate(Await(a->Look({kVm, "web", 1}, "host-a")).status());
  gate_->Open();
  while (!Claim(*a, 1).ok()) {
  }
  ExpectHeld(*Open("host-b"), 2);
}

TEST_F(HungFolderTest, ALockThatComesTooLateIsUndone) {
  auto a = Prepared();
  auto b = Open("host-b");
  Vmm vmm;
  gate_->Shut();
  ExpectLate(Claim(*a, 1));
  gate_->Open();
  a.reset();  // what was asked for is done
  EXPECT_EQ(RecordIn(Path())->host_id, "host-a");
  EXPECT_TRUE(Claim(*b, 1).ok());
}

TEST_F(HungFolderTest, ALateClaimDoesNotUndoALaterOne) {
  auto a = Open(Slow("host-a"));
  ASSERT_NE(a, nullptr);
  gate_->Shut();
  auto late = Begin(a->Claim({kVm, "web", 1}));
  auto later = Begin(a->Claim({kVm, "web", 2}));
  ExpectLate(Finish(late));
  ExpectLate(Finish(later));
  while (!Claim(*a, 3).ok()) gate_->Open();
  Vmm vmm;
  a.reset();
  ExpectHeld(*Open("host-b"), 4);
}

TEST_F(HungFolderTest, OfManyLateClaimsNothingStays) {
  auto a = Prepared();
  Vmm vmm;
  gate_->Shut();
  auto one = Begin(a->Claim({kVm, "web", 1}));
  auto other = Begin(a->Claim({kVm, "web", 2}));
  ExpectLate(Finish(one));
  ExpectLate(Finish(other));
  gate_->Open();
  a.reset();
  EXPECT_TRUE(Claim(*Open("host-b"), 3).ok());
}

TEST_F(HungFolderTest, WhatRunsKeepsItsLockThroughALateClaim) {
  auto a = Open(Slow("host-a"));
  ASSERT_NE(a, nullptr);
  while (!Claim(*a, 1).ok()) {
  }
  gate_->Shut();
  // It is held, so nobody need be asked.
  EXPECT_TRUE(Claim(*a, 1).ok());
  ExpectLate(Claim(*a, 2));
  gate_->Open();
  Vmm vmm;
  a.reset();
  ExpectHeld(*Open("host-b"), 3);
}

TEST_F(HungFolderTest, AYieldThatComesLateComes) {
  auto a = Open(Slow("host-a"));
  auto b = Open("host-b");
  ASSERT_NE(a, nullptr);
  while (!Claim(*a, 1).ok()) {
  }
  gate_->Shut();
  Await(a->Yield(kVm));
  ExpectHeld(*b, 2);
  gate_->Open();
  Vmm vmm;
  a.reset();
  EXPECT_TRUE(Claim(*b, 2).ok());
}

TEST_F(HungFolderTest, OneVmsWaitIsNoLongerThanItsOwnLimit) {
  auto a = Open(Slow("host-a"));
  ASSERT_NE(a, nullptr);
  gate_->Shut();
  auto first = Begin(a->Claim({kVm, "web", 1}));
  auto second = Begin(a->Claim({"another", "db", 1}));
  ExpectLate(Finish(first));
  ExpectLate(Finish(second));
  gate_->Open();
}

TEST_F(HungFolderTest, ADaemonEndsWhileItsFolderHangs) {
  ImageLockOptions impatient = Slow("host-a");
  impatient.patience = milliseconds(0);
  auto a = Open(impatient);
  ASSERT_NE(a, nullptr);
  gate_->Shut();
  auto claim = Begin(a->Claim({kVm, "web", 1}));
  Settle();
  gate_->WaitReached(2);
  a.reset();
  // Its call is still under way, and finds nothing gone.
  ExpectLate(Finish(claim));
  gate_->Open();
}

}  // namespace
}  // namespace ferry::vm
