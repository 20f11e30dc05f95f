#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <boost/asio/associated_executor.hpp>
#include <boost/asio/async_result.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/prefer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <functional>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/str_cat.h"
#include "bridge/runtime/unique_fd.h"
#include "vmmanager/store/journal_chain.h"
#include "vmmanager/store/journal_file.h"
#include "vmmanager/store/journal_witness.h"
#include "vmmanager/store/migrations.h"
#include "vmmanager/store/sqlite.h"
#include "vmmanager/store/store.h"

namespace ferry::vm {
namespace {

constexpr uint64_t kMaxEvents = 10'000;

std::string EncodeAttributes(const EventRow& event) {
  std::string bytes;
  for (const auto& [name, value] : event.attributes) {
    bytes += StrCat(name.size(), ":", value.size(), ":", name, value);
  }
  return bytes;
}

bool TakeLength(std::string_view& bytes, size_t& length) {
  length = 0;
  size_t digits = 0;
  while (digits < bytes.size() && digits < 9 && bytes[digits] >= '0' && bytes[digits] <= '9') {
    length = length * 10 + (bytes[digits++] - '0');
  }
  if (digits == 0 || digits == bytes.size() || bytes[digits] != ':') return false;
  bytes.remove_prefix(digits + 1);
  return true;
}

absl::Status DecodeAttributes(std::string_view bytes, EventRow& event) {
  while (!bytes.empty()) {
    size_t name = 0;
    size_t value = 0;
    if (!TakeLength(bytes, name) || !TakeLength(bytes, value) || bytes.size() < name ||
        bytes.size() - name < value) {
      return absl::DataLossError(StrCat("event ", event.id, " of the store is damaged"));
    }
    event.attributes.emplace_back(bytes.substr(0, name), bytes.substr(name, value));
    bytes.remove_prefix(name + value);
  }
  return absl::OkStatus();
}

// The store's work proper, on its thread.
class Database {
 public:
  Database(std::unique_ptr<SqliteConnection> connection, JournalWitness witness)
      : connection_(std::move(connection)), witness_(std::move(witness)) {}

  absl::Status PutVm(const VmRow& row) {
    RETURN_IF_ERROR(SetSynced(true));
    ASSIGN_OR_RETURN(SqliteStatement put,
                     connection_->Prepare("INSERT OR REPLACE INTO vms VALUES "
                                          "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"));
    put.BindText(row.id).Bind(row.name).Bind(row.spec_json).Bind(row.document_json);
    put.Bind(row.desired_state).Bind(row.adoption_record).Bind(row.epoch);
    put.Bind(row.created_unix_ms).Bind(row.request_id).Bind(row.state_reason);
    return put.Bind(row.guest_state).Bind(row.saved).Run();
  }

  absl::StatusOr<std::vector<VmRow>> ListVms() {
    ASSIGN_OR_RETURN(SqliteStatement read, connection_->Prepare("SELECT * FROM vms ORDER BY id"));
    std::vector<VmRow> rows;
    while (true) {
      ASSIGN_OR_RETURN(const bool found, read.Step());
      if (!found) return rows;
      rows.push_back({read.Text(0), read.Text(1), read.Text(2), read.Text(3), read.Text(4),
                      read.Text(5), read.Number(6), read.Number(7), read.Text(8), read.Text(9),
                      read.Text(10), read.Text(11)});
    }
  }

  absl::Status Delete(const char* table, const std::string& id) {
    RETURN_IF_ERROR(SetSynced(true));
    ASSIGN_OR_RETURN(SqliteStatement remove,
                     connection_->Prepare(StrCat("DELETE FROM ", table, " WHERE id = ?")));
    return remove.BindText(id).Run();
  }

  absl::Status DeleteVm(const std::string& id) {
    RETURN_IF_ERROR(SetSynced(true));
    SqliteTransaction transaction(*connection_);
    RETURN_IF_ERROR(transaction.Begin());
    RETURN_IF_ERROR(Delete("vms", id));
    {
      ASSIGN_OR_RETURN(SqliteStatement remove,
                       connection_->Prepare("DELETE FROM snapshots WHERE vm_id = ?"));
      RETURN_IF_ERROR(remove.BindText(id).Run());
    }
    return transaction.Commit();
  }

