#include "vmmanager/sandbox/event_log.h"

#include "tests/unit/bridge/task_test.h"
#include "vmmanager/store/fake_store.h"

namespace ferry::vm {
namespace {

class EventLogTest : public TaskTest {
 protected:
  void TearDown() override {
    if (!closed_) Await(log_.Close());
    Settle();
  }

  FakeStore store_;
  EventLog log_{io_.get_executor(), store_};
  bool closed_ = false;
};

TEST_F(EventLogTest, KeepsOrderAndAttributes) {
  log_.Publish("a", "vm-1", {{"k", "v"}});
  log_.Publish("b", "vm-2");
  Settle();
  auto events = *Await(log_.Read(0, 10, false));
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].id, 1u);
  EXPECT_EQ(events[0].type, "a");
  EXPECT_EQ(events[0].subject, "vm-1");
  EXPECT_EQ(events[0].attributes.front().second, "v");
  EXPECT_GT(events[0].unix_ms, 0u);
  EXPECT_EQ(events[1].id, 2u);
}

TEST_F(EventLogTest, ResumesAfterTheLastSeen) {
  for (const char* type : {"a", "b", "c"}) log_.Publish(type, "");
  Settle();
  auto events = *Await(log_.Read(1, 1, false));
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].type, "b");
  EXPECT_TRUE(Await(log_.Read(3, 10, false))->empty());
}

TEST_F(EventLogTest, ReaderWaitsForTheNextEvent) {
  auto first = Begin(log_.Read(0, 10, true));
  auto second = Begin(log_.Read(0, 10, true));
  Settle();
  EXPECT_FALSE(first->has_value());
  log_.Publish("a", "");
  EXPECT_EQ(Finish(first)->size(), 1u);
  EXPECT_EQ(Finish(second)->size(), 1u);
}

TEST_F(EventLogTest, CloseStoresWhatIsQueuedAndWakesReaders) {
  auto reader = Begin(log_.Read(1, 10, true));
  Settle();
  log_.Publish("a", "");
  Await(log_.Close());
  closed_ = true;
  EXPECT_TRUE(Finish(reader)->empty());
  EXPECT_EQ(Await(store_.ReadEvents(0, 10))->size(), 1u);
}

TEST_F(EventLogTest, EventThatCannotBeStoredDoesNotHoldUpTheNext) {
  store_.FailNext(absl::ResourceExhaustedError("full"));
  log_.Publish("lost", "");
  log_.Publish("kept", "");
  auto events = *Await(log_.Read(0, 10, true));
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].type, "kept");
}

}  // namespace
}  // namespace ferry::vm
