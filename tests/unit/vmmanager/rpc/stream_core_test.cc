#include "vmmanager/rpc/stream_core.h"

#include <gmock/gmock.h>

#include <string>
#include <vector>

#include "tests/unit/bridge/task_test.h"

namespace ferry::rpc {
namespace {

using ::testing::ElementsAre;

struct Text {
  std::string text;
  size_t ByteSizeLong() const { return text.size(); }
};

// Nothing is written before the test says so.
class SlowStream final : public StreamCore<NoMessage, Text>,
                         public std::enable_shared_from_this<SlowStream> {
 public:
  explicit SlowStream(const Executor& executor) : StreamCore(executor) {}
  void WriteOne() { WriteDone(true); }
  void End() { Release(); }

  std::vector<std::string> begun;

 private:
  void StartReadLocked(NoMessage*) override {}
  void StartWriteLocked(const Text* message) override { begun.push_back(message->text); }
  void CloseLocked() override {}
  std::shared_ptr<void> Self() override { return shared_from_this(); }
};

// Up to four characters in one.
bool MergeText(Text* waiting, Text* next) {
  if (waiting->text.size() + next->text.size() > 4) return false;
  waiting->text += next->text;
  return true;
}

class StreamCoreTest : public TaskTest {
 protected:
  void TearDown() override {
    stream_->End();
    Settle();
  }
  void Write(const std::vector<std::string>& texts) {
    for (const std::string& text : texts) EXPECT_TRUE(stream_->Write({text}));
  }

  const std::shared_ptr<SlowStream> stream_ = std::make_shared<SlowStream>(io_.get_executor());
};

TEST_F(StreamCoreTest, WhatWaitsTakesUpWhatComesBehindIt) {
  stream_->set_merge(&MergeText);
  Write({"a", "b", "c", "def", "g", "h"});
  // The first is being written, and stays as it is.
  for (int i = 0; i < 3; ++i) stream_->WriteOne();
  EXPECT_THAT(stream_->begun, ElementsAre("a", "bc", "defg", "h"));
}

TEST_F(StreamCoreTest, WithoutThatEachIsWrittenAlone) {
  Write({"a", "b"});
  stream_->WriteOne();
  EXPECT_THAT(stream_->begun, ElementsAre("a", "b"));
}

TEST_F(StreamCoreTest, WhatWasTakenUpCountsForTheHighWaterMark) {
  stream_->set_merge([](Text* waiting, Text* next) {
    waiting->text += next->text;
    return true;
  });
  const std::string quarter(kStreamHighWater / 4, 'x');
  Write({quarter, quarter, quarter});
  EXPECT_TRUE(stream_->writable());
  Write({quarter});
  EXPECT_FALSE(stream_->writable());
  stream_->WriteOne();
  EXPECT_TRUE(stream_->writable());
  stream_->WriteOne();
  Settle();
  EXPECT_TRUE(Await(stream_->WaitFlushed()));
  EXPECT_EQ(stream_->begun.size(), 2u);
}

}  // namespace
}  // namespace ferry::rpc
