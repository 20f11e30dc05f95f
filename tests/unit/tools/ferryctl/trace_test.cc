#include "tools/ferryctl/trace.h"

#include <gtest/gtest.h>

namespace ferry::ctl {
namespace {

TEST(MergeTraces, KeepsTheEventsOfBoth) {
  const auto merged = MergeTraces(R"({"traceEvents":[{"pid":1}],"displayTimeUnit":"ms"})",
                                  R"({"traceEvents":[{"pid":2},{"pid":2}]})");
  ASSERT_TRUE(merged.ok()) << merged.status();
  EXPECT_EQ(*merged, R"({"traceEvents":[{"pid":1},{"pid":2},{"pid":2}],"displayTimeUnit":"ms"})");
}

TEST(MergeTraces, RefusesWhatIsNoTrace) {
  const char* good = R"({"traceEvents":[]})";
  for (const char* bad : {"", "[]", "{}", R"({"traceEvents":{}})", "{"}) {
    EXPECT_TRUE(absl::IsDataLoss(MergeTraces(good, bad).status())) << bad;
    EXPECT_TRUE(absl::IsDataLoss(MergeTraces(bad, good).status())) << bad;
  }
}

}  // namespace
}  // namespace ferry::ctl
