#include "vmmanager/qemu/process_user.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/asio/io_context.hpp>
#include <fstream>

#include "vmmanager/qemu/qemu_process.h"

namespace ferry::vm {
namespace {

TEST(ProcessUserTest, RefusesUnknownUsersAndRoot) {
  EXPECT_TRUE(absl::IsInvalidArgument(FindProcessUser("no-such-user").status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(FindProcessUser("root").status()));
}

TEST(ProcessUserTest, LooksAtTheModeOfTheFirstThatFits) {
  const std::string path = ::testing::TempDir() + "ferry-user-" + std::to_string(::getpid());
  { std::ofstream{path}; }
  struct stat info {};
  ASSERT_EQ(::stat(path.c_str(), &info), 0);
  const ProcessUser owner{"owner", info.st_uid, info.st_gid + 1, {info.st_gid}};
  const ProcessUser member{"member", info.st_uid + 1, 1, {1, info.st_gid}};
  const ProcessUser other{"other", info.st_uid + 1, info.st_gid + 1, {info.st_gid + 1}};
  ::chmod(path.c_str(), 0066);
  EXPECT_FALSE(MayReadAndWrite(owner, path));
  EXPECT_TRUE(MayReadAndWrite(member, path));
  EXPECT_TRUE(MayReadAndWrite(other, path));
  ::chmod(path.c_str(), 0660);
  EXPECT_TRUE(MayReadAndWrite(owner, path));
  EXPECT_TRUE(MayReadAndWrite(member, path));
  EXPECT_FALSE(MayReadAndWrite(other, path));
  ::chmod(path.c_str(), 0446);
  EXPECT_FALSE(MayReadAndWrite(owner, path));
  EXPECT_FALSE(MayReadAndWrite(member, path));
  ::unlink(path.c_str());
  EXPECT_FALSE(MayReadAndWrite(other, path));
}

TEST(ProcessUserTest, AProcessLosesAllThatRootHad) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can give a process to another user";
  const auto nobody = FindProcessUser("nobody");
  ASSERT_TRUE(nobody.ok()) << nobody.status();
  std::string folder = ::testing::TempDir() + "ferry-user-XXXXXX";
  ASSERT_NE(::mkdtemp(folder.data()), nullptr);
  LaunchSpec spec;
  spec.argv = {"/usr/bin/grep", "-E",
               "^(Uid|Gid|Groups|Cap(Inh|Prm|Eff|Amb)|NoNewPrivs):", "/proc/self/status"};
  spec.stderr_path = folder + "/log";
  spec.user = *nobody;
  asio::io_context context;
  auto process = QemuProcess::Launch(context.get_executor(), spec);
  ASSERT_TRUE(process.ok()) << process.status();
  auto wait = [](QemuProcess* p) -> Task<void> { co_await p->WaitEnd(); };
  Spawn(context.get_executor(), wait(process->get()));
  context.run_for(std::chrono::seconds(30));
  const std::string uid = std::to_string(nobody->uid);
  const std::string gid = std::to_string(nobody->gid);
  const std::string none = ":\t0000000000000000\n";
  EXPECT_EQ(FileTail(spec.stderr_path, 4096),
            "Uid:\t" + uid + "\t" + uid + "\t" + uid + "\t" + uid + "\nGid:\t" + gid + "\t" + gid +
                "\t" + gid + "\t" + gid + "\nGroups:\t" + gid + " \nCapInh" + none + "CapPrm" +
                none + "CapEff" + none + "CapAmb" + none + "NoNewPrivs:\t1");
  ::unlink(spec.stderr_path.c_str());
  ::rmdir(folder.c_str());
}

}  // namespace
}  // namespace ferry::vm
