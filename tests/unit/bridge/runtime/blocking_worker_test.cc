#include "bridge/runtime/blocking_worker.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>

#include "tests/unit/bridge/runtime/no_more_threads.h"
#include "tests/unit/bridge/task_test.h"

namespace ferry {
namespace {

class BlockingWorkerTest : public TaskTest {};

TEST_F(BlockingWorkerTest, GivesWhatTheWorkSays) {
  BlockingWorker worker(io_.get_executor());
  const auto here = std::this_thread::get_id();
  const absl::Status said = Await(worker.Run(milliseconds(600'000), "it", [here] {
    return std::this_thread::get_id() == here ? absl::OkStatus() : absl::DataLossError("said");
  }));
  EXPECT_EQ(said, absl::DataLossError("said"));
}

TEST_F(BlockingWorkerTest, WithoutAThreadThereIsNone) {
  {
    const NoMoreThreads none;
    EXPECT_TRUE(absl::IsResourceExhausted(BlockingWorker::Start(io_.get_executor()).status()));
  }
  const auto worker = BlockingWorker::Start(io_.get_executor());
  ASSERT_TRUE(worker.ok()) << worker.status();
  EXPECT_TRUE(
      Await((*worker)->Run(milliseconds(600'000), "it", [] { return absl::OkStatus(); })).ok());
}

TEST_F(BlockingWorkerTest, WorkThatHangsIsLateAndDoneAllTheSame) {
  std::promise<void> release;
  std::atomic<bool> done = false;
  {
    BlockingWorker worker(io_.get_executor());
    const absl::Status late = Await(worker.Run(milliseconds(1), "it", [&] {
      release.get_future().wait();
      done = true;
      return absl::OkStatus();
    }));
    EXPECT_TRUE(absl::IsDeadlineExceeded(late));
    EXPECT_FALSE(done);
    release.set_value();
    worker.Close(milliseconds(600'000));
  }
  EXPECT_TRUE(done);
}

TEST_F(BlockingWorkerTest, OneThatIsStuckIsLeftToItself) {
  auto release = std::make_shared<std::promise<void>>();
  std::promise<void> ended;
  {
    BlockingWorker worker(io_.get_executor());
    worker.Post([release, &ended] {
      release->get_future().wait();
      ended.set_value();
    });
  }
  release->set_value();
  ended.get_future().wait();
}

}  // namespace
}  // namespace ferry
