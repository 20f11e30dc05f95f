#include "vmmanager/saving/memory_pump.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "bridge/runtime/status_macros.h"
#include "tests/unit/bridge/task_test.h"

namespace ferry::vm {
namespace {

class MemoryPumpTest : public TaskTest {
 protected:
  TestFolder folder_;
  std::string path_ = folder_.path() + "/file.ferry";
};

// Whoever made it whole may have been called off while the disk was at it.
TEST_F(MemoryPumpTest, NothingStaysOfAFileThatIsDiscardedWhileItIsMadeWhole) {
  auto writing = std::make_shared<FileBeingSaved>(io_.get_executor());
  ASSERT_TRUE(Await(writing->Create(path_, {}, "")).ok());
  auto write = [](std::shared_ptr<FileBeingSaved> file) -> Task<absl::Status> {
    CO_ASSIGN_OR_RETURN(const UniqueFd to, co_await file->Begin("head"));
    if (::write(to.get(), "memory", 6) == 6) co_return absl::OkStatus();
    co_return absl::UnknownError("not written");
  };
  ASSERT_TRUE(Await(write(writing)).ok());
  ASSERT_TRUE(Await(writing->Taken()).ok());
  auto committing = Begin(writing->Commit("tail"));
  Settle();
  EXPECT_EQ(Await(writing->Discard(absl::CancelledError("called off"))).code(),
            absl::StatusCode::kCancelled);
  (void)Finish(committing);
  EXPECT_TRUE(std::filesystem::is_empty(folder_.path()));
}

// A VMM that hangs keeps its end, and writes nothing.
TEST_F(MemoryPumpTest, WhoDiscardsItWaitsForNobodyWhoKeepsTheOtherEnd) {
  auto writing = std::make_shared<FileBeingSaved>(io_.get_executor());
  ASSERT_TRUE(Await(writing->Create(path_, {}, "")).ok());
  UniqueFd kept;
  auto begin = [](std::shared_ptr<FileBeingSaved> file, UniqueFd* to) -> Task<absl::Status> {
    CO_ASSIGN_OR_RETURN(*to, co_await file->Begin("head"));
    co_return absl::OkStatus();
  };
  ASSERT_TRUE(Await(begin(writing, &kept)).ok());
  EXPECT_EQ(Await(writing->Discard(absl::AbortedError("it hangs"))).code(),
            absl::StatusCode::kAborted);
  EXPECT_TRUE(std::filesystem::is_empty(folder_.path()));
  EXPECT_TRUE(kept.valid());
}

class RestoredMemoryTest : public MemoryPumpTest {
 protected:
  void SetUp() override {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    socket_path_.copy(static_cast<char*>(address.sun_path), sizeof address.sun_path - 1);
    listener_ = UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    ASSERT_EQ(::listen(listener_.get(), 1), 0);
  }
  // A file with so much memory, opened and on its way to the listener.
  void Send(size_t bytes) {
    auto writing = std::make_shared<FileBeingSaved>(io_.get_executor());
    ASSERT_TRUE(Await(writing->Create(path_, {}, "")).ok());
    UniqueFd to;
    auto begin = [](std::shared_ptr<FileBeingSaved> file, UniqueFd* end) -> Task<absl::Status> {
      CO_ASSIGN_OR_RETURN(*end, co_await file->Begin("head"));
      co_return absl::OkStatus();
    };
    ASSERT_TRUE(Await(begin(writing, &to)).ok());
    const std::string memory(bytes, 'm');
    size_t written = 0;
    while (written < bytes) {
      const ssize_t count = ::write(to.get(), memory.data() + written, bytes - written);
      ASSERT_GT(count, 0);
      written += static_cast<size_t>(count);
    }
    to.Reset();
    ASSERT_TRUE(Await(writing->Taken()).ok());
    ASSERT_TRUE(Await(writing->Commit("tail")).ok());
    ASSERT_TRUE(Await(reading_->Open(path_, "")).ok());
    reading_->Send(socket_path_);
    Settle();
  }

  const std::string socket_path_ = folder_.path() + "/taker";
  UniqueFd listener_;
  std::shared_ptr<FileBeingRestored> reading_ =
      std::make_shared<FileBeingRestored>(io_.get_executor());
};

// More than a socket holds, so whoever sends it stands.
TEST_F(RestoredMemoryTest, WhatNobodyTakesCanBeCalledOff) {
  Send(size_t{8} << 20);
  EXPECT_TRUE(reading_->CallOff().ok());
  EXPECT_EQ(Await(reading_->Sent()).code(), absl::StatusCode::kCancelled);
}

TEST_F(RestoredMemoryTest, WhatHasAllArrivedCannotBeCalledOff) {
  Send(100);
  UniqueFd taker(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  ASSERT_TRUE(taker.valid());
  std::string taken(1'000, '\0');
  ASSERT_EQ(::recv(taker.get(), taken.data(), taken.size(), MSG_WAITALL), 100);
  EXPECT_EQ(reading_->CallOff().code(), absl::StatusCode::kFailedPrecondition);
  taker.Reset();
  EXPECT_TRUE(Await(reading_->Sent()).ok());
}

}  // namespace
}  // namespace ferry::vm
