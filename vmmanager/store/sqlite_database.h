#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vmmanager/store/journal_witness.h"
#include "vmmanager/store/sqlite.h"
#include "vmmanager/store/store.h"

namespace ferry::vm {

// The tables of a store and what is done with them, as Store says, at once and on one thread.
class SqliteDatabase {
 public:
  // `connection` syncs every commit (PRAGMA synchronous=FULL).
  SqliteDatabase(std::unique_ptr<SqliteConnection> connection, JournalWitness witness)
      : connection_(std::move(connection)), witness_(std::move(witness)) {}

  absl::Status PutVm(const VmRow& row);
  absl::StatusOr<std::vector<VmRow>> ListVms();
  // From a table whose key is `id`.
  absl::Status Delete(const char* table, const std::string& id);
  absl::Status DeleteVm(const std::string& id);
  absl::Status PutSnapshot(const SnapshotRow& row);
  absl::Status DeleteSnapshot(const std::string& vm_id, const std::string& tag);
  absl::StatusOr<std::vector<SnapshotRow>> ListSnapshots();
  absl::Status PutCheckpoints(const std::vector<CheckpointRow>& rows,
                              const std::optional<VmRow>& vm);
  absl::Status DeleteCheckpoint(const std::string& vm_id, const std::string& name,
                                const std::vector<CheckpointRow>& others,
                                const std::optional<VmRow>& vm);
  absl::StatusOr<std::vector<CheckpointRow>> ListCheckpoints();
  absl::Status DeleteSession(const std::string& id);
  absl::Status PutContainer(const ContainerRow& row);
  absl::StatusOr<std::vector<ContainerRow>> ListContainers();
  absl::Status PutJob(const JobRow& row);
  absl::StatusOr<std::vector<JobRow>> ListJobs();
  absl::Status PutNotification(const NotificationRow& row);
  absl::StatusOr<std::vector<NotificationRow>> ReadNotifications(const std::string& session_id,
                                                                 uint32_t after, size_t limit);
  absl::Status PutSession(const SessionRow& row);
  absl::StatusOr<std::vector<SessionRow>> ListSessions();
  absl::StatusOr<JournalRecord> Append(JournalRecord record, const AppendOptions& options);
  absl::StatusOr<JournalHead> Head();
  absl::StatusOr<std::vector<JournalRecord>> ReadJournal(const std::string& session_id);
  absl::StatusOr<std::vector<JournalRecord>> ReadVmJournal(const std::string& vm_id,
                                                           uint64_t after);
  absl::Status VerifyJournal();
  absl::StatusOr<EventRow> AppendEvent(EventRow event);
  absl::StatusOr<std::vector<EventRow>> ReadEvents(uint64_t after, size_t limit);

 private:
  // Whether a commit waits until the disk has it. Only notifications do without, so everything else
  // that writes says so first.
  absl::Status SetSynced(bool synced);

  static absl::StatusOr<std::vector<JournalRecord>> AllOf(SqliteStatement& read);
  absl::Status WriteNotification(const NotificationRow& row);
  // As part of the caller's transaction.
  absl::Status WriteCheckpoints(const std::vector<CheckpointRow>& rows,
                                const std::optional<VmRow>& vm);

  absl::StatusOr<JournalRecord> Write(JournalRecord record, const AppendOptions& options);

  std::unique_ptr<SqliteConnection> connection_;
  JournalWitness witness_;
  bool synced_ = true;  // as the connection came
};

}  // namespace ferry::vm
