// How backends write systems into streams and take them back.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <csignal>
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

constexpr Case kSavingCases[] = {
    {"SaveNeedsAPausedSystem", SaveNeedsAPausedSystem},
    {"AFailedSaveCostsNothing", AFailedSaveCostsNothing},
    {"WhatWasSavedComesBack", WhatWasSavedComesBack},
};

}  // namespace

std::span<const Case> SavingCases() { return kSavingCases; }

}  // namespace ferry::vm::conformance
