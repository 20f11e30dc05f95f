#include "bridge/guest/filesystem_freezer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "bridge/container/fake_filesystems.h"
#include "bridge/protocol/freeze_limits.h"
#include "tests/unit/bridge/guest/guest_server_fixture.h"
#include "tests/unit/bridge/task_test.h"

namespace ferry::bridge {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

constexpr milliseconds kLong{3'600'000};
constexpr milliseconds kShort{1};

// A guest with three filesystems, mounted in the order of their names.
class FilesystemFreezerTest : public TaskTest {
 protected:
  FilesystemFreezerTest() {
    FilesystemFreezer::Options options;
    options.thaw_again = kShort;
    options.log = [this](const std::string& line) { log_.push_back(line); };
    freezer_ = std::make_shared<FilesystemFreezer>(io_.get_executor(), disks_, std::move(options));
    for (const char* name : {"/a", "/b", "/c"}) disks_.Mount(name);
  }

  void FreezeAll() {
    const auto frozen = Await(freezer_->Freeze(kLong));
    ASSERT_TRUE(frozen.ok()) << frozen.status();
    ASSERT_EQ(*frozen, 3u);
  }
  // Hangs there, however long it took to get so far.
  Pending<absl::StatusOr<size_t>> FreezeUpTo(const std::string& name, milliseconds limit = kLong) {
    disks_.hangs.insert("freeze " + name);
    while (true) {
      auto pending = Begin(freezer_->Freeze(limit));
      Until([&] { return disks_.waiting > 0 || pending->has_value(); });
      if (disks_.waiting > 0) return pending;
      Until([this] { return disks_.frozen.empty(); });
      disks_.calls.clear();
      limit *= 2;
    }
  }

