#include "vmmanager/sandbox/file_reads.h"

#include <gmock/gmock.h>

#include <future>
#include <thread>
#include <utility>
#include <vector>

#include "tests/unit/bridge/task_test.h"

namespace ferry::vm {
namespace {

using ::testing::HasSubstr;
using Number = absl::StatusOr<int>;

// Files of a file system that hangs until the test lets it go on.
class FileReadsTest : public TaskTest {
 protected:
  void TearDown() override { LetGoOn(); }

  void LetGoOn() {
    if (!std::exchange(goes_on_, true)) go_on_.set_value();
  }

  // Its thread may outlive the test.
  std::function<Number()> Hanging() {
    return [gate = gate_]() -> Number {
      gate.wait();
      return 1;
    };
  }

  absl::Status Hang(ThreadedFileReads& reads) {
    return Await(reads.Run<int>("/nfs/disk", Hanging())).status();
  }
  static std::function<Number()> Quick() {
    return []() -> Number { return 42; };
  }

  std::promise<void> go_on_;
  std::shared_future<void> gate_ = go_on_.get_future().share();
  bool goes_on_ = false;
};

TEST_F(FileReadsTest, ReadsOnAnotherThread) {
  ThreadedFileReads reads(io_.get_executor(), milliseconds(600'000));
  std::thread::id reader;
  const Number read = Await(reads.Run<int>("/f", [&reader]() -> Number {
    reader = std::this_thread::get_id();
    return 42;
  }));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, 42);
  EXPECT_NE(reader, std::this_thread::get_id());
  const Number refused =
      Await(reads.Run<int>("/f", []() -> Number { return absl::NotFoundError("no /f"); }));
  EXPECT_EQ(refused.status(), absl::NotFoundError("no /f"));
}

TEST_F(FileReadsTest, WhatHangsIsLeftToItself) {
  ThreadedFileReads reads(io_.get_executor(), milliseconds(20));
  const absl::Status late = Hang(reads);
  EXPECT_EQ(late.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(late.message(), HasSubstr("/nfs/disk"));
  EXPECT_THAT(late.message(), HasSubstr("hangs"));
}

TEST_F(FileReadsTest, OthersWaitForTheirTurn) {
  ThreadedFileReads reads(io_.get_executor(), milliseconds(600'000));
  std::vector<Pending<Number>> all;
  for (int i = 0; i < ThreadedFileReads::kAtOnce; ++i) {
    all.push_back(Begin(reads.Run<int>("/f", Hanging())));
  }
  auto next = Begin(reads.Run<int>("/f", Quick()));
  Settle();
  EXPECT_FALSE(next->has_value());
  LetGoOn();
  EXPECT_TRUE(Finish(next).ok());
  for (auto& read : all) EXPECT_TRUE(Finish(read).ok());
}

TEST_F(FileReadsTest, WhatHangsIsInNobodysWay) {
  ThreadedFileReads reads(io_.get_executor(), milliseconds(200));
  for (int i = 0; i < 2 * ThreadedFileReads::kAtOnce; ++i) {
    (void)Begin(reads.Run<int>("/nfs/disk", Hanging()));
  }
  // It waits for those before it, and no longer.
  EXPECT_TRUE(Await(reads.Run<int>("/f", Quick())).ok());
}

TEST_F(FileReadsTest, OnlySoManyMayHang) {
  ThreadedFileReads reads(io_.get_executor(), milliseconds(5));
  for (int i = 0; i < ThreadedFileReads::kMostLate; ++i) {
    EXPECT_TRUE(absl::IsDeadlineExceeded(Hang(reads)));
  }
  bool asked = false;
  auto ask = [&reads, &asked, this] {
    return Await(reads.Run<int>("/more",
                                [&asked]() -> Number {
                                  asked = true;
                                  return 1;
                                }))
        .status();
  };
  const absl::Status refused = ask();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(refused.message(), HasSubstr("/more"));
  EXPECT_FALSE(asked);
  // Once they have ended others may be read again.
  LetGoOn();
  while (absl::IsResourceExhausted(ask())) std::this_thread::yield();
  EXPECT_TRUE(asked);
}

}  // namespace
}  // namespace ferry::vm
