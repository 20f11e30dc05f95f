#include "vmmanager/store/sqlite_database.h"

#include <algorithm>
#include <string_view>

#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/str_cat.h"
#include "vmmanager/store/journal_chain.h"
#include "vmmanager/store/journal_file.h"

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

}  // namespace

absl::Status SqliteDatabase::PutVm(const VmRow& row) {
  RETURN_IF_ERROR(SetSynced(true));
  ASSIGN_OR_RETURN(SqliteStatement put,
                   connection_->Prepare("INSERT OR REPLACE INTO vms VALUES "
                                        "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"));
  put.BindText(row.id).Bind(row.name).Bind(row.spec_json).Bind(row.document_json);
  put.Bind(row.desired_state).Bind(row.adoption_record).Bind(row.epoch);
  put.Bind(row.created_unix_ms).Bind(row.request_id).Bind(row.state_reason);
  put.Bind(row.guest_state).Bind(row.saved).Bind(row.disk_move);
  return put.Bind(row.save_draft).Run();
}

absl::StatusOr<std::vector<VmRow>> SqliteDatabase::ListVms() {
  ASSIGN_OR_RETURN(SqliteStatement read, connection_->Prepare("SELECT * FROM vms ORDER BY id"));
  std::vector<VmRow> rows;
  while (true) {
    ASSIGN_OR_RETURN(const bool found, read.Step());
    if (!found) return rows;
    rows.push_back({read.Text(0), read.Text(1), read.Text(2), read.Text(3), read.Text(4),
                    read.Text(5), read.Number(6), read.Number(7), read.Text(8), read.Text(9),
                    read.Text(10), read.Text(11), read.Text(12), read.Text(13)});
  }
}

absl::Status SqliteDatabase::Delete(const char* table, const std::string& id) {
  RETURN_IF_ERROR(SetSynced(true));
  ASSIGN_OR_RETURN(SqliteStatement remove,
                   connection_->Prepare(StrCat("DELETE FROM ", table, " WHERE id = ?")));
  return remove.BindText(id).Run();
}

absl::Status SqliteDatabase::DeleteVm(const std::string& id) {
  RETURN_IF_ERROR(SetSynced(true));
  SqliteTransaction transaction(*connection_);
  RETURN_IF_ERROR(transaction.Begin());
  RETURN_IF_ERROR(Delete("vms", id));
  for (const char* table : {"snapshots", "checkpoints"}) {
    ASSIGN_OR_RETURN(SqliteStatement remove,
                     connection_->Prepare(StrCat("DELETE FROM ", table, " WHERE vm_id = ?")));
    RETURN_IF_ERROR(remove.BindText(id).Run());
  }
  return transaction.Commit();
}

absl::Status SqliteDatabase::PutSnapshot(const SnapshotRow& row) {
  RETURN_IF_ERROR(SetSynced(true));
  ASSIGN_OR_RETURN(SqliteStatement put,
                   connection_->Prepare("INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?)"));
  return put.BindText(row.vm_id).BindText(row.tag).Bind(row.record).Run();
}

absl::Status SqliteDatabase::DeleteSnapshot(const std::string& vm_id, const std::string& tag) {
  RETURN_IF_ERROR(SetSynced(true));
  ASSIGN_OR_RETURN(SqliteStatement remove,
                   connection_->Prepare("DELETE FROM snapshots WHERE vm_id = ? AND tag = ?"));
  return remove.BindText(vm_id).BindText(tag).Run();
}

absl::StatusOr<std::vector<SnapshotRow>> SqliteDatabase::ListSnapshots() {
  ASSIGN_OR_RETURN(SqliteStatement read,
                   connection_->Prepare("SELECT * FROM snapshots ORDER BY vm_id, tag"));
  std::vector<SnapshotRow> rows;
  while (true) {
    ASSIGN_OR_RETURN(const bool found, read.Step());
    if (!found) return rows;
    rows.push_back({read.Text(0), read.Text(1), read.Text(2)});
  }
}

