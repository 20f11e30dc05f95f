#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <boost/asio/io_context.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>
#include <utility>

#include "bridge/runtime/async.h"
#include "vmmanager/store/journal_file.h"
#include "vmmanager/store/sqlite.h"
#include "vmmanager/store/store.h"

namespace ferry::vm {
namespace {

template <typename T>
Task<void> Into(Task<T> task, std::optional<T>* out) {
  out->emplace(co_await std::move(task));
}

class SqliteStoreTest : public testing::Test {
 protected:
  SqliteStoreTest() {
    char name[] = "/tmp/ferry-store-XXXXXX";
    folder_ = ::mkdtemp(name);
    path_ = folder_ + "/ferry.db";
    Reopen();
  }
  ~SqliteStoreTest() override {
    store_.reset();
    std::filesystem::remove_all(folder_);
  }
  void Reopen() {
    store_.reset();
    auto opened = OpenSqliteStore(path_, io_.get_executor());
    ASSERT_TRUE(opened.ok()) << opened.status();
    store_ = *std::move(opened);
  }
  template <typename T>
  T Await(Task<T> task) {
    std::optional<T> result;
    Spawn(io_.get_executor(), Into(std::move(task), &result));
    io_.restart();
    io_.run();
    return *std::move(result);
  }
  void AppendThree() {
    for (const char* kind : {"OPEN", "QUIESCED", "COMMIT"}) {
      JournalRecord record{0, "s", "v", kind, 4, "d", ""};
      ASSERT_TRUE(Await(store_->Append(record, {})).ok());
    }
  }
  // Changes the closed store behind its back.
  void Tamper(const std::string& sql) {
    store_.reset();
    auto connection = SqliteConnection::Open(path_);
    ASSERT_TRUE(connection.ok());
    ASSERT_TRUE((*connection)->Execute(sql).ok()) << sql;
  }