  absl::Status PutSnapshot(const SnapshotRow& row) {
    RETURN_IF_ERROR(SetSynced(true));
    ASSIGN_OR_RETURN(SqliteStatement put,
                     connection_->Prepare("INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?)"));
    return put.BindText(row.vm_id).BindText(row.tag).Bind(row.record).Run();
  }

  absl::Status DeleteSnapshot(const std::string& vm_id, const std::string& tag) {
    RETURN_IF_ERROR(SetSynced(true));
    ASSIGN_OR_RETURN(SqliteStatement remove,
                     connection_->Prepare("DELETE FROM snapshots WHERE vm_id = ? AND tag = ?"));
    return remove.BindText(vm_id).BindText(tag).Run();
  }

  absl::StatusOr<std::vector<SnapshotRow>> ListSnapshots() {
    ASSIGN_OR_RETURN(SqliteStatement read,
                     connection_->Prepare("SELECT * FROM snapshots ORDER BY vm_id, tag"));
    std::vector<SnapshotRow> rows;
    while (true) {
      ASSIGN_OR_RETURN(const bool found, read.Step());
      if (!found) return rows;
      rows.push_back({read.Text(0), read.Text(1), read.Text(2)});
    }
  }

  absl::Status DeleteSession(const std::string& id) {
    RETURN_IF_ERROR(SetSynced(true));
    SqliteTransaction transaction(*connection_);
    RETURN_IF_ERROR(transaction.Begin());
    RETURN_IF_ERROR(Delete("sessions", id));
    {
      ASSIGN_OR_RETURN(SqliteStatement remove,
                       connection_->Prepare("DELETE FROM notifications WHERE session_id = ?"));
      RETURN_IF_ERROR(remove.BindText(id).Run());
    }
    return transaction.Commit();
  }

  absl::Status PutContainer(const ContainerRow& row) {
    RETURN_IF_ERROR(SetSynced(true));
    ASSIGN_OR_RETURN(SqliteStatement put,
                     connection_->Prepare("INSERT OR REPLACE INTO containers VALUES (?, ?, ?, ?)"));
    return put.BindText(row.id).Bind(row.vm_id).Bind(row.name).Bind(row.record).Run();
  }

  absl::StatusOr<std::vector<ContainerRow>> ListContainers() {
    ASSIGN_OR_RETURN(SqliteStatement read,
                     connection_->Prepare("SELECT * FROM containers ORDER BY id"));
    std::vector<ContainerRow> rows;
    while (true) {
      ASSIGN_OR_RETURN(const bool found, read.Step());
      if (!found) return rows;
      rows.push_back({read.Text(0), read.Text(1), read.Text(2), read.Text(3)});
    }
  }

  absl::Status PutJob(const JobRow& row) {
    RETURN_IF_ERROR(SetSynced(true));
    ASSIGN_OR_RETURN(SqliteStatement put,
                     connection_->Prepare("INSERT OR REPLACE INTO jobs VALUES (?, ?, ?)"));
    return put.BindText(row.id).Bind(row.started_unix_ms).Bind(row.job_bytes).Run();
  }

  absl::StatusOr<std::vector<JobRow>> ListJobs() {
    ASSIGN_OR_RETURN(SqliteStatement read,
                     connection_->Prepare("SELECT * FROM jobs ORDER BY started_unix_ms, id"));
    std::vector<JobRow> rows;
    while (true) {
      ASSIGN_OR_RETURN(const bool found, read.Step());
      if (!found) return rows;
      rows.push_back({read.Text(0), read.Number(1), read.Text(2)});
    }
  }

  absl::Status PutNotification(const NotificationRow& row) {
    RETURN_IF_ERROR(SetSynced(false));
    return WriteNotification(row);
  }

  absl::StatusOr<std::vector<NotificationRow>> ReadNotifications(const std::string& session_id,
                                                                 uint32_t after, size_t limit) {
    ASSIGN_OR_RETURN(SqliteStatement read,
                     connection_->Prepare("SELECT id, bytes FROM notifications WHERE "
                                          "session_id = ? AND id > ? ORDER BY id LIMIT ?"));
    read.BindText(session_id).Bind(uint64_t{after}).Bind(uint64_t{limit});
    std::vector<NotificationRow> rows;
    while (true) {
      ASSIGN_OR_RETURN(const bool found, read.Step());
      if (!found) return rows;
      rows.push_back({session_id, static_cast<uint32_t>(read.Number(0)), read.Text(1), 0});
    }
  }

