#include "vmmanager/qemu/cpu_models.h"

#include <gmock/gmock.h>

#include <boost/json/parse.hpp>

namespace ferry::vm {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(CpuModels, AreReadWithWhatTheHostLacks) {
  const auto models = CpuModelsFrom(boost::json::parse(R"([
    {"name": "qemu64", "unavailable-features": []},
    {"name": "Haswell", "unavailable-features": ["pcid", "hle"]},
    {"name": "base", "unavailable-features": []},
    {"typename": "nameless"}, 7])"));
  ASSERT_EQ(models.size(), 2u);
  EXPECT_EQ(models[0].name, "Haswell");
  EXPECT_THAT(models[0].missing_features, ElementsAre("pcid", "hle"));
  EXPECT_EQ(models[1].name, "qemu64");
  EXPECT_THAT(models[1].missing_features, IsEmpty());
}

TEST(CpuModels, FeaturesAreWhatIsSwitchedOn) {
  EXPECT_THAT(FeaturesFrom(boost::json::parse(R"({"model": {"name": "base", "props":
                {"sse2": true, "avx": true, "hle": false, "family": 15}}})")),
              ElementsAre("avx", "sse2"));
}

TEST(CpuModels, OtherAnswersHoldNothing) {
  for (const char* text : {"null", "7", "{}", "[]", R"({"model": 1})", R"({"model": {}})"}) {
    EXPECT_THAT(CpuModelsFrom(boost::json::parse(text)), IsEmpty()) << text;
    EXPECT_THAT(FeaturesFrom(boost::json::parse(text)), IsEmpty()) << text;
  }
}

}  // namespace
}  // namespace ferry::vm