  asio::io_context io_;
  std::string folder_;
  std::string path_;
  std::unique_ptr<Store> store_;
};

TEST_F(SqliteStoreTest, RowsSurviveAReopen) {
  const std::string odd("\0\xff'", 3);
  const VmRow vm{"id", "n", "{}",  "[]", "running", "a",    5,
                 6,    "r", "why", odd,  "saved",   "move", "draft"};
  const SessionRow session{"s", "id", true, true, 9, "r", odd};
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(Await(store_->PutVm(vm)).ok());
    ASSERT_TRUE(Await(store_->PutSession(session)).ok());
  }
  const std::string journal_id = store_->journal_id();
  Reopen();
  EXPECT_EQ(store_->journal_id(), journal_id);
  auto vms = Await(store_->ListVms());
  ASSERT_EQ(vms->size(), 1u);
  EXPECT_EQ(vms->front().guest_state, odd);
  EXPECT_EQ(vms->front().epoch, 5u);
  EXPECT_EQ(vms->front().saved, "saved");
  EXPECT_EQ(vms->front().disk_move, "move");
  EXPECT_EQ(vms->front().save_draft, "draft");
  auto sessions = Await(store_->ListSessions());
  ASSERT_EQ(sessions->size(), 1u);
  EXPECT_TRUE(sessions->front().is_source && sessions->front().decided);
  EXPECT_EQ(sessions->front().session_bytes, odd);
  EXPECT_TRUE(Await(store_->DeleteVm("id")).ok());
  EXPECT_TRUE(Await(store_->DeleteSession("s")).ok());
  EXPECT_TRUE(Await(store_->ListVms())->empty());
  EXPECT_TRUE(Await(store_->ListSessions())->empty());
}

TEST_F(SqliteStoreTest, TheFileIsPrivateAndHeldAlone) {
  struct stat info {};
  ASSERT_EQ(::stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  EXPECT_EQ(OpenSqliteStore(path_, io_.get_executor()).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(SqliteStoreTest, ANewerVersionIsRefused) {
  Tamper("UPDATE store SET version = version + 1");
  EXPECT_EQ(OpenSqliteStore(path_, io_.get_executor()).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

// As version 1 made it.
constexpr char kFirstStore[] = R"sql(
CREATE TABLE store (version INTEGER NOT NULL, journal_id BLOB NOT NULL);
CREATE TABLE vms (
  id TEXT PRIMARY KEY, name BLOB NOT NULL, spec_json BLOB NOT NULL, document_json BLOB NOT NULL,
  desired_state BLOB NOT NULL, adoption_record BLOB NOT NULL, epoch INTEGER NOT NULL,
  created_unix_ms INTEGER NOT NULL, request_id BLOB NOT NULL, state_reason BLOB NOT NULL,
  guest_state BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE sessions (
  id TEXT PRIMARY KEY, vm_id BLOB NOT NULL, is_source INTEGER NOT NULL, decided INTEGER NOT NULL,
  created_unix_ms INTEGER NOT NULL, request_id BLOB NOT NULL, session_bytes BLOB NOT NULL)
  WITHOUT ROWID;
CREATE TABLE journal (
  sequence INTEGER PRIMARY KEY, session_id TEXT NOT NULL, vm_id BLOB NOT NULL, kind BLOB NOT NULL,
  epoch INTEGER NOT NULL, detail BLOB NOT NULL, hash BLOB NOT NULL);
CREATE INDEX journal_by_session ON journal (session_id, sequence);
CREATE TABLE events (
  id INTEGER PRIMARY KEY, unix_ms INTEGER NOT NULL, type BLOB NOT NULL, subject BLOB NOT NULL,
  attributes BLOB NOT NULL);
INSERT INTO store VALUES (1, 'journal of the first release');
INSERT INTO sessions VALUES ('s', 'v', 1, 0, 7, 'r', 'bytes');
INSERT INTO events VALUES (1, 5, 'vm.created', 'v', '');
)sql";

TEST_F(SqliteStoreTest, AStoreOfTheFirstReleaseIsTakenOverAndStaysOurs) {
  store_.reset();
  std::filesystem::remove_all(folder_);
  std::filesystem::create_directory(folder_);
  std::ofstream(path_).flush();
  Tamper(kFirstStore);
  for (int time = 0; time < 2; ++time) {
    Reopen();
    EXPECT_EQ(store_->journal_id(), "journal of the first release");
    EXPECT_EQ(Await(store_->ListSessions())->size(), 1u);
  }
  AppendThree();
  EXPECT_TRUE(Await(store_->PutNotification({"s", 1, "first", 0})).ok());
  Reopen();
  EXPECT_EQ(Await(store_->ReadJournal("s"))->size(), 3u);
  EXPECT_EQ(Await(store_->ReadNotifications("s", 0, 10))->size(), 1u);
}

TEST_F(SqliteStoreTest, AStoreWithoutNotificationsIsBroughtUpToDate) {
  AppendThree();
  Tamper(
      "DROP TABLE notifications; DROP TABLE checkpoints; DROP TABLE snapshots; "
      "DROP TABLE containers; ALTER TABLE vms DROP COLUMN save_draft; ALTER TABLE vms DROP COLUMN "
      "disk_move; ALTER TABLE vms DROP COLUMN "
      "saved; DROP TABLE jobs; "
      "UPDATE store SET version = 1");
  Reopen();
  EXPECT_EQ(Await(store_->ReadJournal("s"))->size(), 3u);
  EXPECT_TRUE(Await(store_->PutNotification({"s", 1, "first", 0})).ok());
  Reopen();
  EXPECT_EQ(Await(store_->ReadNotifications("s", 0, 10))->size(), 1u);
}

TEST_F(SqliteStoreTest, AStoreWithoutContainersIsBroughtUpToDate) {
  ASSERT_TRUE(Await(store_->PutVm({"id", "n", "{}", "{}", "stopped"})).ok());
  Tamper(
      "DROP TABLE checkpoints; DROP TABLE snapshots; DROP TABLE containers; "
      "ALTER TABLE vms DROP COLUMN save_draft; ALTER TABLE vms DROP COLUMN disk_move; ALTER TABLE "
      "vms DROP COLUMN saved; DROP TABLE jobs; "
      "UPDATE store SET version = 2");
  for (int time = 0; time < 2; ++time) {
    Reopen();
    EXPECT_EQ(Await(store_->ListVms())->size(), 1u);
    EXPECT_TRUE(Await(store_->PutContainer({"c", "id", "web", "record"})).ok());
    EXPECT_EQ(Await(store_->ListContainers())->size(), 1u);
  }
}

TEST_F(SqliteStoreTest, AStoreWithoutJobsIsBroughtUpToDate) {
  ASSERT_TRUE(Await(store_->PutVm({"id", "n", "{}", "{}", "stopped"})).ok());
  Tamper(
      "DROP TABLE jobs; DROP TABLE snapshots; DROP TABLE checkpoints; "
      "ALTER TABLE vms DROP COLUMN save_draft; ALTER TABLE vms DROP COLUMN disk_move; UPDATE store "
      "SET version = 4");
  for (int time = 0; time < 2; ++time) {
    Reopen();
    EXPECT_EQ(Await(store_->ListVms())->size(), 1u);
    EXPECT_TRUE(Await(store_->PutJob({"j", 7, "job"})).ok());
    EXPECT_EQ(Await(store_->ListJobs())->size(), 1u);
  }
}

TEST_F(SqliteStoreTest, JobsSurviveAReopenUntilTheyAreDeleted) {
  const std::string odd("\0\xff'", 3);
  ASSERT_TRUE(Await(store_->PutJob({"a", 9, "later"})).ok());
  for (const std::string& bytes : {std::string("first"), odd}) {
    ASSERT_TRUE(Await(store_->PutJob({"b", 5, bytes})).ok());
  }
  Reopen();
  auto jobs = Await(store_->ListJobs());
  ASSERT_TRUE(jobs.ok());
  ASSERT_EQ(jobs->size(), 2u);
  EXPECT_EQ((*jobs)[0].id, "b");
  EXPECT_EQ((*jobs)[0].started_unix_ms, 5u);
  EXPECT_EQ((*jobs)[0].job_bytes, odd);
  EXPECT_EQ((*jobs)[1].id, "a");
  ASSERT_TRUE(Await(store_->DeleteJob("b")).ok());
  ASSERT_TRUE(Await(store_->DeleteJob("nobody's")).ok());
  Reopen();
  jobs = Await(store_->ListJobs());
  ASSERT_EQ(jobs->size(), 1u);
  EXPECT_EQ(jobs->front().id, "a");
}

TEST_F(SqliteStoreTest, AStoreWithoutSnapshotsIsBroughtUpToDate) {
  Tamper(
      "DROP TABLE snapshots; DROP TABLE checkpoints; ALTER TABLE vms DROP COLUMN save_draft; ALTER "
      "TABLE vms DROP COLUMN disk_move; "
      "UPDATE store SET version = 5");
  Reopen();
  EXPECT_TRUE(Await(store_->PutSnapshot({"v", "t", "record"})).ok());
  EXPECT_EQ(Await(store_->ListSnapshots())->size(), 1u);
}

TEST_F(SqliteStoreTest, SnapshotsSurviveAReopenAndGoWithTheirVm) {
  const std::string record("a\0b", 3);
  ASSERT_TRUE(Await(store_->PutSnapshot({"v", "t", "former"})).ok());
  ASSERT_TRUE(Await(store_->PutSnapshot({"v", "t", record})).ok());
  ASSERT_TRUE(Await(store_->PutSnapshot({"v", "u", "2"})).ok());
  ASSERT_TRUE(Await(store_->PutSnapshot({"w", "t", "3"})).ok());
  Reopen();
  auto rows = Await(store_->ListSnapshots());
  ASSERT_EQ(rows->size(), 3u);
  EXPECT_EQ((*rows)[0].vm_id, "v");
  EXPECT_EQ((*rows)[0].tag, "t");
  EXPECT_EQ((*rows)[0].record, record);
  EXPECT_TRUE(Await(store_->DeleteSnapshot("v", "u")).ok());
  EXPECT_TRUE(Await(store_->DeleteSnapshot("v", "never was")).ok());
  EXPECT_EQ(Await(store_->ListSnapshots())->size(), 2u);
  EXPECT_TRUE(Await(store_->DeleteVm("v")).ok());
  rows = Await(store_->ListSnapshots());
  ASSERT_EQ(rows->size(), 1u);
  EXPECT_EQ((*rows)[0].vm_id, "w");
}

TEST_F(SqliteStoreTest, ContainersSurviveAReopenUntilTheyAreDeleted) {
  const std::string odd("\0\xff'", 3);
  for (const char* record : {"first", odd.c_str()}) {
    ASSERT_TRUE(Await(store_->PutContainer({"c", "v", "web", record})).ok());
  }
  ASSERT_TRUE(Await(store_->PutContainer({"d", "v", "db", odd})).ok());
  Reopen();
  auto rows = Await(store_->ListContainers());
  ASSERT_EQ(rows->size(), 2u);
  EXPECT_EQ(rows->front().id, "c");
  EXPECT_EQ(rows->back().vm_id, "v");
  EXPECT_EQ(rows->back().name, "db");
  EXPECT_EQ(rows->back().record, odd);
  EXPECT_TRUE(Await(store_->DeleteContainer("c")).ok());
  EXPECT_TRUE(Await(store_->DeleteContainer("never was")).ok());
  Reopen();
  rows = Await(store_->ListContainers());
  ASSERT_EQ(rows->size(), 1u);
  EXPECT_EQ(rows->front().id, "d");
}

TEST_F(SqliteStoreTest, NotificationsAreKeptInOrderUntilTheirSessionGoes) {
  ASSERT_TRUE(Await(store_->PutSession({"s", "v", true, false, 1, "", ""})).ok());
  for (uint32_t id : {1, 2, 10, 11}) {
    ASSERT_TRUE(Await(store_->PutNotification({"s", id, std::to_string(id), 0})).ok());
  }
  ASSERT_TRUE(Await(store_->PutNotification({"other", 1, "o", 0})).ok());
  ASSERT_TRUE(Await(store_->PutNotification({"s", 12, "12", 2})).ok());
  Reopen();
  auto ids = [&](uint32_t after, size_t limit) {
    std::vector<uint32_t> found;
    const auto rows = Await(store_->ReadNotifications("s", after, limit));
    for (const NotificationRow& row : *rows) {
      EXPECT_EQ(row.bytes, std::to_string(row.id));
      found.push_back(row.id);
    }
    return found;
  };
  EXPECT_THAT(ids(0, 10), testing::ElementsAre(1, 10, 11, 12));
  EXPECT_THAT(ids(1, 2), testing::ElementsAre(10, 11));
  // A session may be written again and again.
  ASSERT_TRUE(Await(store_->PutSession({"s", "v", true, true, 1, "", ""})).ok());
  EXPECT_EQ(ids(0, 10).size(), 4u);
  ASSERT_TRUE(Await(store_->DeleteSession("s")).ok());
  EXPECT_TRUE(ids(0, 10).empty());
  EXPECT_EQ(Await(store_->ReadNotifications("other", 0, 10))->size(), 1u);
}

TEST_F(SqliteStoreTest, EveryAlteredColumnIsFound) {
  AppendThree();
  EXPECT_TRUE(Await(store_->VerifyJournal()).ok());
  for (const char* column : {"session_id", "vm_id", "kind", "epoch", "detail", "hash"}) {
    store_.reset();
    std::filesystem::remove(path_);
    Reopen();
    AppendThree();
    Tamper(std::string("UPDATE journal SET ") + column + " = 99 WHERE sequence = 2");
    Reopen();
    EXPECT_EQ(Await(store_->VerifyJournal()).code(), absl::StatusCode::kDataLoss) << column;
  }
}

TEST_F(SqliteStoreTest, MissingRecordsAreFound) {
  AppendThree();
  Tamper("DELETE FROM journal WHERE sequence = 3");
  Reopen();
  EXPECT_TRUE(Await(store_->VerifyJournal()).ok());
  EXPECT_EQ(Await(store_->Head())->sequence, 2u);  // which the peer remembers otherwise
  Tamper("DELETE FROM journal WHERE sequence = 1");
  Reopen();
  EXPECT_EQ(Await(store_->VerifyJournal()).code(), absl::StatusCode::kDataLoss);
}

TEST_F(SqliteStoreTest, ALostDecisiveRecordIsFound) {
  AppendThree();
  JournalRecord commit{0, "s", "v", "COMMIT", 5, "d", ""};
  AppendOptions decisive;
  decisive.decisive = true;
  ASSERT_TRUE(Await(store_->Append(commit, decisive)).ok());
  Reopen();
  EXPECT_TRUE(Await(store_->VerifyJournal()).ok());
  Tamper("DELETE FROM journal WHERE sequence = 4");
  Reopen();
  const absl::Status lost = Await(store_->VerifyJournal());
  EXPECT_EQ(lost.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(lost.message()), testing::HasSubstr("record 4"));
  // Another record in its place does not hide the loss.
  JournalRecord other{0, "s", "v", "ABORT", 4, "d", ""};
  ASSERT_TRUE(Await(store_->Append(other, {})).ok());
  EXPECT_FALSE(Await(store_->VerifyJournal()).ok());
}

TEST_F(SqliteStoreTest, ADamagedWitnessIsFound) {
  JournalRecord commit{0, "s", "v", "COMMIT", 5, "d", ""};
  AppendOptions decisive;
  decisive.decisive = true;
  ASSERT_TRUE(Await(store_->Append(commit, decisive)).ok());
  for (const char* text : {"x", "0000000000000000000x "}) {
    std::ofstream(path_ + "-witness", std::ios::trunc) << text;
    Reopen();
    EXPECT_EQ(Await(store_->VerifyJournal()).code(), absl::StatusCode::kDataLoss) << text;
  }
}

// The files as they are, and what may become of them.
class JournalFileTest : public SqliteStoreTest {
 protected:
  void AppendDecisive(const char* kind) {
    AppendOptions decisive;
    decisive.decisive = true;
    ASSERT_TRUE(Await(store_->Append({0, "s", "v", kind, 5, "d", ""}, decisive)).ok());
  }
  // The store's files as a crash leaves them: closing it would move the log into the database.
  std::string Crash() {
    const std::string copy = folder_ + "/crashed.db";
    for (const char* suffix : {"", "-wal", "-witness"}) {
      std::filesystem::copy_file(path_ + suffix, copy + suffix,
                                 std::filesystem::copy_options::overwrite_existing);
    }
    return copy;
  }
  // What of a store that nobody writes any more.
  static absl::StatusOr<JournalReport> Read(const std::string& path) {
    JournalReading reading;
    reading.patience = std::chrono::milliseconds(0);
    return ReadJournalFile(path, reading);
  }
  // Behind the back of the store at `path`.
  static void Change(const std::string& path, const std::string& sql) {
    auto connection = SqliteConnection::Open(path);
    ASSERT_TRUE(connection.ok()) << connection.status();
    const absl::Status changed = (*connection)->Execute(sql);
    ASSERT_TRUE(changed.ok()) << changed;
  }
  static void Overwrite(const std::string& from, const std::string& to) {
    std::filesystem::copy_file(from, to, std::filesystem::copy_options::overwrite_existing);
  }
  // What `from` has beyond the length of `to`, as a log grows.
  static void AppendNewer(const std::string& from, const std::string& to) {
    std::ifstream newer(from, std::ios::binary);
    newer.seekg(static_cast<std::streamoff>(std::filesystem::file_size(to)));
    std::ofstream(to, std::ios::binary | std::ios::app) << newer.rdbuf();
  }
  static std::vector<std::string> Kinds(const JournalReport& report) {
    std::vector<std::string> kinds;
    for (const JournalRecord& record : report.records) kinds.push_back(record.kind);
    return kinds;
  }
};

TEST_F(JournalFileTest, IsReadWhileADaemonHoldsItAndStaysAsItIs) {
  AppendThree();
  AppendDecisive("COMMIT");
  const auto before = std::filesystem::last_write_time(path_ + "-wal");
  const auto report = ReadJournalFile(path_);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_TRUE(report->intact.ok()) << report->intact;
  EXPECT_THAT(Kinds(*report), testing::ElementsAre("OPEN", "QUIESCED", "COMMIT", "COMMIT"));
  EXPECT_EQ(std::filesystem::last_write_time(path_ + "-wal"), before);
  EXPECT_EQ(ReadJournalFile(folder_ + "/none").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(JournalFileTest, AFlippedBitInTheNewestFrameIsFound) {
  AppendThree();
  AppendDecisive("COMMIT");
  const std::string crashed = Crash();
  const auto size = static_cast<std::streamoff>(std::filesystem::file_size(crashed + "-wal"));
  std::fstream log(crashed + "-wal", std::ios::in | std::ios::out | std::ios::binary);
  log.seekg(size - 40);
  const char flipped = static_cast<char>(log.get() ^ 1);
  log.seekp(size - 40);
  log.put(flipped);
  log.close();
  const auto report = Read(crashed);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->intact.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(report->intact.message()), testing::HasSubstr("record 4"));
}

TEST_F(JournalFileTest, ATornTailIsFound) {
  AppendThree();
  AppendDecisive("COMMIT");
  const std::string crashed = Crash();
  std::filesystem::resize_file(crashed + "-wal",
                               std::filesystem::file_size(crashed + "-wal") - 100);
  const auto report = Read(crashed);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->intact.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(Kinds(*report), testing::ElementsAre("OPEN", "QUIESCED", "COMMIT"));
}

TEST_F(JournalFileTest, AnOlderDatabaseIsFound) {
  AppendThree();
  const std::string older = Crash();
  AppendDecisive("COMMIT");
  // Somebody restores the database from a backup; the witness is the newer one's.
  std::filesystem::copy_file(path_ + "-witness", older + "-witness",
                             std::filesystem::copy_options::overwrite_existing);
  const auto report = Read(older);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->intact.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(report->intact.message()), testing::HasSubstr("the newest is 3"));
}

// The witness knows of a record before the journal has it. Whoever reads in between is patient.
TEST_F(JournalFileTest, ARecordThatIsJustBeingWrittenIsNotMissing) {
  AppendThree();
  const std::string live = Crash();
  AppendDecisive("COMMIT");
  Overwrite(path_ + "-witness", live + "-witness");
  std::thread writer;
  JournalReading reading;
  reading.patience = std::chrono::milliseconds(60'000);
  reading.copied = [&] {
    if (writer.joinable()) return;
    writer = std::thread([&] { AppendNewer(path_ + "-wal", live + "-wal"); });
  };
  const auto report = ReadJournalFile(live, reading);
  writer.join();
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_TRUE(report->intact.ok()) << report->intact;
  EXPECT_THAT(Kinds(*report), testing::ElementsAre("OPEN", "QUIESCED", "COMMIT", "COMMIT"));
}

TEST_F(JournalFileTest, AWriteBetweenTheCopiesIsNoticed) {
  AppendThree();
  const std::string live = Crash();
  AppendDecisive("COMMIT");
  bool written = false;
  JournalReading reading;
  reading.patience = std::chrono::milliseconds(0);
  reading.copied = [&] {
    if (std::exchange(written, true)) return;
    Overwrite(path_ + "-witness", live + "-witness");
    Overwrite(path_ + "-wal", live + "-wal");
  };
  const auto report = ReadJournalFile(live, reading);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_TRUE(report->intact.ok()) << report->intact;
  EXPECT_THAT(Kinds(*report), testing::ElementsAre("OPEN", "QUIESCED", "COMMIT", "COMMIT"));
}

TEST_F(JournalFileTest, AStoreThatIsWrittenWithoutPauseIsNotRead) {
  AppendThree();
  int copies = 0;
  JournalReading reading;
  reading.copied = [&] {
    ++copies;
    ASSERT_TRUE(Await(store_->Append({0, "s", "v", "OPEN", 4, "d", ""}, {})).ok());
  };
  const auto report = ReadJournalFile(path_, reading);
  EXPECT_EQ(report.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(report.status().message()), testing::HasSubstr("try again"));
  EXPECT_EQ(copies, 20);
}

TEST_F(JournalFileTest, WhatIsNoStoreIsNotCalledDamaged) {
  AppendThree();
  for (const char* sql : {"DROP TABLE journal", "DROP TABLE store", "DELETE FROM store"}) {
    const std::string other = Crash();
    Change(other, sql);
    const auto report = Read(other);
    EXPECT_EQ(report.status().code(), absl::StatusCode::kFailedPrecondition) << sql;
    EXPECT_THAT(std::string(report.status().message()), testing::HasSubstr("cannot be read"));
  }
  const std::string garbage = folder_ + "/garbage.db";
  for (const std::string& bytes :
       {std::string(), std::string("no store"), std::string(9000, 'x')}) {
    std::ofstream(garbage) << bytes;
    const auto report = Read(garbage);
    EXPECT_FALSE(report.ok()) << bytes.size();
    EXPECT_THAT(std::string(report.status().message()), testing::HasSubstr("cannot be read"));
  }
  EXPECT_FALSE(Read(folder_).ok());
}

TEST_F(JournalFileTest, AStoreOfAnUnknownVersionIsNamed) {
  AppendThree();
  const std::string newer = Crash();
  Change(newer, "UPDATE store SET version = 99");
  const auto report = Read(newer);
  EXPECT_EQ(report.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(report.status().message()), testing::HasSubstr("version 99"));
}

TEST_F(SqliteStoreTest, ReadsWhatWasWrittenOfAVmSince) {
  const auto append = [this](const char* session, const char* vm, const char* kind) {
    ASSERT_TRUE(Await(store_->Append({0, session, vm, kind, 4, "d", ""}, {})).ok());
  };
  append("s1", "v", "OPEN");
  append("s2", "other", "OPEN");
  append("s3", "v", "COMMIT");
  append("s4", "v", "IMPORTED");
  const auto since = Await(store_->ReadVmJournal("v", 1));
  ASSERT_TRUE(since.ok()) << since.status();
  ASSERT_EQ(since->size(), 2u);
  EXPECT_EQ(since->at(0).session_id, "s3");
  EXPECT_EQ(since->at(1).kind, "IMPORTED");
  EXPECT_EQ(since->at(1).sequence, 4u);
}

TEST_F(SqliteStoreTest, ARecordAndItsVmAreWrittenTogether) {
  JournalRecord prepared{0, "s", "vm-1", "PREPARED", 5, "d", ""};
  AppendOptions options;
  options.vm.emplace();
  options.vm->id = "vm-1";
  options.vm->guest_state = "cut";
  ASSERT_TRUE(Await(store_->Append(prepared, options)).ok());
  Reopen();
  auto rows = Await(store_->ListVms());
  ASSERT_TRUE(rows.ok());
  ASSERT_EQ(rows->size(), 1u);
  EXPECT_EQ(rows->front().guest_state, "cut");
}

TEST_F(SqliteStoreTest, ConcurrentAppendsLeaveNoGap) {
  std::vector<std::optional<absl::StatusOr<JournalRecord>>> results(50);
  for (auto& result : results) {
    JournalRecord record{0, "s", "v", "K", 1, "", ""};
    Spawn(io_.get_executor(), Into(store_->Append(record, {}), &result));
  }
  io_.restart();
  io_.run();
  EXPECT_EQ(Await(store_->Head())->sequence, 50u);
  EXPECT_EQ(Await(store_->ReadJournal("s"))->size(), 50u);
  EXPECT_TRUE(Await(store_->VerifyJournal()).ok());
}

TEST_F(SqliteStoreTest, EventsAreNumberedAndBounded) {
  Tamper("INSERT INTO events VALUES (1, 1, 't', 's', ''), (10000, 1, 't', 's', '')");
  Reopen();
  EventRow event{0, 7, "type", "subject", {{"a", "b:1"}, {"", ""}}};
  auto written = Await(store_->AppendEvent(event));
  ASSERT_TRUE(written.ok()) << written.status();
  EXPECT_EQ(written->id, 10001u);
  auto events = Await(store_->ReadEvents(0, 100));
  ASSERT_EQ(events->size(), 2u);
  EXPECT_EQ(events->back().attributes, event.attributes);
  EXPECT_EQ(Await(store_->ReadEvents(0, 1))->size(), 1u);
}

}  // namespace
}  // namespace ferry::vm
