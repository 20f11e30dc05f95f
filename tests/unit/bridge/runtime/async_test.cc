#include "bridge/runtime/async.h"

#include <gtest/gtest.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <memory>
#include <string>
#include <vector>

#include "tests/unit/bridge/run_task.h"

namespace ferry {
namespace {

// Long enough never to pass in a test.
constexpr milliseconds kForever = std::chrono::hours(24);

// Says in which way a task's frame ended.
struct Trace {
  std::vector<std::string>* log;
  std::string name;
  bool finished = false;
  ~Trace() { log->push_back(name + (finished ? " finished" : " unwound")); }
};

class AsyncTest : public testing::Test {
 protected:
  std::vector<std::string> log;  // outlives the tasks that the io_context still holds
  asio::io_context io;
  Executor executor = io.get_executor();
};

using Log = std::vector<std::string>;

Task<void> WaitFor(AsyncEvent* event, Log* log, std::string name) {
  Trace trace{log, name};
  co_await event->Wait();
  trace.finished = true;
}

TEST_F(AsyncTest, EventWakesAllWaitersAndLaterOnesAtOnce) {
  AsyncEvent event(executor);
  Spawn(executor, WaitFor(&event, &log, "a"));
  Spawn(executor, WaitFor(&event, &log, "b"));
  RunReady(io);
  EXPECT_TRUE(log.empty());
  event.Set();
  RunReady(io);
  EXPECT_EQ(log, (Log{"a finished", "b finished"}));
  RunTask(io, WaitFor(&event, &log, "c"));
  EXPECT_EQ(log.back(), "c finished");
}

TEST_F(AsyncTest, EventThatIsResetAtOnceStillWakesItsWaiters) {
  AsyncEvent event(executor);
  Spawn(executor, WaitFor(&event, &log, "a"));
  RunReady(io);
  event.Set();
  event.Reset();
  Spawn(executor, WaitFor(&event, &log, "b"));
  RunReady(io);
  EXPECT_EQ(log, (Log{"a finished"}));
}

TEST_F(AsyncTest, CancelledWaitUnwindsInsteadOfReturning) {
  AsyncEvent event(executor);
  TaskScope scope(executor);
  scope.Spawn(WaitFor(&event, &log, "a"));
  RunReady(io);
  scope.Cancel();
  RunReady(io);
  EXPECT_EQ(log, (Log{"a unwound"}));
}

TEST_F(AsyncTest, ACancellationFromOutsideTheLoopMayComeTooLateOrTwice) {
  AsyncEvent event(executor);
  {
    TaskScope scope(executor);
    scope.Spawn(WaitFor(&event, &log, "a"));
    scope.Spawn(WaitFor(&event, &log, "b"));
    RunReady(io);
    event.Set();
    scope.Cancel();
    scope.Cancel();
    io.restart();
    io.poll_one();
    scope.Cancel();
  }
  RunReady(io);
  EXPECT_EQ(log.size(), 2u);
}

TEST_F(AsyncTest, DestroyedEventUnwindsItsWaiters) {
  auto event = std::make_unique<AsyncEvent>(executor);
  Spawn(executor, WaitFor(event.get(), &log, "a"));
  RunReady(io);
  event.reset();
  RunReady(io);
  EXPECT_EQ(log, (Log{"a unwound"}));
}

TEST_F(AsyncTest, EventMayBeDestroyedRightAfterItIsSet) {
  auto event = std::make_unique<AsyncEvent>(executor);
  Spawn(executor, WaitFor(event.get(), &log, "a"));
  RunReady(io);
  event->Set();
  event.reset();
  RunReady(io);
  EXPECT_EQ(log, (Log{"a finished"}));
}

TEST_F(AsyncTest, CancelledDelayUnwinds) {
  TaskScope scope(executor);
  auto sleep = [](Log* log) -> Task<void> {
    Trace trace{log, "sleeper"};
    co_await Delay(kForever);
    trace.finished = true;
  };
  scope.Spawn(sleep(&log));
  RunReady(io);
  RunTask(io, scope.CancelAndJoin());
  EXPECT_EQ(log, (Log{"sleeper unwound"}));
}

Task<void> PopAll(AsyncQueue<int>* queue, Log* log, std::string name) {
  for (;;) {
    std::optional<int> item = co_await queue->Pop();
    if (!item.has_value()) break;
    log->push_back(name + std::to_string(*item));
  }
  log->push_back(name + " end");
}

TEST_F(AsyncTest, QueueGivesItemsInOrderAndThenItsEnd) {
  AsyncQueue<int> queue(executor);
  queue.Push(1);
  queue.Push(2);
  Spawn(executor, PopAll(&queue, &log, ""));
  RunReady(io);
  queue.Push(3);
  queue.Close();
  queue.Push(4);
  RunReady(io);
  EXPECT_EQ(log, (Log{"1", "2", "3", " end"}));
}

TEST_F(AsyncTest, QueueServesSeveralReadersEachItemOnce) {
  AsyncQueue<int> queue(executor);
  Spawn(executor, PopAll(&queue, &log, "a"));
  Spawn(executor, PopAll(&queue, &log, "b"));
  RunReady(io);
  queue.Push(1);
  RunReady(io);
  queue.Push(2);
  RunReady(io);
  queue.Close();
  RunReady(io);
  EXPECT_EQ(log.size(), 4u);
  EXPECT_EQ(queue.size(), 0u);
}

TEST_F(AsyncTest, CancelledReaderTakesNoItem) {
  AsyncQueue<int> queue(executor);
  TaskScope scope(executor);
  scope.Spawn(PopAll(&queue, &log, "cancelled"));
  RunReady(io);
  scope.Cancel();
  RunReady(io);
  queue.Push(1);
  queue.Close();
  RunTask(io, PopAll(&queue, &log, ""));
  EXPECT_EQ(log, (Log{"1", " end"}));
}

// Takes the mutex and holds it until `release`.
Task<void> HoldUntil(AsyncMutex* mutex, AsyncEvent* release, Log* log, std::string name) {
  Trace trace{log, name};
  AsyncMutex::Guard guard = co_await mutex->Lock();
  log->push_back(name + " locked");
  co_await release->Wait();
  trace.finished = true;
}

TEST_F(AsyncTest, MutexIsHandedOverInOrder) {
  AsyncMutex mutex(executor);
  AsyncEvent first(executor), second(executor), third(executor);
  Spawn(executor, HoldUntil(&mutex, &first, &log, "a"));
  Spawn(executor, HoldUntil(&mutex, &second, &log, "b"));
  Spawn(executor, HoldUntil(&mutex, &third, &log, "c"));
  RunReady(io);
  EXPECT_EQ(log, (Log{"a locked"}));
  third.Set();
  RunReady(io);
  EXPECT_EQ(log, (Log{"a locked"}));
  first.Set();
  RunReady(io);
  EXPECT_EQ(log, (Log{"a locked", "a finished", "b locked"}));
  second.Set();
  RunReady(io);
  EXPECT_EQ(log.back(), "c finished");
  EXPECT_FALSE(mutex.locked());
}

TEST_F(AsyncTest, CancelledHolderFreesTheMutex) {
  AsyncMutex mutex(executor);
  AsyncEvent never(executor);
  TaskScope scope(executor);
  scope.Spawn(HoldUntil(&mutex, &never, &log, "a"));
  RunReady(io);
  EXPECT_TRUE(mutex.locked());
  RunTask(io, scope.CancelAndJoin());
  EXPECT_FALSE(mutex.locked());
}

TEST_F(AsyncTest, CancelledWaiterLeavesTheLineAtOnce) {
  AsyncMutex mutex(executor);
  AsyncEvent release(executor), second(executor);
  TaskScope scope(executor);
  Spawn(executor, HoldUntil(&mutex, &release, &log, "a"));
  RunReady(io);
  scope.Spawn(HoldUntil(&mutex, &second, &log, "b"));
  RunReady(io);
  Spawn(executor, HoldUntil(&mutex, &second, &log, "c"));
  RunReady(io);
  RunTask(io, scope.CancelAndJoin());
  EXPECT_EQ(log, (Log{"a locked", "b unwound"})) << "it need not wait for its turn to unwind";
  release.Set();
  RunReady(io);
  EXPECT_EQ(log.back(), "c locked");
  second.Set();
  RunReady(io);
  EXPECT_FALSE(mutex.locked());
}

TEST_F(AsyncTest, WaiterCancelledAtItsTurnPassesTheMutexOn) {
  AsyncMutex mutex(executor);
  AsyncEvent never(executor), last(executor);
  TaskScope scope(executor);
  std::optional<AsyncMutex::Guard> held;
  auto take = [](AsyncMutex* mutex, std::optional<AsyncMutex::Guard>* out) -> Task<void> {
    out->emplace(co_await mutex->Lock());
  };
  RunTask(io, take(&mutex, &held));
  scope.Spawn(HoldUntil(&mutex, &never, &log, "b"));
  Spawn(executor, HoldUntil(&mutex, &last, &log, "c"));
  RunReady(io);
  held.reset();    // b's turn comes,
  scope.Cancel();  // and before it runs it is cancelled
  RunReady(io);
  EXPECT_EQ(log.back(), "c locked");
  last.Set();
  RunReady(io);
  EXPECT_FALSE(mutex.locked());
}

Task<absl::Status> Never(AsyncEvent* never, Log* log) {
  Trace trace{log, "inner"};
  co_await never->Wait();
  co_return absl::OkStatus();
}

TEST_F(AsyncTest, DeadlineCancelsTheLateTaskAndNamesIt) {
  auto task = [](AsyncEvent* never, Log* log) -> Task<void> {
    absl::Status status = co_await WithDeadline(milliseconds(1), "the peer", Never(never, log));
    EXPECT_TRUE(absl::IsDeadlineExceeded(status));
    EXPECT_NE(status.message().find("the peer"), std::string::npos) << status;
  };
  AsyncEvent never(executor);
  RunTask(io, task(&never, &log));
  EXPECT_EQ(log, (Log{"inner unwound"}));
}

TEST_F(AsyncTest, DeadlinePassesResultsThrough) {
  auto answer = [](int value) -> Task<absl::StatusOr<int>> { co_return value; };
  auto fail = []() -> Task<absl::Status> { co_return absl::NotFoundError("no such thing"); };
  auto task = [&]() -> Task<void> {
    absl::StatusOr<int> value = co_await WithDeadline(kForever, "answer", answer(42));
    EXPECT_EQ(value.value_or(0), 42);
    absl::Status status = co_await WithDeadline(kForever, "failure", fail());
    EXPECT_TRUE(absl::IsNotFound(status)) << status;
  };
  RunTask(io, task());
}

TEST_F(AsyncTest, CancellationFromOutsideIsNoDeadline) {
  AsyncEvent never(executor);
  auto task = [](AsyncEvent* never, Log* log) -> Task<void> {
    Trace trace{log, "outer"};
    absl::Status status = co_await WithDeadline(kForever, "it", Never(never, log));
    trace.finished = true;
  };
  TaskScope scope(executor);
  scope.Spawn(task(&never, &log));
  RunReady(io);
  RunTask(io, scope.CancelAndJoin());
  EXPECT_EQ(log, (Log{"inner unwound", "outer unwound"}));
}

TEST_F(AsyncTest, ScopeJoinsAllItsTasks) {
  AsyncEvent never(executor);
  TaskScope scope(executor);
  for (const char* name : {"a", "b", "c"}) scope.Spawn(WaitFor(&never, &log, name));
  RunReady(io);
  RunTask(io, scope.CancelAndJoin());
  EXPECT_EQ(log.size(), 3u);
  scope.Spawn(WaitFor(&never, &log, "late"));
  RunReady(io);
  EXPECT_EQ(log.size(), 3u) << "nothing is started any more";
}

TEST_F(AsyncTest, ScopeWithNothingToDoJoinsAtOnce) {
  TaskScope scope(executor);
  RunTask(io, scope.CancelAndJoin());
  RunTask(io, scope.CancelAndJoin());
}

TEST_F(AsyncTest, ScopeCancelsATaskThatHasNotStarted) {
  AsyncEvent never(executor);
  TaskScope scope(executor);
  scope.Spawn(WaitFor(&never, &log, "a"));
  RunTask(io, scope.CancelAndJoin());
}

TEST_F(AsyncTest, ScopeJoinsAlsoWhenTheJoinerIsCancelled) {
  // The inner task takes its time to unwind: it waits for the gate first.
  AsyncEvent gate(executor), never(executor);
  auto inner = std::make_unique<TaskScope>(executor);
  auto stubborn = [](AsyncEvent* gate, Log* log) -> Task<void> {
    Trace trace{log, "stubborn"};
    co_await asio::this_coro::reset_cancellation_state(asio::disable_cancellation());
    co_await gate->Wait();
    trace.finished = true;
  };
  auto join = [](TaskScope* inner, AsyncEvent* never, Log* log) -> Task<void> {
    Trace trace{log, "joiner"};
    co_await inner->CancelAndJoin();
    co_await never->Wait();
  };
  inner->Spawn(stubborn(&gate, &log));
  RunReady(io);
  TaskScope outer(executor);
  outer.Spawn(join(inner.get(), &never, &log));
  RunReady(io);
  outer.Cancel();
  RunReady(io);
  EXPECT_TRUE(log.empty());
  gate.Set();
  RunReady(io);
  EXPECT_EQ(log, (Log{"stubborn finished", "joiner unwound"}));
}

TEST_F(AsyncTest, ParallelOperationsCancelledTogetherAreNoFailure) {
  using asio::experimental::awaitable_operators::operator||;
  AsyncEvent never(executor);
  auto both = [](AsyncEvent* never, Log* log) -> Task<void> {
    Task<void> a = WaitFor(never, log, "a");
    Task<void> b = WaitFor(never, log, "b");
    co_await (std::move(a) || std::move(b));
  };
  TaskScope scope(executor);
  scope.Spawn(both(&never, &log));
  RunReady(io);
  RunTask(io, scope.CancelAndJoin());
  EXPECT_EQ(log.size(), 2u);
}

TEST_F(AsyncTest, AnExceptionOutOfATaskIsNotSwallowed) {
  auto broken = []() -> Task<void> {
    throw std::logic_error("broken invariant");
    co_return;
  };
  Spawn(executor, broken());
  EXPECT_THROW(RunReady(io), std::logic_error);
}

}  // namespace
}  // namespace ferry
