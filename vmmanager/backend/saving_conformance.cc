// How backends write systems into streams and take them back.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <functional>
#include <string>
#include <thread>

#include "vmmanager/backend/conformance_case.h"

namespace ferry::vm::conformance {
namespace {

using schema::MigrationFinalOperation;
using schema::MigrationOrigin;
using schema::SystemState;

// Takes what is written into a pipe, on a thread of its own.
class Drain {
 public:
  Drain() {
    int ends[2] = {-1, -1};
    EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    to_.Reset(ends[1]);
    thread_ = std::thread([this, from = UniqueFd(ends[0])] {
      std::array<char, 65536> buffer;
      for (ssize_t count; (count = ::read(from.get(), buffer.data(), buffer.size())) > 0;) {
        taken_.append(buffer.data(), static_cast<size_t>(count));
      }
    });
  }
  ~Drain() {
    to_.Reset();
    if (thread_.joinable()) thread_.join();
  }
  UniqueFd TakeEnd() { return std::move(to_); }
  // Once whoever writes has closed its end.
  const std::string& Join() {
    thread_.join();
    return taken_;
  }

 private:
  UniqueFd to_;
  std::string taken_;
  std::thread thread_;
};

// Connects to a system that waits for its state, and gives it all of this.
std::thread Feed(const std::string& path, std::string state) {
  return std::thread([path, state = std::move(state)] {
    const UniqueFd to(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(static_cast<char*>(address.sun_path), sizeof address.sun_path - 1);
    EXPECT_EQ(::connect(to.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    std::string_view rest = state;
    while (!rest.empty()) {
      const ssize_t count = ::send(to.get(), rest.data(), rest.size(), MSG_NOSIGNAL);
      if (count <= 0) return;
      rest.remove_prefix(static_cast<size_t>(count));
    }
    ::shutdown(to.get(), SHUT_WR);
    // It may have something to answer.
    char ignored = 0;
    while (::read(to.get(), &ignored, 1) > 0) continue;
  });
}

Task<void> SaveNeedsAPausedSystem(Context& context) {
  REQUIRE_OK(co_await MakeSource(context));
  const schema::SaveOptions options;
  UniqueFd closed;
  EXPECT_EQ((co_await context.source->Save(options, std::move(closed))).code(), kWrongOrder);
  REQUIRE_OK(co_await context.source->Pause());
  Drain drain;
  UniqueFd to = drain.TakeEnd();
  REQUIRE_OK(co_await context.source->Save(options, std::move(to)));
  EXPECT_GT(drain.Join().size(), 0u);
  EXPECT_EQ(co_await StateOf(*context.source), SystemState::kPaused);
  REQUIRE_OK(co_await context.source->Resume());
  co_await ExpectRuns(context, *context.source);
}

Task<void> AFailedSaveCostsNothing(Context& context) {
  REQUIRE_OK(co_await MakeSource(context));
  REQUIRE_OK(co_await context.source->Pause());
  std::signal(SIGPIPE, SIG_IGN);
  const schema::SaveOptions options;
  int ends[2] = {-1, -1};
  EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  // Nobody reads it any more.
  ::close(ends[0]);
  UniqueFd unread(ends[1]);
  EXPECT_FALSE((co_await context.source->Save(options, std::move(unread))).ok());
  EXPECT_EQ(co_await StateOf(*context.source), SystemState::kPaused);
  REQUIRE_OK(co_await context.source->Resume());
  co_await ExpectRuns(context, *context.source);
  REQUIRE_OK(co_await context.source->Pause());
  Drain drain;
  UniqueFd to = drain.TakeEnd();
  REQUIRE_OK(co_await context.source->Save(options, std::move(to)));
}

Task<void> WhatWasSavedComesBack(Context& context) {
  REQUIRE_OK(co_await MakeSource(context));
  co_await context.fixture.LetRun(*context.source);
  REQUIRE_OK(co_await context.source->Pause());
  Drain drain;
  const schema::SaveOptions options;
  UniqueFd to = drain.TakeEnd();
  REQUIRE_OK(co_await context.source->Save(options, std::move(to)));
  const auto before = co_await context.fixture.Progress(*context.source);
  REQUIRE_OK(co_await context.source->Terminate());
  REQUIRE_OK(co_await MakeDestination(context));
  std::thread feed = Feed(context.endpoint.unix_path, drain.Join());
  const schema::MigrationTransferOptions transfer{MigrationOrigin::kDestination};
  const TransferHooks hooks;
  const absl::Status loaded =
      co_await context.destination->StartLiveMigrationTransfer(transfer, hooks);
  feed.join();
  REQUIRE_OK(loaded);
  REQUIRE_OK(co_await Finalize(*context.destination, MigrationOrigin::kDestination,
                               MigrationFinalOperation::kResume));
  co_await ExpectRuns(context, *context.destination);
  const auto after = co_await context.fixture.Progress(*context.destination);
  REQUIRE_OK(before.status());
  REQUIRE_OK(after.status());
  EXPECT_GE(*after, *before);
}

// Loads a state into a destination, which stands still then.
Task<absl::Status> LoadInto(Context& context, std::string state) {
  absl::Status made = co_await MakeDestination(context);
  if (!made.ok()) co_return made;
  std::thread feed = Feed(context.endpoint.unix_path, std::move(state));
  const schema::MigrationTransferOptions transfer{MigrationOrigin::kDestination};
  const TransferHooks hooks;
  const absl::Status loaded =
      co_await context.destination->StartLiveMigrationTransfer(transfer, hooks);
  feed.join();
  co_return loaded;
}

// Where the host cannot do it that is told, and nothing has changed.
Task<bool> IsMissingHere(Context& context, absl::Status saved) {
  if (!absl::IsUnimplemented(saved)) co_return false;
  EXPECT_TRUE(saved.GetPayload(kNothingChanged).has_value()) << saved;
  EXPECT_EQ(co_await StateOf(*context.source), SystemState::kPaused);
  co_return true;
}

Task<void> SaveBehindNeedsAPausedSystem(Context& context) {
  REQUIRE_OK(co_await MakeSource(context));
  Drain drain;
  const schema::SaveOptions options;
  bool ran = false;
  std::function<void()> on_running = [&ran] { ran = true; };
  UniqueFd to = drain.TakeEnd();
  const absl::Status refused =
      co_await context.source->SaveBehind(options, std::move(to), on_running);
  EXPECT_EQ(refused.code(), kWrongOrder) << refused;
  EXPECT_TRUE(refused.GetPayload(kNothingChanged).has_value()) << refused;
  EXPECT_FALSE(ran);
  EXPECT_EQ(co_await StateOf(*context.source), SystemState::kRunning);
}

constexpr milliseconds kToldDeadline{60'000};

using Kinds = std::vector<SystemEvent::Kind>;

Task<absl::Status> Hear(ComputeSystem* system, SystemEvent::Kind last, Kinds* kinds) {
  while (kinds->empty() || kinds->back() != last) {
    const auto event = co_await system->events().Pop();
    if (!event.has_value()) break;
    kinds->push_back(event->kind);
  }
  co_return absl::OkStatus();
}

// The kinds of what it tells, up to the first of that kind.
Task<Kinds> ToldUntil(ComputeSystem& system, SystemEvent::Kind last) {
  Kinds kinds;
  const absl::Status heard =
      co_await WithDeadline(kToldDeadline, "an event", Hear(&system, last, &kinds));
  EXPECT_TRUE(heard.ok()) << heard;
  co_return kinds;
}

Task<void> WhatWasSavedBehindIsOfThatInstant(Context& context) {
  REQUIRE_OK(co_await MakeSource(context));
  ComputeSystem& system = *context.source;
  co_await context.fixture.LetRun(system);
  REQUIRE_OK(co_await system.Pause());
  const auto before = co_await context.fixture.Progress(system);
  (void)co_await ToldUntil(system, SystemEvent::Kind::kPaused);
  Drain drain;
  const schema::SaveOptions options;
  int ran = 0;
  std::function<void()> on_running = [&ran] { ++ran; };
  UniqueFd to = drain.TakeEnd();
  const absl::Status saved = co_await system.SaveBehind(options, std::move(to), on_running);
  if (co_await IsMissingHere(context, saved)) co_return;
  REQUIRE_OK(saved);
  EXPECT_EQ(ran, 1);
  const auto told = co_await ToldUntil(system, SystemEvent::Kind::kResumed);
  EXPECT_EQ(told, Kinds{SystemEvent::Kind::kResumed});
  co_await ExpectRuns(context, system);
  REQUIRE_OK(co_await system.Terminate());
  std::string state = drain.Join();
  REQUIRE_OK(co_await LoadInto(context, std::move(state)));
  const auto after = co_await context.fixture.Progress(*context.destination);
  EXPECT_EQ(*before, *after);
  REQUIRE_OK(co_await Finalize(*context.destination, MigrationOrigin::kDestination,
                               MigrationFinalOperation::kResume));
  co_await ExpectRuns(context, *context.destination);
}

struct SavingBehind {
  absl::Status saved;
  absl::Status paused = absl::UnknownError("was not asked");
  AsyncEvent save_over;
  AsyncEvent pause_over;
};

Task<void> PauseInto(ComputeSystem* system, SavingBehind* saving) {
  saving->paused = co_await system->Pause();
  saving->pause_over.Set();
}

Task<void> SaveBehindInto(ComputeSystem* system, UniqueFd to, std::function<void()> on_running,
                          SavingBehind* saving) {
  const schema::SaveOptions options;
  saving->saved = co_await system->SaveBehind(options, std::move(to), std::move(on_running));
  saving->save_over.Set();
}

Task<void> PauseWhileSavedBehind(Context& context, bool early) {
  ComputeSystem& system = *context.source;
  REQUIRE_OK(co_await system.Pause());
  Drain drain;
  SavingBehind saving{.save_over = AsyncEvent(context.executor),
                      .pause_over = AsyncEvent(context.executor)};
  auto pause = [&] { Spawn(context.executor, PauseInto(&system, &saving)); };
  std::function<void()> on_running = [&] {
    if (!early) pause();
  };
  UniqueFd to = drain.TakeEnd();
  Spawn(context.executor, SaveBehindInto(&system, std::move(to), std::move(on_running), &saving));
  if (early) pause();
  co_await saving.save_over.Wait();
  if (early) co_await saving.pause_over.Wait();
  if (co_await IsMissingHere(context, saving.saved)) co_return;
  REQUIRE_OK(saving.saved);
  co_await saving.pause_over.Wait();
  EXPECT_TRUE(saving.paused.ok()) << saving.paused;
  EXPECT_EQ(co_await StateOf(system), SystemState::kPaused);
  REQUIRE_OK(co_await system.Resume());
  co_await ExpectRuns(context, system);
}

Task<void> APauseWhileItIsSavedBehindLasts(Context& context) {
  REQUIRE_OK(co_await MakeSource(context));
  co_await PauseWhileSavedBehind(context, false);
}

// The backend has yet to let the guest go.
Task<void> APauseAtTheBeginningOfSavingBehindLasts(Context& context) {
  REQUIRE_OK(co_await MakeSource(context));
  co_await PauseWhileSavedBehind(context, true);
}

// Whoever reads may give up at any time.
Task<void> AGuestRunsOnWhenSavingItBehindFails(Context& context) {
  REQUIRE_OK(co_await MakeSource(context));
  std::signal(SIGPIPE, SIG_IGN);
  ComputeSystem& system = *context.source;
  const schema::SaveOptions options;
  for (int round = 0; round < 3; ++round) {
    REQUIRE_OK(co_await system.Pause());
    int ends[2] = {-1, -1};
    EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    ::close(ends[0]);
    UniqueFd unread(ends[1]);
    bool ran = false;
    std::function<void()> on_running = [&ran] { ran = true; };
    const absl::Status failed = co_await system.SaveBehind(options, std::move(unread), on_running);
    if (co_await IsMissingHere(context, failed)) co_return;
    EXPECT_FALSE(failed.ok());
    EXPECT_FALSE(failed.GetPayload(kNothingChanged).has_value()) << failed;
    EXPECT_TRUE(ran);
    co_await ExpectRuns(context, system);
  }
  REQUIRE_OK(co_await system.Pause());
  Drain drain;
  UniqueFd to = drain.TakeEnd();
  REQUIRE_OK(co_await system.Save(options, std::move(to)));
}

constexpr Case kSavingCases[] = {
    {"SaveBehindNeedsAPausedSystem", SaveBehindNeedsAPausedSystem},
    {"WhatWasSavedBehindIsOfThatInstant", WhatWasSavedBehindIsOfThatInstant},
    {"APauseWhileItIsSavedBehindLasts", APauseWhileItIsSavedBehindLasts},
    {"APauseAtTheBeginningOfSavingBehindLasts", APauseAtTheBeginningOfSavingBehindLasts},
    {"AGuestRunsOnWhenSavingItBehindFails", AGuestRunsOnWhenSavingItBehindFails},
    {"SaveNeedsAPausedSystem", SaveNeedsAPausedSystem},
    {"AFailedSaveCostsNothing", AFailedSaveCostsNothing},
    {"WhatWasSavedComesBack", WhatWasSavedComesBack},
};

}  // namespace

std::span<const Case> SavingCases() { return kSavingCases; }

}  // namespace ferry::vm::conformance