  absl::Status PutSession(const SessionRow& row) {
    RETURN_IF_ERROR(SetSynced(true));
    ASSIGN_OR_RETURN(
        SqliteStatement put,
        connection_->Prepare("INSERT OR REPLACE INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?)"));
    put.BindText(row.id).Bind(row.vm_id).Bind(uint64_t{row.is_source}).Bind(uint64_t{row.decided});
    return put.Bind(row.created_unix_ms).Bind(row.request_id).Bind(row.session_bytes).Run();
  }

  absl::StatusOr<std::vector<SessionRow>> ListSessions() {
    ASSIGN_OR_RETURN(SqliteStatement read,
                     connection_->Prepare("SELECT * FROM sessions ORDER BY created_unix_ms, id"));
    std::vector<SessionRow> rows;
    while (true) {
      ASSIGN_OR_RETURN(const bool found, read.Step());
      if (!found) return rows;
      rows.push_back({read.Text(0), read.Text(1), read.Number(2) != 0, read.Number(3) != 0,
                      read.Number(4), read.Text(5), read.Text(6)});
    }
  }

  absl::StatusOr<JournalRecord> Append(JournalRecord record, const AppendOptions& options) {
    if (!options.decisive) return Write(std::move(record), options);
    const absl::StatusOr<std::optional<JournalHead>> former = witness_.Read();
    absl::StatusOr<JournalRecord> written = Write(std::move(record), options);
    // What was begun and given up is not missing. If this fails as well, the next start is warier
    // than it need be.
    if (!written.ok() && former.ok()) witness_.Restore(*former).IgnoreError();
    return written;
  }

  absl::StatusOr<JournalHead> Head() {
    ASSIGN_OR_RETURN(
        SqliteStatement read,
        connection_->Prepare("SELECT sequence, hash FROM journal ORDER BY sequence DESC LIMIT 1"));
    ASSIGN_OR_RETURN(const bool found, read.Step());
    if (!found) return JournalHead{};
    return JournalHead{read.Number(0), read.Text(1)};
  }

  absl::StatusOr<std::vector<JournalRecord>> ReadJournal(const std::string& session_id) {
    ASSIGN_OR_RETURN(
        SqliteStatement read,
        connection_->Prepare("SELECT * FROM journal WHERE session_id = ? ORDER BY sequence"));
    return AllOf(read.BindText(session_id));
  }

  absl::StatusOr<std::vector<JournalRecord>> ReadVmJournal(const std::string& vm_id,
                                                           uint64_t after) {
    ASSIGN_OR_RETURN(
        SqliteStatement read,
        connection_->Prepare(
            "SELECT * FROM journal WHERE vm_id = ? AND sequence > ? ORDER BY sequence"));
    return AllOf(read.Bind(vm_id).Bind(after));
  }

  absl::Status VerifyJournal() {
    return FollowJournal(*connection_, witness_, [](const JournalRecord&) {});
  }

  absl::StatusOr<EventRow> AppendEvent(EventRow event) {
    RETURN_IF_ERROR(SetSynced(true));
    SqliteTransaction transaction(*connection_);
    RETURN_IF_ERROR(transaction.Begin());
    {
      ASSIGN_OR_RETURN(SqliteStatement newest,
                       connection_->Prepare("SELECT IFNULL(MAX(id), 0) + 1 FROM events"));
      RETURN_IF_ERROR(newest.Step().status());
      event.id = newest.Number(0);
      ASSIGN_OR_RETURN(SqliteStatement insert,
                       connection_->Prepare("INSERT INTO events VALUES (?, ?, ?, ?, ?)"));
      insert.Bind(event.id).Bind(event.unix_ms).Bind(event.type).Bind(event.subject);
      RETURN_IF_ERROR(insert.Bind(EncodeAttributes(event)).Run());
      if (event.id > kMaxEvents) {
        ASSIGN_OR_RETURN(SqliteStatement trim,
                         connection_->Prepare("DELETE FROM events WHERE id <= ?"));
        RETURN_IF_ERROR(trim.Bind(event.id - kMaxEvents).Run());
      }
    }
    RETURN_IF_ERROR(transaction.Commit());
    return event;
  }

