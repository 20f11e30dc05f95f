#include "vmmanager/qemu/folder_servers.h"

#include <gmock/gmock.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "tests/unit/bridge/task_test.h"
#include "vmmanager/qemu/unix_socket.h"

namespace ferry::vm {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// In place of virtiofsd: a script that says what it sees, and serves until its socket is closed.
class FolderServersTest : public TaskTest {
 protected:
  FolderServersTest() {
    how_.vm_folder = Path("vm");
    how_.log = Path("log");
    how_.binary = Path("server");
    std::filesystem::create_directory(how_.vm_folder);
    std::filesystem::create_directory(Path("share"));
    std::ofstream(Path("share/file")) << "seen";
    vm_folder_ = *OpenFolder(how_.vm_folder);
    how_.vm_folder_fd = vm_folder_.get();
  }
  void WriteServer(const std::string& script) {
    std::ofstream(how_.binary) << "#!/bin/sh\n" << script;
    ::chmod(how_.binary.c_str(), 0755);
  }
  std::string Path(const std::string& name) const { return folder_.path() + "/" + name; }
  absl::Status Start(schema::SharedFolder share) {
    return Await(servers_.Start(how_, {{"0", std::move(share)}}));
  }
  // Whether this process may show folders at other places, as ferryd must be able to.
  bool MayMount() {
    WriteServer("exit 0");
    const bool may = Start({Path("share"), false}).ok();
    if (may) Until([this] { return !lost_.empty(); });
    servers_.End();
    lost_.clear();
    std::filesystem::remove_all(how_.vm_folder + "/share0");
    return may;
  }

  TestFolder folder_;
  FolderServing how_;
  UniqueFd vm_folder_;
  std::vector<std::string> lost_;
  FolderServers servers_{io_.get_executor(),
                         [this](std::string what) { lost_.push_back(std::move(what)); }};
};

TEST_F(FolderServersTest, TheCommandEscapesWhatOptionsAreMadeOf) {
  const auto words = FolderServerCommand("/usr/lib/qemu/virtiofsd", "/a,b\\c d/share0", 4096);
  EXPECT_EQ(words[0], "/usr/lib/qemu/virtiofsd");
  EXPECT_THAT(words, Contains("--fd=10"));
  EXPECT_THAT(words, Contains("--rlimit-nofile=4096"));
  EXPECT_THAT(words, Contains("source=/a\\,b\\\\c d/share0"));
  EXPECT_THAT(words, Contains(HasSubstr("sandbox=namespace")));
}

TEST_F(FolderServersTest, AFolderThatIsNotThereIsRefused) {
  WriteServer("exit 0");
  std::filesystem::create_directory_symlink(Path("share"), Path("link"));
  std::filesystem::create_directory(Path("share/sub"));
  for (const char* name : {"none", "log", "link", "link/sub"}) {
    std::ofstream(Path("log"), std::ios::app).flush();
    const absl::Status refused = Start({Path(name), false});
    EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition) << name;
    EXPECT_THAT(std::string(refused.message()), HasSubstr(Path(name)));
  }
  EXPECT_TRUE(servers_.Record().empty());
}

TEST_F(FolderServersTest, AReadOnlyFolderCannotBeWrittenToByWhoeverServesIt) {
  if (!MayMount()) GTEST_SKIP() << "mount namespaces are refused here";
  for (const bool read_only : {false, true}) {
    WriteServer(absl::StrCat("cat ", how_.vm_folder, "/share0/file >", Path("seen"), "; touch ",
                             how_.vm_folder, "/share0/new && echo w >", Path("wrote")));
    ASSERT_TRUE(Start({Path("share"), read_only}).ok());
    Until([this] { return !lost_.empty(); });
    EXPECT_EQ(ReadFile(Path("seen")), "seen");
    EXPECT_EQ(std::filesystem::exists(Path("share/new")), !read_only);
    EXPECT_EQ(std::filesystem::exists(Path("wrote")), !read_only);
    // Nothing of that is to be seen out here.
    EXPECT_TRUE(std::filesystem::is_empty(how_.vm_folder + "/share0"));
    for (const char* name : {"share/new", "wrote", "vm/share0"}) {
      std::filesystem::remove_all(Path(name));
    }
    lost_.clear();
    servers_.End();
    Settle();
  }
}

TEST_F(FolderServersTest, EndsWhatHangsAndTellsOfWhatEndsByItself) {
  if (!MayMount()) GTEST_SKIP() << "mount namespaces are refused here";
  WriteServer("exec sleep 1000");
  ASSERT_TRUE(Start({Path("share"), false}).ok());
  std::map<int, int> descriptors;
  servers_.AddDescriptors(&descriptors);
  ASSERT_EQ(descriptors.size(), 1u);
  EXPECT_EQ(descriptors.begin()->first, 20);
  // Nobody can connect to it by a name.
  EXPECT_FALSE(std::filesystem::exists(how_.vm_folder + "/share0.socket"));
  const boost::json::value record = servers_.Record();
  const auto pid = record.as_array().at(0).at("pid").to_number<pid_t>();
  // Another daemon takes it over, and ends it.
  FolderServers next(io_.get_executor(), [](std::string) {});
  servers_.Release();
  next.Adopt(&record);
  EXPECT_EQ(next.Record().size(), 1u);
  next.End();
  Until([pid] { return !ProcessStartTime(pid).ok(); });
  EXPECT_TRUE(lost_.empty());
  WriteServer("exit 7");
  std::filesystem::remove_all(how_.vm_folder + "/share0");
  ASSERT_TRUE(Start({Path("share"), false}).ok());
  Until([this] { return !lost_.empty(); });
  EXPECT_THAT(lost_, ElementsAre(HasSubstr("exited with status 7")));
}

}  // namespace
}  // namespace ferry::vm
