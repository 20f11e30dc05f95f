// A disk that takes writes and cannot make them durable.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sqlite3.h>

#include <map>
#include <memory>

#include "tests/unit/bridge/task_test.h"
#include "vmmanager/store/store.h"

namespace ferry::vm {
namespace {

// SQLite's usual file system, whose fsync fails while `failing` is set. Registered as the default
// for this program's whole life, because SQLite keeps pointers to it.
class FailingVfs {
 public:
  static FailingVfs& Get() {
    static FailingVfs vfs;
    return vfs;
  }
  bool failing = false;

 private:
  struct Methods {
    sqlite3_io_methods changed;
    const sqlite3_io_methods* usual;
  };

  FailingVfs() : usual_(sqlite3_vfs_find(nullptr)), changed_(*usual_) {
    changed_.zName = "failing";
    changed_.xOpen = &Open;
    sqlite3_vfs_register(&changed_, 1);
  }

  static int Open(sqlite3_vfs*, const char* name, sqlite3_file* file, int flags, int* out) {
    FailingVfs& self = Get();
    const int result = self.usual_->xOpen(self.usual_, name, file, flags, out);
    if (file->pMethods == nullptr) return result;
    std::unique_ptr<Methods>& methods = self.methods_[file->pMethods];
    if (methods == nullptr) {
      methods = std::make_unique<Methods>(Methods{*file->pMethods, file->pMethods});
      methods->changed.xSync = &Sync;
    }
    file->pMethods = &methods->changed;
    return result;
  }

  static int Sync(sqlite3_file* file, int flags) {
    if (Get().failing) return SQLITE_IOERR_FSYNC;
    // `changed` is the first member.
    return reinterpret_cast<const Methods*>(file->pMethods)->usual->xSync(file, flags);
  }

  sqlite3_vfs* usual_;
  sqlite3_vfs changed_;
  std::map<const sqlite3_io_methods*, std::unique_ptr<Methods>> methods_;
};

class FailingSyncTest : public TaskTest {
 protected:
  FailingSyncTest() {
    FailingVfs::Get();
    Reopen();
  }
  ~FailingSyncTest() override { FailingVfs::Get().failing = false; }
  void Reopen() {
    store_.reset();
    auto opened = OpenSqliteStore(folder_.path() + "/ferry.db", io_.get_executor());
    ASSERT_TRUE(opened.ok()) << opened.status();
    store_ = *std::move(opened);
  }
  absl::StatusOr<JournalRecord> Append(const char* kind, bool decisive) {
    AppendOptions options;
    options.decisive = decisive;
    return Await(store_->Append({0, "s", "v", kind, 1, "", ""}, options));
  }

  TestFolder folder_;
  std::unique_ptr<Store> store_;
};

TEST_F(FailingSyncTest, WhatIsNotDurableIsAnErrorAndNotThere) {
  const auto first = Append("OPEN", false);
  ASSERT_TRUE(first.ok()) << first.status();
  for (const bool decisive : {false, true}) {
    FailingVfs::Get().failing = true;
    const auto lost = Append("COMMIT", decisive);
    EXPECT_FALSE(lost.ok());
    EXPECT_THAT(std::string(lost.status().message()), testing::HasSubstr(folder_.path()));
    EXPECT_EQ(Await(store_->Head())->hash, first->hash);
    FailingVfs::Get().failing = false;
  }
  // What was given up is not missed, and the chain goes on without it.
  EXPECT_TRUE(Await(store_->VerifyJournal()).ok());
  ASSERT_TRUE(Append("ABORT", false).ok());
  Reopen();
  EXPECT_TRUE(Await(store_->VerifyJournal()).ok());
  const auto records = Await(store_->ReadJournal("s"));
  ASSERT_TRUE(records.ok());
  ASSERT_EQ(records->size(), 2u);
  EXPECT_EQ((*records)[1].kind, "ABORT");
}

}  // namespace
}  // namespace ferry::vm