  absl::StatusOr<std::vector<EventRow>> ReadEvents(uint64_t after, size_t limit) {
    // SQLite's numbers are signed; nothing is stored beyond them.
    if (after > INT64_MAX) return std::vector<EventRow>{};
    ASSIGN_OR_RETURN(SqliteStatement read,
                     connection_->Prepare("SELECT * FROM events WHERE id > ? ORDER BY id LIMIT ?"));
    read.Bind(after).Bind(uint64_t{std::min<size_t>(limit, kMaxEvents)});
    std::vector<EventRow> events;
    while (true) {
      ASSIGN_OR_RETURN(const bool found, read.Step());
      if (!found) return events;
      EventRow event{read.Number(0), read.Number(1), read.Text(2), read.Text(3), {}};
      RETURN_IF_ERROR(DecodeAttributes(read.Text(4), event));
      events.push_back(std::move(event));
    }
  }

 private:
  // Whether a commit waits until the disk has it. Only notifications do without, so everything else
  // that writes says so first.
  absl::Status SetSynced(bool synced) {
    if (synced == synced_) return absl::OkStatus();
    RETURN_IF_ERROR(
        connection_->Execute(synced ? "PRAGMA synchronous=FULL" : "PRAGMA synchronous=NORMAL"));
    synced_ = synced;
    return absl::OkStatus();
  }

  static absl::StatusOr<std::vector<JournalRecord>> AllOf(SqliteStatement& read) {
    std::vector<JournalRecord> records;
    while (true) {
      ASSIGN_OR_RETURN(const bool found, read.Step());
      if (!found) return records;
      records.push_back(ToRecord(read));
    }
  }

  absl::Status WriteNotification(const NotificationRow& row) {
    SqliteTransaction transaction(*connection_);
    RETURN_IF_ERROR(transaction.Begin());
    {
      ASSIGN_OR_RETURN(
          SqliteStatement put,
          connection_->Prepare("INSERT OR REPLACE INTO notifications VALUES (?, ?, ?)"));
      put.BindText(row.session_id).Bind(uint64_t{row.id}).Bind(row.bytes);
      RETURN_IF_ERROR(put.Run());
      if (row.drop != 0) {
        ASSIGN_OR_RETURN(
            SqliteStatement drop,
            connection_->Prepare("DELETE FROM notifications WHERE session_id = ? AND id = ?"));
        RETURN_IF_ERROR(drop.BindText(row.session_id).Bind(uint64_t{row.drop}).Run());
      }
    }
    return transaction.Commit();
  }

  absl::StatusOr<JournalRecord> Write(JournalRecord record, const AppendOptions& options) {
    RETURN_IF_ERROR(SetSynced(true));
    SqliteTransaction transaction(*connection_);
    RETURN_IF_ERROR(transaction.Begin());
    ASSIGN_OR_RETURN(const JournalHead head, Head());
    record.sequence = head.sequence + 1;
    record.hash = ChainHash(head.hash, record);
    if (options.decisive) RETURN_IF_ERROR(witness_.Note({record.sequence, record.hash}));
    if (options.vm) RETURN_IF_ERROR(PutVm(*options.vm));
    {
      ASSIGN_OR_RETURN(SqliteStatement insert,
                       connection_->Prepare("INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?, ?)"));
      insert.Bind(record.sequence).BindText(record.session_id).Bind(record.vm_id);
      insert.Bind(record.kind).Bind(record.epoch).Bind(record.detail).Bind(record.hash);
      RETURN_IF_ERROR(insert.Run());
    }
    RETURN_IF_ERROR(transaction.Commit());
    return record;
  }

  std::unique_ptr<SqliteConnection> connection_;
  JournalWitness witness_;
  bool synced_ = true;  // as OpenSqliteStore() set it
};

class SqliteStore final : public Store {
 public:
  SqliteStore(std::unique_ptr<SqliteConnection> connection, JournalWitness witness,
              std::string journal_id)
      : database_(std::move(connection), std::move(witness)),
        journal_id_(std::move(journal_id)),
        thread_(1) {}
  ~SqliteStore() override { thread_.join(); }

