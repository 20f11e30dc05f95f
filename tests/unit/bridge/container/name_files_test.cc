#include "bridge/container/name_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json/parse.hpp>
#include <filesystem>
#include <fstream>

#include "tests/unit/bridge/task_test.h"

namespace ferry::bridge {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

const std::vector<std::string> kAll(std::begin(kNameFiles), std::end(kNameFiles));

json::array Mounts(const absl::StatusOr<std::string>& specification) {
  EXPECT_TRUE(specification.ok()) << specification.status();
  return json::parse(*specification).at("mounts").as_array();
}

TEST(NameFileTextsTest, SayTheContainersOwnNameAndLocalhost) {
  auto texts = NameFileTexts("web", "nameserver 192.0.2.1\n");
  EXPECT_EQ(texts["hostname"], "web\n");
  EXPECT_EQ(texts["resolv.conf"], "nameserver 192.0.2.1\n");
  EXPECT_THAT(texts["hosts"], HasSubstr("127.0.0.1\tlocalhost\n"));
  EXPECT_THAT(texts["hosts"], HasSubstr("127.0.1.1\tweb\n"));
  EXPECT_THAT(NameFileTexts("web.example.org", "")["hosts"],
              HasSubstr("127.0.1.1\tweb.example.org web\n"));
  EXPECT_THAT(NameFileTexts("localhost", "")["hosts"], Not(HasSubstr("127.0.1.1")));
  EXPECT_EQ(NameFileTexts("", "")["hostname"], "");
}

TEST(NameFileTextsTest, ANameThatIsNoWordIsInNone) {
  for (const char* name : {"a b", "a\n8.8.8.8 localhost", "#a"}) {
    auto texts = NameFileTexts(name, "");
    EXPECT_EQ(texts["hostname"], "");
    EXPECT_EQ(texts["hosts"], NameFileTexts("", "")["hosts"]);
  }
}

TEST(MountNameFilesTest, AddsThoseThatHaveAPlace) {
  const json::array mounts =
      Mounts(MountNameFiles(R"({"mounts":[{"destination":"/proc"}]})", "/b", {"hosts"}, true));
  ASSERT_EQ(mounts.size(), 2u);
  EXPECT_EQ(mounts[1], json::parse(R"({"destination":"/etc/hosts","type":"bind",)"
                                   R"("source":"/b/hosts","options":["bind","rprivate","rw"]})"));
  EXPECT_EQ(Mounts(MountNameFiles("{}", "/b", kAll, false)).size(), 3u);
  EXPECT_EQ(Mounts(MountNameFiles("{}", "/b", kAll, false))[0].at("options").at(2).as_string(),
            "ro");
  EXPECT_THAT(Mounts(MountNameFiles("{}", "/b", {}, true)), IsEmpty());
}

TEST(MountNameFilesTest, WhatIsMountedThereAlreadyStays) {
  const std::string own = R"({"mounts":[{"destination":"/etc/hosts","source":"/mine"}]})";
  const json::array mounts = Mounts(MountNameFiles(own, "/b", kAll, true));
  ASSERT_EQ(mounts.size(), 3u);
  EXPECT_EQ(mounts[0].at("source").as_string(), "/mine");
  EXPECT_EQ(Mounts(MountNameFiles(R"({"mounts":[{"destination":"/etc"}]})", "/b", kAll, true)),
            json::parse(R"([{"destination":"/etc"}])").as_array());
}

class NameFilesInTest : public ::testing::Test {
 protected:
  NameFilesInTest() { root_.path = folder_.Make("root"); }

  TestFolder folder_;
  ContainerRoot root_;
};

TEST_F(NameFilesInTest, NoneWithoutEtc) {
  EXPECT_THAT(NameFilesIn(root_, true), IsEmpty());
  std::ofstream(root_.path + "/etc") << "a file";
  EXPECT_THAT(NameFilesIn(root_, true), IsEmpty());
  root_.path += "/elsewhere";
  EXPECT_THAT(NameFilesIn(root_, true), IsEmpty());
}

TEST_F(NameFilesInTest, WhatIsMissingIsMadeWhereThatIsPossible) {
  fs::create_directories(root_.path + "/etc");
  std::ofstream(root_.path + "/etc/hosts") << "the image's";
  EXPECT_THAT(NameFilesIn(root_, true), ElementsAre("hosts", "hostname", "resolv.conf"));
  EXPECT_THAT(NameFilesIn(root_, false), ElementsAre("hosts"));
}

TEST_F(NameFilesInTest, LinksThatLeadNowhereAndFoldersAreLeftAlone) {
  fs::create_directories(root_.path + "/usr/etc/hostname");
  fs::create_directory_symlink("/usr/etc", root_.path + "/etc");
  fs::create_symlink("../run/resolve/stub", root_.path + "/usr/etc/resolv.conf");
  std::ofstream(root_.path + "/usr/my-hosts") << "the image's";
  fs::create_symlink("/usr/my-hosts", root_.path + "/usr/etc/hosts");
  EXPECT_THAT(NameFilesIn(root_, true), ElementsAre("hosts"));
}

}  // namespace
}  // namespace ferry::bridge
