// What `migration recover` says and does about a forced session that is done.
#include "tests/unit/migration/controller/forcing_fixture.h"

namespace ferry::migration {
namespace {

class ForcedAgainTest : public ForcingTest {};

TEST_F(ForcedAgainTest, ShowsThatTheDestinationIsYetToBeTold) {
  Boot();
  const std::string id = MigrateAndLoseDone();
  ASSERT_TRUE(Recover(a_, id, "web", kRunHere).ok());
  ASSERT_TRUE(Describe(a_, id).done());
  EXPECT_THAT(Recover(a_, id)->sides(0).next(), HasSubstr("is told to end its copy"));
  peer_->Release("Settle");
  AwaitTold(id);
  EXPECT_EQ(Recover(a_, id)->sides(0).next(), "nothing: the VM is this host's");
}

TEST_F(ForcedAgainTest, ARepeatedDecisionOfACleanedUpSessionIsSo) {
  auto vm = Boot();
  const std::string id = MigrateAndLoseDone();
  ASSERT_TRUE(Recover(a_, id, "web", kRunHere).ok());
  ASSERT_TRUE(Cleanup(a_, id).ok());
  EXPECT_TRUE(Recover(a_, id, "web", kRunHere).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(Recover(a_, id, "web", kGiveUp).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(Recover(a_, id, "other", kRunHere).status()));
  EXPECT_EQ(Kinds(a_, id).back(), "FORCED");
  EXPECT_TRUE(Runs(a_, vm->id()));
}

}  // namespace
}  // namespace ferry::migration