  const std::string& journal_id() const override { return journal_id_; }

  Task<absl::Status> PutVm(const VmRow& row) override {
    return Run<absl::Status>([this, row] { return database_.PutVm(row); });
  }
  Task<absl::Status> DeleteVm(const std::string& id) override {
    return Run<absl::Status>([this, id] { return database_.DeleteVm(id); });
  }
  Task<absl::StatusOr<std::vector<VmRow>>> ListVms() override {
    return Run<absl::StatusOr<std::vector<VmRow>>>([this] { return database_.ListVms(); });
  }
  Task<absl::Status> PutSession(const SessionRow& row) override {
    return Run<absl::Status>([this, row] { return database_.PutSession(row); });
  }
  Task<absl::Status> DeleteSession(const std::string& id) override {
    return Run<absl::Status>([this, id] { return database_.DeleteSession(id); });
  }
  Task<absl::StatusOr<std::vector<SessionRow>>> ListSessions() override {
    return Run<absl::StatusOr<std::vector<SessionRow>>>(
        [this] { return database_.ListSessions(); });
  }
  Task<absl::Status> PutContainer(ContainerRow row) override {
    return Run<absl::Status>([this, row = std::move(row)] { return database_.PutContainer(row); });
  }
  Task<absl::Status> DeleteContainer(std::string id) override {
    return Run<absl::Status>(
        [this, id = std::move(id)] { return database_.Delete("containers", id); });
  }
  Task<absl::StatusOr<std::vector<ContainerRow>>> ListContainers() override {
    return Run<absl::StatusOr<std::vector<ContainerRow>>>(
        [this] { return database_.ListContainers(); });
  }
  Task<absl::Status> PutJob(JobRow row) override {
    return Run<absl::Status>([this, row = std::move(row)] { return database_.PutJob(row); });
  }
  Task<absl::Status> DeleteJob(std::string id) override {
    return Run<absl::Status>([this, id = std::move(id)] { return database_.Delete("jobs", id); });
  }
  Task<absl::StatusOr<std::vector<JobRow>>> ListJobs() override {
    return Run<absl::StatusOr<std::vector<JobRow>>>([this] { return database_.ListJobs(); });
  }
  Task<absl::Status> PutSnapshot(SnapshotRow row) override {
    return Run<absl::Status>([this, row = std::move(row)] { return database_.PutSnapshot(row); });
  }
  Task<absl::Status> DeleteSnapshot(std::string vm_id, std::string tag) override {
    return Run<absl::Status>([this, vm_id = std::move(vm_id), tag = std::move(tag)] {
      return database_.DeleteSnapshot(vm_id, tag);
    });
  }
  Task<absl::StatusOr<std::vector<SnapshotRow>>> ListSnapshots() override {
    return Run<absl::StatusOr<std::vector<SnapshotRow>>>(
        [this] { return database_.ListSnapshots(); });
  }
  Task<absl::StatusOr<JournalRecord>> Append(JournalRecord record, AppendOptions options) override {
    return Run<absl::StatusOr<JournalRecord>>(
        [this, record = std::move(record), options = std::move(options)] {
          return database_.Append(record, options);
        });
  }
  Task<absl::StatusOr<std::vector<JournalRecord>>> ReadJournal(
      const std::string& session_id) override {
    return Run<absl::StatusOr<std::vector<JournalRecord>>>(
        [this, session_id] { return database_.ReadJournal(session_id); });
  }
  Task<absl::StatusOr<std::vector<JournalRecord>>> ReadVmJournal(const std::string& vm_id,
                                                                 uint64_t after) override {
    return Run<absl::StatusOr<std::vector<JournalRecord>>>(
        [this, vm_id, after] { return database_.ReadVmJournal(vm_id, after); });
  }
  Task<absl::StatusOr<JournalHead>> Head() override {
    return Run<absl::StatusOr<JournalHead>>([this] { return database_.Head(); });
  }
  Task<absl::Status> VerifyJournal() override {
    return Run<absl::Status>([this] { return database_.VerifyJournal(); });
  }
  Task<absl::Status> PutNotification(NotificationRow row) override {
    return Run<absl::Status>(
        [this, row = std::move(row)] { return database_.PutNotification(row); });
  }
  Task<absl::StatusOr<std::vector<NotificationRow>>> ReadNotifications(
      const std::string& session_id, uint32_t after, size_t limit) override {
    return Run<absl::StatusOr<std::vector<NotificationRow>>>([this, session_id, after, limit] {
      return database_.ReadNotifications(session_id, after, limit);
    });
  }
  Task<absl::StatusOr<EventRow>> AppendEvent(EventRow event) override {
    return Run<absl::StatusOr<EventRow>>(
        [this, event = std::move(event)] { return database_.AppendEvent(event); });
  }
  Task<absl::StatusOr<std::vector<EventRow>>> ReadEvents(uint64_t after, size_t limit) override {
    return Run<absl::StatusOr<std::vector<EventRow>>>(
        [this, after, limit] { return database_.ReadEvents(after, limit); });
  }

