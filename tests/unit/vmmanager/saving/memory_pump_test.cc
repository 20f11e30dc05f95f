#include "vmmanager/saving/memory_pump.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "bridge/runtime/status_macros.h"
#include "tests/unit/bridge/task_test.h"

namespace ferry::vm {
namespace {

class MemoryPumpTest : public TaskTest {
 protected:
  TestFolder folder_;
  std::string path_ = folder_.path() + "/file.ferry";
};

// Whoever made it whole may have been called off while the disk was at it.
TEST_F(MemoryPumpTest, NothingStaysOfAFileThatIsDiscardedWhileItIsMadeWhole) {
  auto writing = std::make_shared<FileBeingSaved>(io_.get_executor());
  ASSERT_TRUE(Await(writing->Create(path_, {}, "")).ok());
  auto write = [](std::shared_ptr<FileBeingSaved> file) -> Task<absl::Status> {
    CO_ASSIGN_OR_RETURN(const UniqueFd to, co_await file->Begin("head"));
    if (::write(to.get(), "memory", 6) == 6) co_return absl::OkStatus();
    co_return absl::UnknownError("not written");
  };
  ASSERT_TRUE(Await(write(writing)).ok());
  ASSERT_TRUE(Await(writing->Taken()).ok());
  auto committing = Begin(writing->Commit("tail"));
  Settle();
  EXPECT_EQ(Await(writing->Discard(absl::CancelledError("called off"))).code(),
            absl::StatusCode::kCancelled);
  (void)Finish(committing);
  EXPECT_TRUE(std::filesystem::is_empty(folder_.path()));
}

// A VMM that hangs keeps its end, and writes nothing.
TEST_F(MemoryPumpTest, WhoDiscardsItWaitsForNobodyWhoKeepsTheOtherEnd) {
  auto writing = std::make_shared<FileBeingSaved>(io_.get_executor());
  ASSERT_TRUE(Await(writing->Create(path_, {}, "")).ok());
  UniqueFd kept;
  auto begin = [](std::shared_ptr<FileBeingSaved> file, UniqueFd* to) -> Task<absl::Status> {
    CO_ASSIGN_OR_RETURN(*to, co_await file->Begin("head"));
    co_return absl::OkStatus();
  };
  ASSERT_TRUE(Await(begin(writing, &kept)).ok());
  EXPECT_EQ(Await(writing->Discard(absl::AbortedError("it hangs"))).code(),
            absl::StatusCode::kAborted);
  EXPECT_TRUE(std::filesystem::is_empty(folder_.path()));
  EXPECT_TRUE(kept.valid());
}

}  // namespace
}  // namespace ferry::vm
