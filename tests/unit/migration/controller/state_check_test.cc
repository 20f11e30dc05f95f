#include "migration/controller/state_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ferry::migration {
namespace {

TEST(StateCheckTest, OnlyTheSameDigestsAgree) {
  const StateCheck sent{300, "100:aa;200:bb;"};
  EXPECT_TRUE(CompareChecks(sent, "100:aa;200:bb;").ok());
  for (const char* voted : {"100:aa;200:bc;", "200:bb;100:aa;", "100:aa;", "100:aa;200:bb;0:;"}) {
    const absl::Status status = CompareChecks(sent, voted);
    EXPECT_TRUE(absl::IsDataLoss(status)) << voted;
  }
}

TEST(StateCheckTest, AVoteWithoutDigestIsNoVerification) {
  const absl::Status status = CompareChecks({5, "5:aa;"}, "");
  EXPECT_TRUE(absl::IsDataLoss(status));
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("has no digest"));
  EXPECT_FALSE(CompareChecks({}, "").ok());
  EXPECT_FALSE(CompareChecks({0, ";"}, ";").ok());
}

}  // namespace
}  // namespace ferry::migration
