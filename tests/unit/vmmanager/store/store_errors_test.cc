#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <boost/asio/io_context.hpp>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <utility>

#include "bridge/runtime/async.h"
#include "vmmanager/store/sqlite.h"
#include "vmmanager/store/store.h"

namespace ferry::vm {
namespace {

using ::testing::HasSubstr;

template <typename T>
Task<void> Keep(Task<T> task, std::optional<T>* out) {
  out->emplace(co_await std::move(task));
}

class StoreErrorsTest : public testing::Test {
 protected:
  StoreErrorsTest() {
    std::string name = (std::filesystem::temp_directory_path() / "ferry-store-XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
    path_ = folder_ + "/ferry.db";
  }
  ~StoreErrorsTest() override { std::filesystem::remove_all(folder_); }

  absl::StatusOr<std::unique_ptr<Store>> Open(const std::string& path) {
    return OpenSqliteStore(path, io_.get_executor());
  }
  template <typename T>
  T Await(Task<T> task) {
    std::optional<T> result;
    Spawn(io_.get_executor(), Keep(std::move(task), &result));
    io_.restart();
    io_.run();
    return *std::move(result);
  }
  void ExpectRefused(const std::string& path, absl::StatusCode code, const std::string& text) {
    const absl::Status status = Open(path).status();
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(path));
    EXPECT_THAT(std::string(status.message()), HasSubstr(text));
  }

  asio::io_context io_;
  std::string folder_;
  std::string path_;
};

TEST_F(StoreErrorsTest, SecondOpenerIsToldWhichStoreIsHeld) {
  auto store = Open(path_);
  ASSERT_TRUE(store.ok()) << store.status();
  for (int i = 0; i < 2; ++i) {
    ExpectRefused(path_, absl::StatusCode::kFailedPrecondition, "another process holds it");
  }
  // Refusing others has not cost the first its lock or its work.
  const JournalRecord record{0, "s", "v", "OPEN", 1, "", ""};
  EXPECT_TRUE(Await((*store)->Append(record, {})).ok());
}

TEST_F(StoreErrorsTest, NewerVersionIsRefusedWithPathAndFix) {
  ASSERT_TRUE(Open(path_).ok());
  auto connection = SqliteConnection::Open(path_);
  ASSERT_TRUE(connection.ok() &&
              (*connection)->Execute("UPDATE store SET version = version + 1").ok());
  connection->reset();
  ExpectRefused(path_, absl::StatusCode::kFailedPrecondition, "run the newer ferryd");
}

TEST_F(StoreErrorsTest, FilesOfOtherProgramsAreRefusedAndNotTouched) {
  for (const char* table : {"CREATE TABLE store (x)", "CREATE TABLE other (x)"}) {
    std::filesystem::remove(path_);
    std::ofstream(path_).flush();
    auto connection = SqliteConnection::Open(path_);
    ASSERT_TRUE(connection.ok() && (*connection)->Execute(table).ok());
    connection->reset();
    ExpectRefused(path_, absl::StatusCode::kFailedPrecondition, "another program");
    connection = SqliteConnection::Open(path_);
    ASSERT_TRUE(connection.ok());
    auto count = (*connection)->Prepare("SELECT COUNT(*) FROM sqlite_schema");
    ASSERT_TRUE(count.ok() && count->Step().ok());
    EXPECT_EQ(count->Number(0), 1u);
  }
}

TEST_F(StoreErrorsTest, FileThatIsNoDatabaseIsNamed) {
  std::ofstream(path_) << std::string(8192, 'x');
  ExpectRefused(path_, absl::StatusCode::kDataLoss, "not a database");
}

TEST_F(StoreErrorsTest, MissingFolderIsNamed) {
  ExpectRefused(folder_ + "/missing/ferry.db", absl::StatusCode::kNotFound, "make its folder");
}

TEST_F(StoreErrorsTest, JournalIdsAreTextAndDiffer) {
  auto first = Open(path_);
  auto second = Open(folder_ + "/second.db");
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ((*first)->journal_id().size(), 32u);
  EXPECT_EQ((*first)->journal_id().find_first_not_of("0123456789abcdef"), std::string::npos);
  EXPECT_NE((*first)->journal_id(), (*second)->journal_id());
}

// Keeps this process from making files larger than `bytes`, as a full disk would.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    getrlimit(RLIMIT_FSIZE, &before_);
    rlimit limit = before_;
    limit.rlim_cur = bytes;
    handler_ = std::signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  rlimit before_ = {};
  void (*handler_)(int) = SIG_DFL;
};

TEST_F(StoreErrorsTest, NoSpaceIsResourceExhaustedAndLosesNothing) {
  auto store = Open(path_);
  ASSERT_TRUE(store.ok()) << store.status();
  const JournalRecord record{0, "s", "v", "OPEN", 1, "", ""};
  AppendOptions decisive;
  decisive.decisive = true;
  const auto first = Await((*store)->Append(record, decisive));
  ASSERT_TRUE(first.ok()) << first.status();
  {
    FileSizeLimit limit(std::filesystem::file_size(path_ + "-wal"));
    const auto refused = Await((*store)->Append(record, decisive));
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted) << refused.status();
    EXPECT_THAT(std::string(refused.status().message()), HasSubstr(path_));
    const EventRow event{0, 1, "vm.created", "v", {}};
    EXPECT_EQ(Await((*store)->AppendEvent(event)).status().code(),
              absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(Await((*store)->Head())->hash, first->hash);
  }
  // What could not be written is not missed later.
  EXPECT_TRUE(Await((*store)->VerifyJournal()).ok());
  const auto second = Await((*store)->Append(record, decisive));
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(second->sequence, 2u);
  EXPECT_TRUE(Await((*store)->VerifyJournal()).ok());
}

}  // namespace
}  // namespace ferry::vm
