#include "vmmanager/store/fake_store.h"

#include <utility>

#include "bridge/runtime/status_macros.h"
#include "vmmanager/store/journal_chain.h"

namespace ferry::vm {

FakeStore::FakeStore(std::string journal_id) : journal_id_(std::move(journal_id)) {}

absl::Status FakeStore::TakeFailure() {
  if (failure_.has_value() && before_failure_-- > 0) return absl::OkStatus();
  return std::exchange(failure_, std::nullopt).value_or(absl::OkStatus());
}

JournalHead FakeStore::head() const {
  if (journal_.empty()) return {};
  return {journal_.back().sequence, journal_.back().hash};
}

Task<absl::Status> FakeStore::PutVm(const VmRow& row) {
  CO_RETURN_IF_ERROR(TakeFailure());
  vms_[row.id] = row;
  co_return absl::OkStatus();
}

Task<absl::Status> FakeStore::DeleteVm(const std::string& id) {
  if (before_delete_vm) CO_RETURN_IF_ERROR(before_delete_vm(id));
  CO_RETURN_IF_ERROR(TakeFailure());
  vms_.erase(id);
  const auto is_of_vm = [&id](const auto& entry) { return entry.first.first == id; };
  std::erase_if(snapshots_, is_of_vm);
  std::erase_if(checkpoints_, is_of_vm);
  co_return absl::OkStatus();
}

Task<absl::StatusOr<std::vector<VmRow>>> FakeStore::ListVms() {
  std::vector<VmRow> rows;
  for (const auto& [id, row] : vms_) rows.push_back(row);
  co_return rows;
}

Task<absl::Status> FakeStore::PutSession(const SessionRow& row) {
  CO_RETURN_IF_ERROR(TakeFailure());
  sessions_[row.id] = row;
  ++session_writes;
  co_return absl::OkStatus();
}

Task<absl::Status> FakeStore::DeleteSession(const std::string& id) {
  CO_RETURN_IF_ERROR(TakeFailure());
  sessions_.erase(id);
  notifications_.erase(id);
  co_return absl::OkStatus();
}

Task<absl::StatusOr<std::vector<SessionRow>>> FakeStore::ListSessions() {
  std::vector<SessionRow> rows;
  for (const auto& [id, row] : sessions_) rows.push_back(row);
  co_return rows;
}

Task<absl::Status> FakeStore::PutContainer(ContainerRow row) {
  CO_RETURN_IF_ERROR(TakeFailure());
  std::string id = row.id;
  containers_[std::move(id)] = std::move(row);
  co_return absl::OkStatus();
}

Task<absl::Status> FakeStore::DeleteContainer(std::string id) {
  CO_RETURN_IF_ERROR(TakeFailure());
  containers_.erase(id);
  co_return absl::OkStatus();
}

Task<absl::StatusOr<std::vector<ContainerRow>>> FakeStore::ListContainers() {
  std::vector<ContainerRow> rows;
  for (const auto& [id, row] : containers_) rows.push_back(row);
  co_return rows;
}

Task<absl::Status> FakeStore::PutJob(JobRow row) {
  CO_RETURN_IF_ERROR(TakeFailure());
  std::pair key(row.started_unix_ms, row.id);
  jobs_[std::move(key)] = std::move(row);
  co_return absl::OkStatus();
}

Task<absl::Status> FakeStore::DeleteJob(std::string id) {
  CO_RETURN_IF_ERROR(TakeFailure());
  std::erase_if(jobs_, [&](const auto& entry) { return entry.second.id == id; });
  co_return absl::OkStatus();
}

Task<absl::StatusOr<std::vector<JobRow>>> FakeStore::ListJobs() {
  std::vector<JobRow> rows;
  for (const auto& [key, row] : jobs_) rows.push_back(row);
  co_return rows;
}

Task<absl::Status> FakeStore::PutSnapshot(SnapshotRow row) {
  CO_RETURN_IF_ERROR(TakeFailure());
  std::pair<std::string, std::string> key(row.vm_id, row.tag);
  snapshots_[std::move(key)] = std::move(row);
  co_return absl::OkStatus();
}

Task<absl::Status> FakeStore::DeleteSnapshot(std::string vm_id, std::string tag) {
  CO_RETURN_IF_ERROR(TakeFailure());
  snapshots_.erase({vm_id, tag});
  co_return absl::OkStatus();
}

Task<absl::StatusOr<std::vector<SnapshotRow>>> FakeStore::ListSnapshots() {
  std::vector<SnapshotRow> rows;
  for (const auto& [key, row] : snapshots_) rows.push_back(row);
  co_return rows;
}

void FakeStore::KeepCheckpoints(std::vector<CheckpointRow> rows, std::optional<VmRow> vm) {
  for (CheckpointRow& row : rows) {
    std::pair<std::string, std::string> key(row.vm_id, row.name);
    checkpoints_[std::move(key)] = std::move(row);
  }
  if (!vm) return;
  std::string id = vm->id;
  vms_[std::move(id)] = *std::move(vm);
}

Task<absl::Status> FakeStore::PutCheckpoints(std::vector<CheckpointRow> rows,
                                             std::optional<VmRow> vm) {
  if (before_put_checkpoints) CO_RETURN_IF_ERROR(co_await before_put_checkpoints());
  CO_RETURN_IF_ERROR(TakeFailure());
  KeepCheckpoints(std::move(rows), std::move(vm));
  if (after_put_checkpoints) co_return co_await after_put_checkpoints();
  co_return absl::OkStatus();
}

Task<absl::Status> FakeStore::DeleteCheckpoint(std::string vm_id, std::string name,
                                               std::vector<CheckpointRow> others,
                                               std::optional<VmRow> vm) {
  CO_RETURN_IF_ERROR(TakeFailure());
  if (before_delete_checkpoint) CO_RETURN_IF_ERROR(co_await before_delete_checkpoint());
  checkpoints_.erase({vm_id, name});
  KeepCheckpoints(std::move(others), std::move(vm));
  co_return absl::OkStatus();
}

Task<absl::StatusOr<std::vector<CheckpointRow>>> FakeStore::ListCheckpoints() {
  std::vector<CheckpointRow> rows;
  for (const auto& [key, row] : checkpoints_) rows.push_back(row);
  co_return rows;
}

Task<absl::StatusOr<JournalRecord>> FakeStore::Append(JournalRecord record, AppendOptions options) {
  if (before_append) CO_RETURN_IF_ERROR(co_await before_append(record));
  CO_RETURN_IF_ERROR(TakeFailure());
  const JournalHead last = head();
  record.sequence = last.sequence + 1;
  record.hash = ChainHash(last.hash, record);
  journal_.push_back(record);
  if (options.vm) vms_[options.vm->id] = *options.vm;
  co_return record;
}

Task<absl::StatusOr<std::vector<JournalRecord>>> FakeStore::ReadJournal(
    const std::string& session_id) {
  std::vector<JournalRecord> records;
  for (const JournalRecord& record : journal_) {
    if (record.session_id == session_id) records.push_back(record);
  }
  co_return records;
}

Task<absl::StatusOr<std::vector<JournalRecord>>> FakeStore::ReadVmJournal(const std::string& vm_id,
                                                                          uint64_t after) {
  std::vector<JournalRecord> records;
  for (const JournalRecord& record : journal_) {
    if (record.vm_id == vm_id && record.sequence > after) records.push_back(record);
  }
  co_return records;
}

Task<absl::StatusOr<JournalHead>> FakeStore::Head() { co_return head(); }

Task<absl::Status> FakeStore::VerifyJournal() {
  JournalHead last;
  for (const JournalRecord& record : journal_) {
    CO_RETURN_IF_ERROR(CheckFollows(last, record));
    last = {record.sequence, record.hash};
  }
  co_return absl::OkStatus();
}

Task<absl::Status> FakeStore::PutNotification(NotificationRow row) {
  if (!takes_notifications) co_return absl::ResourceExhaustedError("the disk is full");
  auto& kept = notifications_[row.session_id];
  kept.erase(row.drop);
  kept[row.id] = std::move(row);
  co_return absl::OkStatus();
}

Task<absl::StatusOr<std::vector<NotificationRow>>> FakeStore::ReadNotifications(
    const std::string& session_id, uint32_t after, size_t limit) {
  std::vector<NotificationRow> rows;
  for (const auto& [id, row] : notifications_[session_id]) {
    if (id > after && rows.size() < limit) rows.push_back(row);
  }
  co_return rows;
}

Task<absl::StatusOr<EventRow>> FakeStore::AppendEvent(EventRow event) {
  CO_RETURN_IF_ERROR(TakeFailure());
  event.id = events_.size() + 1;
  events_.push_back(event);
  co_return event;
}

Task<absl::StatusOr<std::vector<EventRow>>> FakeStore::ReadEvents(uint64_t after, size_t limit) {
  std::vector<EventRow> events;
  for (const EventRow& event : events_) {
    if (event.id > after && events.size() < limit) events.push_back(event);
  }
  co_return events;
}

}  // namespace ferry::vm
