#include "vmmanager/containers/container_names.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "bridge/protocol/container_messages.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::vm {
namespace {

using ::testing::HasSubstr;

TEST(ContainerNamesTest, IdsAreWhatTheAgentTakesAndNeverTheSame) {
  const std::string id = NewContainerId();
  EXPECT_TRUE(bridge::IsContainerId(id)) << id;
  EXPECT_NE(NewContainerId(), id);
  EXPECT_EQ(ShortContainerId(id), id.substr(0, 12));
}

TEST(ContainerNamesTest, NamesFollowDockersRule) {
  for (const char* name : {"a", "7", "Web_1.x-y"}) EXPECT_TRUE(CheckContainerName(name).ok());
  EXPECT_TRUE(CheckContainerName(std::string(64, 'a')).ok());
  for (const char* name : {"", "-a", ".a", "_a", "a/b", "a b", "\xc3\xa9", "a\n"}) {
    EXPECT_EQ(CheckContainerName(name).code(), absl::StatusCode::kInvalidArgument) << name;
  }
  EXPECT_FALSE(CheckContainerName(std::string(65, 'a')).ok());
}

TEST(ContainerNamesTest, MadeUpNamesAreNamesAndFree) {
  const std::string id = NewContainerId();
  const auto none = [](const std::string&) { return false; };
  EXPECT_TRUE(CheckContainerName(MakeUpContainerName(id, none)).ok());
  size_t asked = 0;
  const auto first = [&asked](const std::string&) { return ++asked == 1; };
  MakeUpContainerName(id, first);
  EXPECT_EQ(asked, 2u);
  const auto all = [](const std::string&) { return true; };
  const std::string crowded = MakeUpContainerName(id, all);
  EXPECT_THAT(crowded, HasSubstr(ShortContainerId(id)));
  EXPECT_TRUE(CheckContainerName(crowded).ok());
}

class FindContainerTest : public testing::Test {
 protected:
  absl::StatusOr<size_t> Find(const std::string& wanted, const std::string& vm = "") {
    return FindContainer(all_, wanted, vm);
  }
  static std::string Id(const std::string& begin) {
    return begin + std::string(64 - begin.size(), '0');
  }

  const std::vector<ContainerKey> all_{{Id("aaaaaaaaaaaa1"), "web", "vm-1", "one"},
                                       {Id("aaaaaaaaaaaa2"), "web", "vm-2", "two"},
                                       {Id("bbbbbbbbbbbb"), "db", "vm-2", "two"},
                                       {Id("cccccccccccc"), "bbbbbbbbbbbb", "vm-1", "one"}};
};

TEST_F(FindContainerTest, ByTheIdThatItWasMadeWithIfNoneHasIt) {
  const std::vector<ContainerKey> all{
      {Id("aaaaaaaaaaaa"), "web", "vm-1", "one", Id("bbbbbbbbbbbb")},
      {Id("bbbbbbbbbbbb"), "db", "vm-2", "two", Id("cccccccccccc")}};
  EXPECT_EQ(*FindContainer(all, Id("bbbbbbbbbbbb"), ""), 1u);
  EXPECT_EQ(*FindContainer(all, Id("bbbbbbbbbbbb"), "one"), 0u);
  EXPECT_EQ(*FindContainer(all, Id("cccccccccccc"), ""), 1u);
  EXPECT_FALSE(FindContainer(all, "cccccccccccc", "").ok());
  const std::vector<ContainerKey> twice{
      {Id("aaaaaaaaaaaa"), "web", "vm-1", "one", Id("cccccccccccc")},
      {Id("bbbbbbbbbbbb"), "db", "vm-2", "two", Id("cccccccccccc")}};
  const absl::Status several = FindContainer(twice, Id("cccccccccccc"), "").status();
  EXPECT_EQ(rpc::ReasonOf(several), "container_ambiguous");
  EXPECT_THAT(several.message(), HasSubstr("2 containers were made with the id"));
  EXPECT_THAT(rpc::NextStepOf(several), HasSubstr("--vm"));
}

TEST_F(FindContainerTest, ByIdByItsBeginOrByName) {
  EXPECT_EQ(*Find(Id("aaaaaaaaaaaa1")), 0u);
  EXPECT_EQ(*Find("aaaaaaaaaaaa2"), 1u);
  EXPECT_EQ(*Find("db"), 2u);
  EXPECT_EQ(*Find("web", "one"), 0u);
  EXPECT_EQ(*Find("web", "vm-2"), 1u);
  EXPECT_EQ(*Find("aaaaaaaaaaaa", "two"), 1u);
  // A name goes before the begin of another one's id.
  EXPECT_EQ(*Find("bbbbbbbbbbbb"), 3u);
  EXPECT_EQ(*Find("bbbbbbbbbbbb", "two"), 2u);
}

TEST_F(FindContainerTest, WhatCouldBeSeveralIsAskedFor) {
  const absl::Status names = Find("web").status();
  EXPECT_EQ(names.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(names.message(), HasSubstr("the VMs one, two have a container \"web\" each"));
  EXPECT_EQ(rpc::ReasonOf(names), "container_ambiguous");
  EXPECT_THAT(rpc::NextStepOf(names), HasSubstr("--vm"));
  const absl::Status ids = Find("aaaaaaaaaaaa").status();
  EXPECT_EQ(ids.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(ids.message(), HasSubstr("2 containers have an id"));
}

TEST_F(FindContainerTest, WhatIsNotThereIsNamed) {
  for (const char* wanted : {"", "aaaaaaaaaaa", "AAAAAAAAAAAA1", "we", "other"}) {
    const absl::Status missing = Find(wanted).status();
    EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound) << wanted;
    EXPECT_THAT(rpc::NextStepOf(missing), HasSubstr("ferryctl container list --all"));
  }
  EXPECT_THAT(Find("db", "one").status().message(), HasSubstr("in VM one"));
}

}  // namespace
}  // namespace ferry::vm
