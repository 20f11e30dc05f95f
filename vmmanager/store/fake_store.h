#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "vmmanager/store/store.h"

namespace ferry::vm {

// A store in memory. FailNext makes one later write fail, as a full disk would.
class FakeStore final : public Store {
 public:
  explicit FakeStore(std::string journal_id = "fake-journal");

  // Behind so many that succeed.
  void FailNext(absl::Status status, int after = 0) {
    failure_ = std::move(status);
    before_failure_ = after;
  }
  // Runs before each record is appended: to wait there, or to fail.
  std::function<Task<absl::Status>(JournalRecord)> before_append;
  // Runs before checkpoints are written down: to wait there, or to fail.
  std::function<Task<absl::Status>()> before_put_checkpoints;
  // Runs when they are, and nobody knows it yet.
  std::function<Task<absl::Status>()> after_put_checkpoints;
  // Runs before a checkpoint's row is deleted: to fail.
  std::function<Task<absl::Status>()> before_delete_checkpoint;
  // Runs before a VM's row is deleted: to fail.
  std::function<absl::Status(const std::string& id)> before_delete_vm;
  std::vector<JournalRecord>& journal() { return journal_; }
  size_t session_writes = 0;  // so far, of any session's row
  bool takes_notifications = true;

  const std::string& journal_id() const override { return journal_id_; }
  Task<absl::Status> PutVm(const VmRow& row) override;
  Task<absl::Status> DeleteVm(const std::string& id) override;
  Task<absl::StatusOr<std::vector<VmRow>>> ListVms() override;
  Task<absl::Status> PutSession(const SessionRow& row) override;
  Task<absl::Status> DeleteSession(const std::string& id) override;
  Task<absl::StatusOr<std::vector<SessionRow>>> ListSessions() override;
  Task<absl::Status> PutContainer(ContainerRow row) override;
  Task<absl::Status> DeleteContainer(std::string id) override;
  Task<absl::StatusOr<std::vector<ContainerRow>>> ListContainers() override;
  Task<absl::Status> PutJob(JobRow row) override;
  Task<absl::Status> DeleteJob(std::string id) override;
  Task<absl::StatusOr<std::vector<JobRow>>> ListJobs() override;
  Task<absl::Status> PutSnapshot(SnapshotRow row) override;
  Task<absl::Status> DeleteSnapshot(std::string vm_id, std::string tag) override;
  Task<absl::StatusOr<std::vector<SnapshotRow>>> ListSnapshots() override;
  Task<absl::Status> PutCheckpoints(std::vector<CheckpointRow> rows,
                                    std::optional<VmRow> vm) override;
  Task<absl::Status> DeleteCheckpoint(std::string vm_id, std::string name,
                                      std::vector<CheckpointRow> others,
                                      std::optional<VmRow> vm) override;
  Task<absl::StatusOr<std::vector<CheckpointRow>>> ListCheckpoints() override;
  // The same at once.
  const CheckpointRow& CheckpointOf(const std::string& vm_id, const std::string& name) const {
    return checkpoints_.at({vm_id, name});
  }
  Task<absl::StatusOr<JournalRecord>> Append(JournalRecord record, AppendOptions options) override;
  Task<absl::StatusOr<std::vector<JournalRecord>>> ReadJournal(
      const std::string& session_id) override;
  Task<absl::StatusOr<std::vector<JournalRecord>>> ReadVmJournal(const std::string& vm_id,
                                                                 uint64_t after) override;
  Task<absl::StatusOr<JournalHead>> Head() override;
  Task<absl::Status> VerifyJournal() override;
  Task<absl::Status> PutNotification(NotificationRow row) override;
  Task<absl::StatusOr<std::vector<NotificationRow>>> ReadNotifications(
      const std::string& session_id, uint32_t after, size_t limit) override;
  Task<absl::StatusOr<EventRow>> AppendEvent(EventRow event) override;
  Task<absl::StatusOr<std::vector<EventRow>>> ReadEvents(uint64_t after, size_t limit) override;

 private:
  absl::Status TakeFailure();
  JournalHead head() const;
  void KeepCheckpoints(std::vector<CheckpointRow> rows, std::optional<VmRow> vm);

  std::string journal_id_;
  std::optional<absl::Status> failure_;
  int before_failure_ = 0;
  std::map<std::string, VmRow> vms_;
  std::map<std::string, SessionRow> sessions_;
  std::map<std::string, ContainerRow> containers_;
  std::map<std::pair<uint64_t, std::string>, JobRow> jobs_;                   // by start and id
  std::map<std::pair<std::string, std::string>, SnapshotRow> snapshots_;      // by VM and tag
  std::map<std::pair<std::string, std::string>, CheckpointRow> checkpoints_;  // by VM and name
  std::map<std::string, std::map<uint32_t, NotificationRow>> notifications_;  // by session
  std::vector<JournalRecord> journal_;
  std::vector<EventRow> events_;
};

}  // namespace ferry::vm
