#include "bridge/protocol/run_failure.h"

#include <gtest/gtest.h>

namespace ferry::bridge {
namespace {

TEST(RunFailureTest, CrunTellsByItsFirstWords) {
  for (const char* line :
       {"executable file `x` not found in $PATH: No such file or directory",
        "exec container process (missing dynamic library?) `/x`: No such file or directory"}) {
    EXPECT_EQ(RunFailureInWordsOfCrun(line), RunFailure::kNoProgram) << line;
  }
  for (const char* line :
       {"open executable: Permission denied", "exec container process `/x`: Exec format error",
        "exec container process `/No such file or directory`: Permission denied"}) {
    EXPECT_EQ(RunFailureInWordsOfCrun(line), RunFailure::kCannotRun) << line;
  }
  for (const char* line :
       {"mount `/proc`: No such file or directory", "",
        "chdir to `/executable file `x`: open executable`: No such file or directory"}) {
    EXPECT_EQ(RunFailureInWordsOfCrun(line), std::nullopt) << line;
  }
}

}  // namespace
}  // namespace ferry::bridge
