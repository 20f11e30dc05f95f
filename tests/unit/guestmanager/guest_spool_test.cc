#include <filesystem>

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

class CrowdedGuestTest : public GuestTest {
 protected:
  CrowdedGuestTest() {
    spool_total_ = 4000;
    max_processes_ = 5;
    ended_kept_ = 2;
  }
  size_t Kept(uint32_t pid) { return guest_->Find(pid)->migration_state().std_out.spool.size(); }
};

TEST_F(CrowdedGuestTest, SpoolsShareWhatACutCanCarry) {
  Ready();
  const uint32_t first = Exec(/*detached=*/true)->pid();
  agent_->Write(first, false, std::string(1500, 'a'));
  const uint32_t second = Exec(/*detached=*/true)->pid();
  Settle();
  EXPECT_EQ(Kept(first), 1000u);
  const uint32_t third = Exec(/*detached=*/true)->pid();
  Settle();
  EXPECT_EQ(Kept(first), 4000u / 6);
  for (uint32_t pid : {second, third}) {
    agent_->Write(pid, false, std::string(1500, 'b'));
    Settle();
    EXPECT_EQ(Kept(pid), 4000u / 6);
    // Everything is taken from the guest all the same.
    EXPECT_EQ(agent_->processes[pid].out.base, 1500u);
  }
}

TEST_F(CrowdedGuestTest, OnlyTheNewestEndedProcessesAreKept) {
  Ready();
  std::vector<uint32_t> pids;
  for (int i = 0; i < 4; ++i) pids.push_back(Exec(/*detached=*/true)->pid());
  // The one that was made first ends last.
  for (int i : {1, 2, 3, 0}) {
    agent_->Exit(pids[i], 0);
    Settle();
  }
  EXPECT_EQ(guest_->Find(pids[1]), nullptr);
  EXPECT_EQ(guest_->Find(pids[2]), nullptr);
  EXPECT_NE(guest_->Find(pids[3]), nullptr);
  EXPECT_NE(guest_->Find(pids[0]), nullptr);
  EXPECT_EQ(agent_->acknowledged, (std::vector<uint32_t>{pids[1], pids[2]}));
}

TEST_F(CrowdedGuestTest, ProcessesBeyondTheLimitAreRefused) {
  Ready();
  for (int i = 0; i < 5; ++i) Exec(/*detached=*/true);
  ProcessSpec spec;
  spec.command = {"late"};
  auto sixth = Start(guest_->CreateProcess(spec));
  Settle();
  ASSERT_TRUE(sixth->has_value());
  EXPECT_EQ((*sixth)->status().code(), absl::StatusCode::kResourceExhausted);
}

// The spools are kept in files, and the daemon dies without a word.
class KilledDaemonTest : public GuestTest {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "ferry-spools-XXXXXX";
    spool_folder_ = ::mkdtemp(pattern.data());
    GuestTest::SetUp();
    Ready();
  }
  void TearDown() override {
    GuestTest::TearDown();
    std::filesystem::remove_all(spool_folder_);
  }

  // What the store has of the guest: positions, without the bytes that the files hold.
  GuestState Record() {
    auto state = guest_->Save();
    EXPECT_TRUE(state.ok()) << state.status();
    for (ProcessState& process : state->processes) {
      process.std_out.spool.clear();
      process.std_err.spool.clear();
    }
    return *state;
  }

  // Another daemon takes over from a record that may be old.
  void Takeover(const GuestState& record) {
    guest_->Close(absl::UnavailableError("killed"));
    transport_->Break();
    guest_.reset();
    Settle();
    transport_ = std::make_unique<FakeHostTransport>(io_.get_executor());
    guest_ = Make(*transport_);
    ASSERT_TRUE(guest_->Restore(record).ok());
    agent_->Connect(transport_.get());
    Settle();
  }

  size_t Files() const {
    const std::filesystem::directory_iterator all(spool_folder_);
    return static_cast<size_t>(std::distance(begin(all), end(all)));
  }
};

TEST_F(KilledDaemonTest, TakesOverAllThatWasAcknowledged) {
  const uint32_t pid = Exec(/*detached=*/true)->pid();
  const GuestState record = Record();
  std::string all;
  for (int death = 0; death < 3; ++death) {
    const std::string line = "before death " + std::to_string(death) + "\n";
    all += line;
    agent_->Write(pid, false, line);
    Settle();
    ASSERT_EQ(agent_->processes[pid].out.kept, "");  // it was acknowledged
    Takeover(record);
  }
  TestSink sink;
  auto attachment = Attach(*guest_->Find(pid), sink);
  EXPECT_EQ(sink.out, all);
  EXPECT_EQ(sink.dropped, 0u);
}

TEST_F(KilledDaemonTest, KnowsAnEndThatTheRecordLacks) {
  const uint32_t pid = Exec(/*detached=*/true)->pid();
  const GuestState record = Record();
  agent_->Write(pid, false, "last words");
  agent_->EndOutput(pid);
  agent_->Exit(pid, 3);
  Settle();
  ASSERT_TRUE(agent_->processes[pid].out.end_taken);
  Takeover(record);
  TestSink sink;
  auto attachment = Attach(*guest_->Find(pid), sink);
  EXPECT_EQ(sink.out, "last words");
  EXPECT_EQ(sink.ends, 2);
  ASSERT_TRUE(sink.exited);
  EXPECT_EQ(sink.exited->value, 3u);
}

TEST_F(KilledDaemonTest, WhatCannotBeKeptStaysInTheGuest) {
  const uint32_t pid = Exec(/*detached=*/true)->pid();
  agent_->Write(pid, false, "kept");
  Settle();
  // A full disk: the file can neither grow nor be replaced.
  const GuestState record = Record();
  std::filesystem::remove_all(spool_folder_);
  agent_->Write(pid, false, std::string(2000, 'x'));
  agent_->Write(pid, false, "and more");
  Settle();
  EXPECT_EQ(agent_->processes[pid].out.kept.size(), 2008u);
  std::filesystem::create_directory(spool_folder_);
  EXPECT_TRUE(RunUntil([&] { return agent_->processes[pid].out.kept.empty(); }));
}

TEST_F(KilledDaemonTest, FilesGoWithTheirProcess) {
  auto process = Exec(/*detached=*/true);
  EXPECT_EQ(Files(), 2u);
  agent_->EndOutput(process->pid());
  agent_->Exit(process->pid(), 0);
  Settle();
  TestSink sink;
  auto attachment = Attach(*process, sink);
  attachment->ExitTaken();
  Settle();
  EXPECT_EQ(Files(), 0u);
}

TEST_F(KilledDaemonTest, FilesStayWhereWhoeverWantsThemSaysSo) {
  for (const bool may_go : {false, true}) {
    auto process = Exec(/*detached=*/true);
    const size_t before = Files();
    process->set_on_forget([may_go] { return may_go; });
    agent_->EndOutput(process->pid());
    agent_->Exit(process->pid(), 0);
    Settle();
    TestSink sink;
    auto attachment = Attach(*process, sink);
    attachment->ExitTaken();
    Settle();
    EXPECT_EQ(Files(), may_go ? before - 2 : before);
    // Its status was taken all the same.
    EXPECT_EQ(guest_->Find(process->pid()), nullptr);
  }
}

TEST_F(KilledDaemonTest, AnAttachedProcessHasNoFiles) {
  Exec();
  EXPECT_EQ(Files(), 0u);
}

}  // namespace
}  // namespace ferry::guest
