#include "tests/unit/migration/commit/commit_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_join.h"

namespace ferry::migration::model {
namespace {

constexpr Faults kEverything{2, 2, 2, 1, 0};
constexpr Faults kRestoredJournal{2, 1, 1, 0, 1};
constexpr Faults kOneOfMost{1, 1, 0, 1, 1};

void ExpectHolds(const Faults& faults, Disks disks = Disks::kShared) {
  const Verdict verdict = Check(faults, Mistake::kNone, disks);
  EXPECT_EQ(verdict.violation, "") << absl::StrJoin(verdict.trace, "\n");
}

void ExpectFound(Mistake mistake, const Faults& faults = kEverything) {
  const Verdict verdict = Check(faults, mistake);
  EXPECT_EQ(verdict.violation, "two copies of the VM run");
  EXPECT_FALSE(verdict.trace.empty());
}

void ExpectDisksMissed(Mistake mistake, const std::string& violation) {
  const Verdict verdict = Check({1, 0, 0, 0}, mistake, Disks::kOwn);
  EXPECT_EQ(verdict.violation, violation) << absl::StrJoin(verdict.trace, "\n");
  EXPECT_FALSE(verdict.trace.empty());
}

TEST(CommitModel, HoldsWithoutFaults) { ExpectHolds({}); }
TEST(CommitModel, HoldsWithCrashes) { ExpectHolds({2, 0, 0, 0}); }
TEST(CommitModel, HoldsWithLostAndDoubledMessages) { ExpectHolds({0, 2, 2, 0}); }
TEST(CommitModel, HoldsWithDamagedJournals) { ExpectHolds({1, 0, 0, 1}); }
TEST(CommitModel, HoldsWithRestoredJournals) { ExpectHolds(kRestoredJournal); }
TEST(CommitModel, HoldsWithEverythingAtOnce) { ExpectHolds(kEverything); }

TEST(CommitModel, HoldsWithDisksThatComeAlong) { ExpectHolds({}, Disks::kOwn); }
TEST(CommitModel, HoldsWithDisksThatComeAlongAndCrashes) { ExpectHolds({2, 0, 0, 0}, Disks::kOwn); }
TEST(CommitModel, HoldsWithDisksThatComeAlongAndLostAndDoubledMessages) {
  ExpectHolds({0, 1, 1, 0}, Disks::kOwn);
}
TEST(CommitModel, HoldsWithDisksThatComeAlongAndOneOfMostFaults) {
  ExpectHolds(kOneOfMost, Disks::kOwn);
}

TEST(CommitModel, FindsASourceThatResumesAfterCommit) { ExpectFound(Mistake::kResumeAfterTimeout); }
TEST(CommitModel, FindsASourceThatForgetsItsCommit) { ExpectFound(Mistake::kForgetCommit); }
TEST(CommitModel, FindsARefusalThatIsNotDurable) { ExpectFound(Mistake::kTellRefusedTooEarly); }
TEST(CommitModel, FindsADamagedJournalThatIsTrusted) { ExpectFound(Mistake::kTrustDamagedJournal); }
TEST(CommitModel, FindsARestoredJournalThatIsTrusted) {
  ExpectFound(Mistake::kTrustRestoredJournal, kRestoredJournal);
}
TEST(CommitModel, FindsADestinationThatRunsUngranted) {
  ExpectFound(Mistake::kRunBeforeGrantIsKnown);
}

TEST(CommitModel, FindsASourceThatReleasesTooEarly) {
  const Verdict verdict = Check(kEverything, Mistake::kReleaseWithGo);
  EXPECT_EQ(verdict.violation, "no copy of the VM is left");
}

TEST(CommitModel, FindsASourceThatStopsAsking) {
  const Verdict verdict = Check(kEverything, Mistake::kOfferOnce);
  EXPECT_EQ(verdict.violation, "this can never be settled");
}

TEST(CommitModel, FindsADestinationThatVotesWithoutItsDisks) {
  ExpectDisksMissed(Mistake::kVoteWithoutDisks, "a copy runs without all of its disks");
}

TEST(CommitModel, FindsASourceThatSealsBeforeItsGuestStops) {
  ExpectDisksMissed(Mistake::kSealBeforeStop, "a copy runs without all of its disks");
}

TEST(CommitModel, FindsASourceThatRemovesItsDisksTooEarly) {
  ExpectDisksMissed(Mistake::kDropDisksWithGo,
                    "the source may run the VM without all of its disks");
}

// The checker remembers worlds as numbers only.
TEST(CommitModel, WorldsSurviveBeingPacked) {
  std::vector<World> worlds{Beginning(Disks::kShared), Beginning(Disks::kOwn)};
  for (size_t i = 0; i < worlds.size() && worlds.size() < 20'000; ++i) {
    const World world = worlds[i];
    ASSERT_EQ(Unpack(SituationOf(world), Spent(world)), world);
    for (const Step& step : Successors(world, kEverything, Mistake::kNone)) {
      worlds.push_back(step.world);
    }
  }
}

}  // namespace
}  // namespace ferry::migration::model
