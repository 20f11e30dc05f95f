// What clients see of a guest that is put back to an earlier state.
#include "guestmanager/timeline.h"

#include "tests/unit/guestmanager/guest_fixture.h"

namespace ferry::guest {
namespace {

constexpr uint64_t kMoment = 1'800'000'000'500;

TEST(TimelineTest, IsLaterThanAnyThatWasBegunBefore) {
  GuestState state;
  BeginTimeline(&state, 0, kMoment);
  EXPECT_EQ(state.timeline, 1'800'000'000u);
  // What is gone back to knows nothing of it: twice within a second, or with a clock set back.
  for (const uint64_t now : {kMoment, uint64_t{0}}) {
    GuestState again;
    again.timeline = 5;
    BeginTimeline(&again, state.timeline, now);
    EXPECT_EQ(again.timeline, 1'800'000'001u);
  }
  BeginTimeline(&state, 0, 0);
  EXPECT_EQ(state.timeline, 1'800'000'001u);
}

TEST(TimelineTest, BeginsInEachStreamWhereThatStood) {
  GuestState state;
  state.processes.resize(1);
  state.processes[0].std_out.taken.offset = 8;
  state.processes[0].std_out.spool_start = 3;
  state.processes[0].std_out.spool = "kept";
  state.processes[0].std_err.taken.offset = 5;
  state.starting.resize(1);
  BeginTimeline(&state, 0, kMoment);
  EXPECT_EQ(state.processes[0].std_out.went_back_at, 7u);
  EXPECT_EQ(state.processes[0].std_err.went_back_at, 5u);
  EXPECT_EQ(state.starting[0].std_out.went_back_at, 0u);
}

TEST_F(GuestTest, WhoKnowsAFormerTimeBeginsAnew) {
  Ready();
  const uint32_t pid = Exec(/*detached=*/true)->pid();
  agent_->Write(pid, false, "then");
  Settle();
  GuestState state = *guest_->Save();
  BeginTimeline(&state, 0, kMoment);
  Migrate(state);
  auto process = moved_->Find(pid);
  const auto kept = process->ReadKept(Stream::kStdout, 0, 100);
  ASSERT_TRUE(kept.ok()) << kept.status();
  EXPECT_GE(kept->start.generation, 1'800'000'000u);
  EXPECT_EQ(kept->went_back_at, 4u);
  // Someone who has read as much of what then did not happen.
  TestSink sink;
  AttachOptions options{.watch_only = true};
  options.stdout_position = StreamPosition{0, 4};
  auto watching = Attach(*process, sink, options);
  EXPECT_EQ(sink.out, "then");
  TestSink other;
  options.stdout_position = StreamPosition{kept->start.generation, 4};
  auto again = Attach(*process, other, options);
  EXPECT_EQ(other.out, "");
  // Whoever takes it over from here tells the same.
  const GuestState later = *moved_->Save();
  EXPECT_EQ(later.timeline, state.timeline);
  EXPECT_EQ(later.processes[0].std_out.went_back_at, 4u);
}

// A process that is made later may have the number of one that then was not made.
TEST_F(GuestTest, WhatIsMadeInALaterTimeIsOfThatToo) {
  Ready();
  GuestState state = *guest_->Save();
  BeginTimeline(&state, 0, kMoment);
  Migrate(state);
  std::swap(guest_, moved_);
  std::swap(transport_, moved_transport_);
  agent_->Connect(transport_.get());
  Settle();
  const auto process = Exec(/*detached=*/true);
  const auto kept = process->ReadKept(Stream::kStdout, 0, 100);
  ASSERT_TRUE(kept.ok()) << kept.status();
  EXPECT_GE(kept->start.generation, 1'800'000'000u);
  EXPECT_EQ(kept->went_back_at, 0u);
}

}  // namespace
}  // namespace ferry::guest
