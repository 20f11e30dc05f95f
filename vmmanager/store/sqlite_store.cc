#include <fcntl.h>
#include <sys/stat.h>

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
#include "vmmanager/store/journal_witness.h"
#include "vmmanager/store/migrations.h"
#include "vmmanager/store/sqlite.h"
#include "vmmanager/store/sqlite_database.h"
#include "vmmanager/store/store.h"

namespace ferry::vm {
namespace {

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
  Task<absl::Status> PutCheckpoints(std::vector<CheckpointRow> rows,
                                    std::optional<VmRow> vm) override {
    return Run<absl::Status>([this, rows = std::move(rows), vm = std::move(vm)] {
      return database_.PutCheckpoints(rows, vm);
    });
  }
  Task<absl::Status> DeleteCheckpoint(std::string vm_id, std::string name,
                                      std::vector<CheckpointRow> others,
                                      std::optional<VmRow> vm) override {
    return Run<absl::Status>(
        [this, vm_id = std::move(vm_id), name = std::move(name), others = std::move(others),
         vm = std::move(vm)] { return database_.DeleteCheckpoint(vm_id, name, others, vm); });
  }
  Task<absl::StatusOr<std::vector<CheckpointRow>>> ListCheckpoints() override {
    return Run<absl::StatusOr<std::vector<CheckpointRow>>>(
        [this] { return database_.ListCheckpoints(); });
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

  SqliteDatabase database_;
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
