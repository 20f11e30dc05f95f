#include "guestmanager/kept_output.h"

#include "tests/unit/guestmanager/guest_fixture.h"

namespace ferry::guest {
namespace {

TEST(KeptOutputTest, BeginsWhereItIsAskedToOrWithTheOldestByte) {
  const Spool spool(100, 50, "abcdef");
  for (const auto& [since, start, bytes] :
       {std::tuple(uint64_t{0}, uint64_t{50}, "abc"), std::tuple(uint64_t{52}, uint64_t{52}, "cde"),
        std::tuple(uint64_t{56}, uint64_t{56}, ""), std::tuple(UINT64_MAX, uint64_t{56}, "")}) {
    const KeptOutput kept = ReadKept(spool, since, 3);
    EXPECT_EQ(kept.start.offset, start) << since;
    EXPECT_EQ(kept.bytes, bytes) << since;
    EXPECT_EQ(kept.end, 56u) << since;
  }
}

TEST_F(GuestTest, WhatADetachedProcessPrintedCanBeRead) {
  Ready();
  auto process = Exec(/*detached=*/true, /*has_stdin=*/false);
  agent_->Write(process->pid(), false, std::string(500, 'a') + std::string(1000, 'b'));
  Settle();
  absl::StatusOr<KeptOutput> kept = process->ReadKept(Stream::kStdout, 0, 4000);
  ASSERT_TRUE(kept.ok()) << kept.status();
  EXPECT_EQ(kept->start.offset, 500u);
  EXPECT_EQ(kept->bytes, std::string(1000, 'b'));
  EXPECT_FALSE(kept->ended);
  agent_->EndOutput(process->pid());
  agent_->EndOutput(process->pid());
  Settle();
  kept = process->ReadKept(Stream::kStdout, 1500, 4000);
  EXPECT_TRUE(kept->bytes.empty());
  EXPECT_TRUE(kept->ended);
}

TEST_F(GuestTest, OfOneThatIsNotDetachedNothingIsKept) {
  Ready();
  auto process = Exec(/*detached=*/false);
  const auto kept = process->ReadKept(Stream::kStdout, 0, 10);
  EXPECT_EQ(kept.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(kept.status().message().find("not detached"), std::string::npos);
}

TEST_F(GuestTest, WhoOnlyWatchesHoldsNothingUpAndIsToldWhatItMissed) {
  Ready();
  auto process = Exec(/*detached=*/true, /*has_stdin=*/false);
  TestSink sink;
  auto watcher = Attach(*process, sink, {.watch_only = true});
  sink.open = false;
  agent_->Write(process->pid(), false, std::string(5000, 'a'));
  Settle();
  EXPECT_EQ(agent_->processes[process->pid()].out.base, 5000u);
  sink.open = true;
  watcher->OnWritable();
  Settle();
  EXPECT_EQ(sink.out.size(), 1000u);
  EXPECT_EQ(sink.dropped, 4000u);
  // It may also come with a position that is gone.
  TestSink late;
  auto other =
      Attach(*process, late, {.watch_only = true, .stdout_position = StreamPosition{0, 10}});
  Settle();
  EXPECT_EQ(late.dropped, 3990u);
}

}  // namespace
}  // namespace ferry::guest