absl::Status SqliteDatabase::PutCheckpoints(const std::vector<CheckpointRow>& rows,
                                            const std::optional<VmRow>& vm) {
  RETURN_IF_ERROR(SetSynced(true));
  SqliteTransaction transaction(*connection_);
  RETURN_IF_ERROR(transaction.Begin());
  RETURN_IF_ERROR(WriteCheckpoints(rows, vm));
  return transaction.Commit();
}

absl::Status SqliteDatabase::DeleteCheckpoint(const std::string& vm_id, const std::string& name,
                                              const std::vector<CheckpointRow>& others,
                                              const std::optional<VmRow>& vm) {
  RETURN_IF_ERROR(SetSynced(true));
  SqliteTransaction transaction(*connection_);
  RETURN_IF_ERROR(transaction.Begin());
  {
    ASSIGN_OR_RETURN(SqliteStatement remove,
                     connection_->Prepare("DELETE FROM checkpoints WHERE vm_id = ? AND name = ?"));
    RETURN_IF_ERROR(remove.BindText(vm_id).BindText(name).Run());
  }
  RETURN_IF_ERROR(WriteCheckpoints(others, vm));
  return transaction.Commit();
}

absl::StatusOr<std::vector<CheckpointRow>> SqliteDatabase::ListCheckpoints() {
  ASSIGN_OR_RETURN(SqliteStatement read,
                   connection_->Prepare("SELECT * FROM checkpoints ORDER BY vm_id, name"));
  std::vector<CheckpointRow> rows;
  while (true) {
    ASSIGN_OR_RETURN(const bool found, read.Step());
    if (!found) return rows;
    rows.push_back({read.Text(0), read.Text(1), read.Text(2)});
  }
}

