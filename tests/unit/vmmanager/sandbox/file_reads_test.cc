#include "vmmanager/sandbox/file_reads.h"

#include <gmock/gmock.h>

#include <future>
#include <thread>

#include "tests/unit/bridge/task_test.h"

namespace ferry::vm {
namespace {

using ::testing::HasSubstr;
using Number = absl::StatusOr<int>;

// Files of a file system that hangs until the test lets it go on.
class FileReadsTest : public TaskTest {
 protected:
  void TearDown() override {
    if (hangs_) go_on_.set_value();
  }

  // Reads whose threads may outlive the test.
  std::function<Number()> Hanging() {
    hangs_ = true;
    return [gate = gate_]() -> Number {
      gate.wait();
      return 1;
    };
  }

  std::promise<void> go_on_;
  std::shared_future<void> gate_ = go_on_.get_future().share();
  bool hangs_ = false;
};

TEST_F(FileReadsTest, ReadsOnAnotherThread) {
  FileReads reads(milliseconds(600'000));
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
  FileReads reads(milliseconds(20));
  const absl::Status late = Await(reads.Run<int>("/nfs/disk", Hanging())).status();
  EXPECT_EQ(late.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(late.message(), HasSubstr("/nfs/disk"));
  EXPECT_THAT(late.message(), HasSubstr("hangs"));
}

TEST_F(FileReadsTest, OnlySoManyMayHang) {
  FileReads reads(milliseconds(20));
  for (int i = 0; i < FileReads::kMost; ++i) {
    EXPECT_TRUE(absl::IsDeadlineExceeded(Await(reads.Run<int>("/f", Hanging())).status()));
  }
  bool asked = false;
  const absl::Status refused = Await(reads.Run<int>("/more", [&asked]() -> Number {
                                 asked = true;
                                 return 1;
                               })).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(refused.message(), HasSubstr("/more"));
  EXPECT_FALSE(asked);
}

}  // namespace
}  // namespace ferry::vm
