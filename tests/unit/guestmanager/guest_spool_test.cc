#include "tests/unit/guestmanager/guest_fixture.h"

namespace ferry::guest {
namespace {

TEST_F(GuestTest, DetachedProcessIsSpooledAndWatched) {
  Ready();
  auto process = Exec(/*detached=*/true, /*has_stdin=*/false);
  agent_->Write(process->pid(), false, std::string(1500, 'a'));
  Settle();
  EXPECT_EQ(agent_->processes[process->pid()].out.base, 1500u);
  TestSink one, two;
  auto first = Attach(*process, one);
  auto second = Attach(*process, two, {.watch_only = true});
  EXPECT_EQ(one.first, 500u);
  EXPECT_EQ(one.out.size(), 1000u);
  EXPECT_EQ(two.out.size(), 1000u);
  // A follower that has not taken anything holds the guest back instead of losing bytes.
  agent_->Write(process->pid(), false, std::string(500, 'b'));
  Settle();
  EXPECT_EQ(one.out.size(), 1000u);
  first->Acknowledge(Stream::kStdout, 1500, false);
  second->Acknowledge(Stream::kStdout, 1500, false);
  Settle();
  EXPECT_EQ(one.out.size(), 1500u);
  agent_->EndOutput(process->pid());
  agent_->Exit(process->pid(), 0);
  Settle();
  EXPECT_EQ(two.exited, (ExitStatus{ExitStatus::Kind::kCode, 0}));
}

TEST_F(GuestTest, SpoolMovesWithTheState) {
  Ready();
  const uint32_t pid = Exec(/*detached=*/true)->pid();
  agent_->Write(pid, false, "spooled");
  Settle();
  Migrate();
  TestSink sink;
  auto attachment = Attach(*moved_->Find(pid), sink);
  EXPECT_EQ(sink.out, "spooled");
}

}  // namespace
}  // namespace ferry::guest
