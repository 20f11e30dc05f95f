#include "tools/ferry-layers/confinement.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/landlock.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/unit/bridge/task_test.h"
#include "vmmanager/layers/builder_protocol.h"

namespace ferry::tools {
namespace {

using layers::kBuilderOutput;

constexpr int kNotConfined = 100;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

std::string ReadFile(const std::string& path) {
  std::ifstream in(path);
  return std::string(std::istreambuf_iterator<char>(in), {});
}

// What comes of it in a process that is confined, with `folder` as its output.
int InConfinement(const std::string& folder, const std::function<int()>& act) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    const int output = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY);
    if (::dup2(output, kBuilderOutput) < 0) ::_exit(kNotConfined);
    ::_exit(Confine({}).ok() ? act() : kNotConfined);
  }
  int status = 0;
  EXPECT_EQ(::waitpid(pid, &status, 0), pid);
  EXPECT_TRUE(WIFEXITED(status)) << status;
  return WEXITSTATUS(status);
}

bool KernelHasLandlock() {
  return ::syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION) > 0;
}

TEST(ConfinementTest, TheOutputFolderIsAllThatIsLeft) {
  const TestFolder folder;
  const std::string output = folder.Make("out");
  std::ofstream(folder.path() + "/secret") << "secret";
  const int seen = InConfinement(output, [&folder] {
    if (::openat(kBuilderOutput, "made", O_RDWR | O_CREAT | O_EXCL, 0600) < 0) return 1;
    if (::openat(kBuilderOutput, "made", O_RDONLY) < 0) return 2;
    if (::open((folder.path() + "/secret").c_str(), O_RDONLY) >= 0 && !kSanitized) return 3;
    return 0;
  });
  EXPECT_EQ(seen, 0);
  EXPECT_TRUE(std::filesystem::exists(output + "/made"));
}

TEST(ConfinementTest, NoNameLeadsOutOfTheOutputFolder) {
  if (!KernelHasLandlock()) GTEST_SKIP() << "this kernel has no Landlock";
  const TestFolder folder;
  const std::string output = folder.Make("out");
  std::ofstream(folder.path() + "/secret") << "secret";
  const int seen = InConfinement(output, [&folder] {
    if (::openat(kBuilderOutput, "../secret", O_RDONLY) >= 0) return 1;
    if (::openat(kBuilderOutput, "/etc/passwd", O_RDONLY) >= 0) return 2;
    if (::open((folder.path() + "/secret").c_str(), O_RDONLY) >= 0) return 3;
    return 0;
  });
  EXPECT_EQ(seen, 0);
}

TEST(ConfinementTest, OnlyAKernelWithoutLandlockIsDoneWithoutIt) {
  for (const int error : {ENOSYS, EOPNOTSUPP, EPERM}) EXPECT_TRUE(MeansNoLandlock(error));
  for (const int error : {0, EINVAL, ENOMEM, EMFILE, E2BIG, EFAULT}) {
    EXPECT_FALSE(MeansNoLandlock(error)) << error;
  }
}

TEST(ConfinementTest, AFailureOfLandlockIsAnError) {
  if (!KernelHasLandlock()) GTEST_SKIP() << "this kernel has no Landlock";
  const TestFolder folder;
  const pid_t pid = ::fork();
  if (pid == 0) {
    // One descriptor less than a set of rules needs.
    const int output = ::open(folder.path().c_str(), O_RDONLY | O_DIRECTORY);
    const rlimit none{kBuilderOutput + 1, kBuilderOutput + 1};
    const bool made = ::dup2(output, kBuilderOutput) >= 0 && ::setrlimit(RLIMIT_NOFILE, &none) == 0;
    for (int fd = 0; fd < kBuilderOutput; ++fd) ::dup2(kBuilderOutput, fd);
    ::_exit(made && !Confine({}).ok() ? 0 : kNotConfined);
  }
  int status = 0;
  EXPECT_EQ(::waitpid(pid, &status, 0), pid);
  EXPECT_EQ(status, 0);
}

TEST(ConfinementTest, NothingElseOfTheSystemIsLeft) {
  const TestFolder folder;
  const int seen = InConfinement(folder.path(), [] {
    if (::socket(AF_UNIX, SOCK_STREAM, 0) >= 0) return 1;
    if (::fork() >= 0) return 2;
    if (::kill(::getppid(), 0) == 0) return 3;
    char* const arguments[] = {nullptr};
    if (::execv("/bin/true", arguments) == 0) return 4;
    constexpr size_t kPage = 4096;
    const auto map = [](size_t size, int rights) {
      return ::mmap(nullptr, size, rights, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED;
    };
    if (!map(kPage, PROT_READ | PROT_WRITE)) return 5;
    if (map(kPage, PROT_READ | PROT_EXEC)) return 6;
    if (map(size_t{1} << 30, PROT_READ)) return 7;
    return 0;
  });
  EXPECT_EQ(seen, 0);
}

TEST(ConfinementTest, OthersCannotLookIn) {
  const TestFolder folder;
  std::array<int, 2> go{};
  std::array<int, 2> there{};
  ASSERT_EQ(::pipe2(go.data(), O_CLOEXEC), 0);
  ASSERT_EQ(::pipe2(there.data(), O_CLOEXEC), 0);
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::close(go[1]);
    const int wait = ::fcntl(go[0], F_DUPFD, 100);
    const int tell = ::fcntl(there[1], F_DUPFD, 100);
    const int output = ::open(folder.path().c_str(), O_RDONLY | O_DIRECTORY);
    // As after exec; what of /proc is root's is then so because of what is tested.
    constexpr uid_t kNobody = 65534;
    if (::dup2(output, kBuilderOutput) < 0 || (::geteuid() == 0 && ::setuid(kNobody) != 0) ||
        ::prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) != 0 || !Confine({}).ok() ||
        ::write(tell, "x", 1) != 1) {
      ::_exit(kNotConfined);
    }
    // Until it has been looked at.
    char byte = 0;
    ::_exit(::read(wait, &byte, 1) == 0 ? 0 : 1);
  }
  ::close(there[1]);
  char byte = 0;
  EXPECT_EQ(::read(there[0], &byte, 1), 1);
  const std::string proc = absl::StrCat("/proc/", pid);
  EXPECT_EQ(ReadFile(proc + "/oom_score_adj"), "1000\n");
  EXPECT_THAT(ReadFile(proc + "/status"), testing::HasSubstr("NoNewPrivs:\t1"));
  struct stat info {};
  EXPECT_EQ(::stat((proc + "/fd").c_str(), &info), 0);
  EXPECT_EQ(info.st_uid, 0u);
  ::close(go[1]);
  int ended = 0;
  EXPECT_EQ(::waitpid(pid, &ended, 0), pid);
  EXPECT_EQ(ended, 0);
}

}  // namespace
}  // namespace ferry::tools