  FakeFilesystems disks_{io_.get_executor()};
  std::vector<std::string> log_;
  std::shared_ptr<FilesystemFreezer> freezer_;
};

TEST_F(FilesystemFreezerTest, TheLastMountedIsFrozenFirst) {
  FreezeAll();
  EXPECT_THAT(disks_.calls, ElementsAre("freeze /c", "freeze /b", "freeze /a"));
  EXPECT_THAT(disks_.frozen, UnorderedElementsAre("/a", "/b", "/c"));
  disks_.calls.clear();
  const absl::Status thawed = Await(freezer_->Thaw());
  EXPECT_TRUE(thawed.ok()) << thawed;
  EXPECT_THAT(disks_.calls, ElementsAre("thaw /a", "thaw /b", "thaw /c"));
  EXPECT_THAT(disks_.frozen, IsEmpty());
  // And once more.
  disks_.calls.clear();
  FreezeAll();
  EXPECT_TRUE(Await(freezer_->Thaw()).ok());
}

TEST_F(FilesystemFreezerTest, AGuestWithoutAnyIsFrozenAtOnce) {
  FakeFilesystems none(io_.get_executor());
  const auto freezer = std::make_shared<FilesystemFreezer>(io_.get_executor(), none);
  EXPECT_EQ(*Await(freezer->Freeze(kLong)), 0u);
  EXPECT_TRUE(Await(freezer->Thaw()).ok());
}

TEST_F(FilesystemFreezerTest, OneThatFailsIsNamedAndTheOthersAreThawed) {
  disks_.fails["freeze /a"] = absl::UnimplementedError("not this kind");
  const absl::Status failed = Await(freezer_->Freeze(kLong)).status();
  EXPECT_EQ(failed.message(), "cannot freeze /a: not this kind");
  EXPECT_THAT(disks_.frozen, IsEmpty());
  EXPECT_THAT(disks_.calls, ElementsAre("freeze /c", "freeze /b", "thaw /b", "thaw /c"));
  EXPECT_FALSE(Await(freezer_->Thaw()).ok());
  disks_.fails.clear();
  FreezeAll();
  EXPECT_TRUE(Await(freezer_->Thaw()).ok());
}

TEST_F(FilesystemFreezerTest, WhereNothingCanBeListedNothingIsFrozen) {
  disks_.fails["list"] = absl::InternalError("no table");
  EXPECT_EQ(Await(freezer_->Freeze(kLong)).status().message(), "no table");
  EXPECT_THAT(disks_.calls, IsEmpty());
  disks_.fails.clear();
  FreezeAll();
}

TEST_F(FilesystemFreezerTest, TheyThawByThemselvesWhenTheTimeIsOver) {
  const auto frozen = Await(freezer_->Freeze(kShort));
  // Whichever was first.
  EXPECT_TRUE(frozen.ok() || absl::IsDeadlineExceeded(frozen.status())) << frozen.status();
  Until([this] { return disks_.frozen.empty(); });
  const absl::Status late = Await(freezer_->Thaw());
  EXPECT_TRUE(absl::IsFailedPrecondition(late)) << late;
  EXPECT_THAT(std::string(late.message()), HasSubstr("the 1 ms that the host gave were over"));
}

TEST_F(FilesystemFreezerTest, ADiskThatHangsKeepsNoOtherFrozenAndIsThawedWhenItComes) {
  const auto freezing = FreezeUpTo("/b", kShort);
  Until([this] { return disks_.frozen.empty(); });
  EXPECT_THAT(disks_.calls, ElementsAre("freeze /c", "thaw /c"));
  // Until then none is frozen again.
  EXPECT_TRUE(absl::IsFailedPrecondition(Await(freezer_->Freeze(kLong)).status()));
  disks_.Release();
  const absl::Status late = Finish(freezing).status();
  Until([this] { return disks_.calls.size() == 4; });
  EXPECT_TRUE(absl::IsDeadlineExceeded(late)) << late;
  EXPECT_THAT(std::string(late.message()), HasSubstr("while freezing /b"));
  EXPECT_THAT(disks_.frozen, IsEmpty());
  EXPECT_THAT(disks_.calls, ElementsAre("freeze /c", "thaw /c", "freeze /b", "thaw /b"));
  FreezeAll();
}

TEST_F(FilesystemFreezerTest, ADiskThatHangsIsNotWaitedForWhenTheOthersAreThawed) {
  FreezeAll();
  disks_.hangs.insert("thaw /a");
  freezer_->LetGo("gone");
  Settle();
  EXPECT_THAT(disks_.frozen, ElementsAre("/a"));
  disks_.Release();
  Settle();
  EXPECT_THAT(disks_.frozen, IsEmpty());
}

TEST_F(FilesystemFreezerTest, WhoLosesTheConnectionLosesThem) {
  FreezeAll();
  freezer_->LetGo("the connection was lost");
  Settle();
  EXPECT_THAT(disks_.frozen, IsEmpty());
  EXPECT_THAT(std::string(Await(freezer_->Thaw()).message()), HasSubstr("connection was lost"));
  freezer_->LetGo("and again");
}

TEST_F(FilesystemFreezerTest, WhoLosesTheConnectionMeanwhileFreezesNothing) {
  const auto freezing = FreezeUpTo("/b");
  freezer_->LetGo("the connection was lost");
  disks_.Release();
  EXPECT_EQ(Finish(freezing).status().message(), "the connection was lost");
  EXPECT_THAT(disks_.frozen, IsEmpty());
  EXPECT_THAT(disks_.calls, ElementsAre("freeze /c", "thaw /c", "freeze /b", "thaw /b"));
}

TEST_F(FilesystemFreezerTest, ItCanBeCalledOff) {
  const auto freezing = FreezeUpTo("/a");
  auto thawing = Begin(freezer_->Thaw());
  Settle();
  EXPECT_THAT(disks_.frozen, IsEmpty());
  disks_.Release();
  EXPECT_TRUE(absl::IsFailedPrecondition(Finish(thawing)));
  EXPECT_TRUE(absl::IsCancelled(Finish(freezing).status()));
  EXPECT_THAT(disks_.frozen, IsEmpty());
}

TEST_F(FilesystemFreezerTest, NotTwiceAtOnce) {
  EXPECT_TRUE(absl::IsFailedPrecondition(Await(freezer_->Thaw())));
  FreezeAll();
  EXPECT_TRUE(absl::IsFailedPrecondition(Await(freezer_->Freeze(kLong)).status()));
  EXPECT_THAT(disks_.frozen, UnorderedElementsAre("/a", "/b", "/c"));
  EXPECT_TRUE(Await(freezer_->Thaw()).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(Await(freezer_->Thaw())));
}

TEST_F(FilesystemFreezerTest, WhatSomebodyElseThawedWasNotFrozenUntilTheEnd) {
  FreezeAll();
  disks_.fails["thaw /b"] = absl::FailedPreconditionError("somebody else has thawed it");
  EXPECT_EQ(Await(freezer_->Thaw()).message(), "cannot thaw /b: somebody else has thawed it");
  EXPECT_THAT(disks_.calls, ::testing::Contains("thaw /c"));
}

TEST_F(FilesystemFreezerTest, WhatCannotBeThawedIsTriedAgain) {
  FreezeAll();
  disks_.fails["thaw /b"] = absl::InternalError("the disk is gone");
  const auto thawing = Begin(freezer_->Thaw());
  Until([this] { return disks_.failed == 3; });
  EXPECT_FALSE(thawing->has_value());
  EXPECT_THAT(disks_.frozen, ElementsAre("/b"));
  EXPECT_THAT(log_, ElementsAre("cannot thaw /b: the disk is gone"));
  EXPECT_TRUE(absl::IsFailedPrecondition(Await(freezer_->Freeze(kLong)).status()));
  disks_.fails.clear();
  // It was frozen until now.
  EXPECT_TRUE(Finish(thawing).ok());
  EXPECT_THAT(disks_.frozen, IsEmpty());
}

TEST_F(FilesystemFreezerTest, TheHostIsToldWhatCannotBeThawed) {
  disks_.fails["thaw /b"] = absl::InternalError("the disk is gone");
  absl::Status told;
  // Whoever is too slow for a limit has a longer one.
  for (milliseconds limit(100);; limit *= 2) {
    const auto frozen = Await(freezer_->Freeze(limit));
    told = frozen.ok() ? Await(freezer_->Thaw()) : frozen.status();
    if (frozen.ok() && absl::IsInternal(told)) break;
    disks_.fails.clear();
    Until([this] { return disks_.frozen.empty(); });
    disks_.fails["thaw /b"] = absl::InternalError("the disk is gone");
  }
  EXPECT_EQ(told.message(), "cannot thaw /b: the disk is gone");
  disks_.fails.clear();
  Until([this] { return disks_.frozen.empty(); });
  FreezeAll();
}

TEST_F(FilesystemFreezerTest, WhatIsMountedMeanwhileIsFrozenAsWell) {
  disks_.after = [this](const std::string& call) {
    if (call == "freeze /a") disks_.Mount("/d");
    if (call == "freeze /d") disks_.Mount("/e");
  };
  const auto frozen = Await(freezer_->Freeze(kLong));
  ASSERT_TRUE(frozen.ok()) << frozen.status();
  EXPECT_EQ(*frozen, 5u);
  EXPECT_THAT(disks_.frozen, UnorderedElementsAre("/a", "/b", "/c", "/d", "/e"));
  EXPECT_TRUE(Await(freezer_->Thaw()).ok());
  EXPECT_THAT(disks_.frozen, IsEmpty());
}

TEST_F(FilesystemFreezerTest, WhereOthersAreMountedAllTheTimeNothingStaysFrozen) {
  disks_.after = [this](const std::string& call) {
    if (call.starts_with("freeze")) disks_.Mount(absl::StrCat("/n", disks_.calls.size()));
  };
  const absl::Status endless = Await(freezer_->Freeze(kLong)).status();
  EXPECT_TRUE(absl::IsAborted(endless)) << endless;
  EXPECT_THAT(std::string(endless.message()), HasSubstr("mounted all the time, just now /n"));
  EXPECT_THAT(disks_.frozen, IsEmpty());
}

TEST_F(FilesystemFreezerTest, OnceClosedItFreezesNothing) {
  FreezeAll();
  freezer_->Close("the VM shuts down");
  Settle();
  EXPECT_THAT(disks_.frozen, IsEmpty());
  EXPECT_EQ(Await(freezer_->Freeze(kLong)).status().message(), "the VM shuts down");
  EXPECT_THAT(disks_.frozen, IsEmpty());
}

TEST(FreezeLimitsTest, TheAgentAnswersBeforeTheHostGivesUp) {
  for (const milliseconds limit : {milliseconds(100), milliseconds(30'000), kLong}) {
    EXPECT_LT(ThawPatience(limit), FreezeAnswerSlack(limit));
  }
}

class FreezeRequestsTest : public GuestServerTest {
 protected:
  void UseDisks() {
    disks_.Mount("/data");
    GuestServer::Options options;
    options.filesystems = &disks_;
    server_ = std::make_shared<GuestServer>(io_.get_executor(), transport_, std::move(options));
  }

  static Task<void> FreezeThem(Host* host) {
    FreezeFilesystemsRequest freeze;
    freeze.timeout_ms = kMaxFreezeMs;
    const auto frozen =
        co_await host->Call<FreezeFilesystemsResponse>(kFreezeFilesystems, 1, freeze);
    EXPECT_EQ(HResult(frozen.result), kHresultOk) << frozen.error_message;
    EXPECT_EQ(frozen.frozen, 1u);
  }

  FakeFilesystems disks_{io_.get_executor()};
};

TEST_F(FreezeRequestsTest, TheyAreFrozenAndThawed) {
  UseDisks();
  auto test = [](FakeGuestTransport* transport, FakeFilesystems* disks) -> Task<void> {
    auto host = co_await Host::Connect(*transport);
    const NegotiateRequest negotiate;
    const auto terms = co_await host->Call<NegotiateResponse>(kNegotiateProtocol, 0, negotiate);
    EXPECT_TRUE(terms.capabilities.guest_defined.freeze_supported);
    co_await FreezeThem(host.get());
    EXPECT_THAT(disks->frozen, ElementsAre("/data"));
    const SimpleRequest thaw;
    const auto thawed = co_await host->Call<SimpleResponse>(kThawFilesystems, 2, thaw);
    EXPECT_EQ(HResult(thawed.result), kHresultOk) << thawed.error_message;
    EXPECT_THAT(disks->frozen, IsEmpty());
    const auto again = co_await host->Call<SimpleResponse>(kThawFilesystems, 3, thaw);
    EXPECT_EQ(HResult(again.result), kHresultInvalidState);
    const FreezeFilesystemsRequest no_limit;
    const auto bad = co_await host->Call<SimpleResponse>(kFreezeFilesystems, 4, no_limit);
    EXPECT_EQ(HResult(bad.result), kHresultBadJson);
  };
  Run(test(&transport_, &disks_));
}

TEST_F(FreezeRequestsTest, AHostThatGoesAwayLeavesThemThawed) {
  UseDisks();
  auto test = [](FakeGuestTransport* transport, FakeFilesystems* disks) -> Task<void> {
    auto host = co_await Host::ConnectAndNegotiate(*transport);
    co_await FreezeThem(host.get());
    host.reset();
    auto next = co_await Host::ConnectAndNegotiate(*transport);
    EXPECT_THAT(disks->frozen, IsEmpty());
    co_await FreezeThem(next.get());
  };
  Run(test(&transport_, &disks_));
}

TEST_F(FreezeRequestsTest, AVmThatShutsDownIsNotHeldUp) {
  UseDisks();
  auto test = [](FakeGuestTransport* transport, FakeFilesystems* disks) -> Task<void> {
    auto host = co_await Host::ConnectAndNegotiate(*transport);
    co_await FreezeThem(host.get());
    const SimpleRequest shutdown;
    (void)co_await host->Call<SimpleResponse>(kShutdownGraceful, 2, shutdown);
    EXPECT_THAT(disks->frozen, IsEmpty());
  };
  Run(test(&transport_, &disks_));
}

TEST_F(FreezeRequestsTest, AnAgentThatCannotSaysSo) {
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto host = co_await Host::Connect(*transport);
    const NegotiateRequest negotiate;
    const auto terms = co_await host->Call<NegotiateResponse>(kNegotiateProtocol, 0, negotiate);
    EXPECT_FALSE(terms.capabilities.guest_defined.freeze_supported);
    FreezeFilesystemsRequest freeze;
    freeze.timeout_ms = 1;
    const auto refused = co_await host->Call<SimpleResponse>(kFreezeFilesystems, 1, freeze);
    EXPECT_EQ(HResult(refused.result), kHresultNotImplemented);
  };
  Run(test(&transport_));
}

}  // namespace
}  // namespace ferry::bridge
