#include "vmmanager/saving/memory_pump.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>

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
  {
    auto to = Await(writing->Begin("head"));
    ASSERT_TRUE(to.ok()) << to.status();
    ASSERT_EQ(::write(to->get(), "memory", 6), 6);
  }
  ASSERT_TRUE(Await(writing->Taken()).ok());
  auto committing = Begin(writing->Commit("tail"));
  Settle();
  EXPECT_EQ(Await(writing->Discard(absl::CancelledError("called off"))).code(),
            absl::StatusCode::kCancelled);
  (void)Finish(committing);
  EXPECT_TRUE(std::filesystem::is_empty(folder_.path()));
}

}  // namespace
}  // namespace ferry::vm