absl::Status SqliteDatabase::DeleteSession(const std::string& id) {
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

absl::Status SqliteDatabase::PutContainer(const ContainerRow& row) {
  RETURN_IF_ERROR(SetSynced(true));
  ASSIGN_OR_RETURN(SqliteStatement put,
                   connection_->Prepare("INSERT OR REPLACE INTO containers VALUES (?, ?, ?, ?)"));
  return put.BindText(row.id).Bind(row.vm_id).Bind(row.name).Bind(row.record).Run();
}

absl::StatusOr<std::vector<ContainerRow>> SqliteDatabase::ListContainers() {
  ASSIGN_OR_RETURN(SqliteStatement read,
                   connection_->Prepare("SELECT * FROM containers ORDER BY id"));
  std::vector<ContainerRow> rows;
  while (true) {
    ASSIGN_OR_RETURN(const bool found, read.Step());
    if (!found) return rows;
    rows.push_back({read.Text(0), read.Text(1), read.Text(2), read.Text(3)});
  }
}

absl::Status SqliteDatabase::PutJob(const JobRow& row) {
  RETURN_IF_ERROR(SetSynced(true));
  ASSIGN_OR_RETURN(SqliteStatement put,
                   connection_->Prepare("INSERT OR REPLACE INTO jobs VALUES (?, ?, ?)"));
  return put.BindText(row.id).Bind(row.started_unix_ms).Bind(row.job_bytes).Run();
}

absl::StatusOr<std::vector<JobRow>> SqliteDatabase::ListJobs() {
  ASSIGN_OR_RETURN(SqliteStatement read,
                   connection_->Prepare("SELECT * FROM jobs ORDER BY started_unix_ms, id"));
  std::vector<JobRow> rows;
  while (true) {
    ASSIGN_OR_RETURN(const bool found, read.Step());
    if (!found) return rows;
    rows.push_back({read.Text(0), read.Number(1), read.Text(2)});
  }
}

absl::Status SqliteDatabase::PutNotification(const NotificationRow& row) {
  RETURN_IF_ERROR(SetSynced(false));
  return WriteNotification(row);
}

absl::StatusOr<std::vector<NotificationRow>> SqliteDatabase::ReadNotifications(
    const std::string& session_id, uint32_t after, size_t limit) {
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

absl::Status SqliteDatabase::PutSession(const SessionRow& row) {
  RETURN_IF_ERROR(SetSynced(true));
  ASSIGN_OR_RETURN(
      SqliteStatement put,
      connection_->Prepare("INSERT OR REPLACE INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?)"));
  put.BindText(row.id).Bind(row.vm_id).Bind(uint64_t{row.is_source}).Bind(uint64_t{row.decided});
  return put.Bind(row.created_unix_ms).Bind(row.request_id).Bind(row.session_bytes).Run();
}

absl::StatusOr<std::vector<SessionRow>> SqliteDatabase::ListSessions() {
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

absl::StatusOr<JournalRecord> SqliteDatabase::Append(JournalRecord record,
                                                     const AppendOptions& options) {
  if (!options.decisive) return Write(std::move(record), options);
  const absl::StatusOr<std::optional<JournalHead>> former = witness_.Read();
  absl::StatusOr<JournalRecord> written = Write(std::move(record), options);
  // What was begun and given up is not missing. If this fails as well, the next start is warier
  // than it need be.
  if (!written.ok() && former.ok()) witness_.Restore(*former).IgnoreError();
  return written;
}

absl::StatusOr<JournalHead> SqliteDatabase::Head() {
  ASSIGN_OR_RETURN(
      SqliteStatement read,
      connection_->Prepare("SELECT sequence, hash FROM journal ORDER BY sequence DESC LIMIT 1"));
  ASSIGN_OR_RETURN(const bool found, read.Step());
  if (!found) return JournalHead{};
  return JournalHead{read.Number(0), read.Text(1)};
}

absl::StatusOr<std::vector<JournalRecord>> SqliteDatabase::ReadJournal(
    const std::string& session_id) {
  ASSIGN_OR_RETURN(
      SqliteStatement read,
      connection_->Prepare("SELECT * FROM journal WHERE session_id = ? ORDER BY sequence"));
  return AllOf(read.BindText(session_id));
}

absl::StatusOr<std::vector<JournalRecord>> SqliteDatabase::ReadVmJournal(const std::string& vm_id,
                                                                         uint64_t after) {
  ASSIGN_OR_RETURN(SqliteStatement read,
                   connection_->Prepare(
                       "SELECT * FROM journal WHERE vm_id = ? AND sequence > ? ORDER BY sequence"));
  return AllOf(read.Bind(vm_id).Bind(after));
}

absl::Status SqliteDatabase::VerifyJournal() {
  return FollowJournal(*connection_, witness_, [](const JournalRecord&) {});
}

absl::StatusOr<EventRow> SqliteDatabase::AppendEvent(EventRow event) {
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

absl::StatusOr<std::vector<EventRow>> SqliteDatabase::ReadEvents(uint64_t after, size_t limit) {
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

absl::Status SqliteDatabase::SetSynced(bool synced) {
  if (synced == synced_) return absl::OkStatus();
  RETURN_IF_ERROR(
      connection_->Execute(synced ? "PRAGMA synchronous=FULL" : "PRAGMA synchronous=NORMAL"));
  synced_ = synced;
  return absl::OkStatus();
}

absl::StatusOr<std::vector<JournalRecord>> SqliteDatabase::AllOf(SqliteStatement& read) {
  std::vector<JournalRecord> records;
  while (true) {
    ASSIGN_OR_RETURN(const bool found, read.Step());
    if (!found) return records;
    records.push_back(ToRecord(read));
  }
}

absl::Status SqliteDatabase::WriteCheckpoints(const std::vector<CheckpointRow>& rows,
                                              const std::optional<VmRow>& vm) {
  for (const CheckpointRow& row : rows) {
    ASSIGN_OR_RETURN(SqliteStatement put,
                     connection_->Prepare("INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?)"));
    RETURN_IF_ERROR(put.BindText(row.vm_id).BindText(row.name).Bind(row.record).Run());
  }
  return vm ? PutVm(*vm) : absl::OkStatus();
}

absl::Status SqliteDatabase::WriteNotification(const NotificationRow& row) {
  SqliteTransaction transaction(*connection_);
  RETURN_IF_ERROR(transaction.Begin());
  {
    ASSIGN_OR_RETURN(SqliteStatement put,
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

absl::StatusOr<JournalRecord> SqliteDatabase::Write(JournalRecord record,
                                                    const AppendOptions& options) {
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

}  // namespace ferry::vm