 private:
  // Runs `work` on the store's thread and goes on here. It is not called off when the task is
  // cancelled: what was asked for is written, and the task unwinds afterwards.
  template <typename T>
  Task<T> Run(std::function<T()> work) {
    auto result = std::make_shared<std::optional<T>>();
    auto start = [this, work = std::move(work), result](auto handler) mutable {
      auto executor = asio::prefer(asio::get_associated_executor(handler),
                                   asio::execution::outstanding_work.tracked);
      auto job = [work = std::move(work), result, executor,
                  handler = std::move(handler)]() mutable {
        result->emplace(work());
        asio::post(executor, std::move(handler));
      };
      asio::post(thread_, std::move(job));
    };
    co_await asio::async_initiate<const asio::use_awaitable_t<>, void()>(std::move(start),
                                                                         asio::use_awaitable);
    co_return **std::move(result);
  }

  Database database_;
  std::string journal_id_;
  asio::thread_pool thread_;
};

// Makes a new file's name durable: SQLite does that only for files that it makes itself.
absl::Status SyncFolder(const std::string& path) {
  const std::string parent = std::filesystem::path(path).parent_path().string();
  const std::string folder = parent.empty() ? "." : parent;
  UniqueFd fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd.valid() && ::fsync(fd.get()) == 0) return absl::OkStatus();
  return absl::UnavailableError(
      StrCat("cannot sync the store's folder ", folder, ": ", std::strerror(errno)));
}

// The file is ours alone before SQLite sees it. An existing one is not opened here: closing it
// again would drop the locks that this process may hold on it.
absl::Status MakeFile(const std::string& path) {
  UniqueFd made(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (made.valid()) return SyncFolder(path);
  if (errno == EEXIST && ::chmod(path.c_str(), 0600) == 0) return absl::OkStatus();
  const std::string text = StrCat("cannot use the store ", path, ": ", std::strerror(errno));
  if (errno == ENOENT || errno == ENOTDIR) {
    return absl::NotFoundError(StrCat(text, "; make its folder first"));
  }
  return absl::UnavailableError(text);
}

// A status of the tables, with the path that they do not know.
absl::Status WithPath(const absl::Status& status, const std::string& path) {
  if (absl::StrContains(status.message(), path)) return status;
  return absl::Status(status.code(), StrCat("store ", path, ": ", status.message()));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Store>> OpenSqliteStore(const std::string& path, Executor) {
  RETURN_IF_ERROR(MakeFile(path));
  ASSIGN_OR_RETURN(std::unique_ptr<SqliteConnection> connection, SqliteConnection::Open(path));
  for (const char* pragma :
       {"PRAGMA locking_mode=EXCLUSIVE", "PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL"}) {
    RETURN_IF_ERROR(connection->Execute(pragma));
  }
  absl::StatusOr<std::string> journal_id = MigrateStore(*connection);
  if (!journal_id.ok()) return WithPath(journal_id.status(), path);
  ASSIGN_OR_RETURN(JournalWitness witness, JournalWitness::Open(path + "-witness"));
  RETURN_IF_ERROR(SyncFolder(path));
  return std::make_unique<SqliteStore>(std::move(connection), std::move(witness),
                                       *std::move(journal_id));
}

}  // namespace ferry::vm
