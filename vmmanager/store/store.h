#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/task.h"

// What a host remembers. Every write is durable when its task returns. Domain objects pass through
// as opaque text or bytes with the few columns that are searched for; their owners encode them.
namespace ferry::vm {

struct VmRow {
  std::string id;
  std::string name;
  std::string spec_json;        // ferry.v1.VmSpec
  std::string document_json;    // HCS machine document
  std::string desired_state;    // "running", "paused", "stopped"
  std::string adoption_record;  // empty when no VMM process belongs to it
  uint64_t epoch = 0;           // rises with every change of ownership between hosts
  uint64_t created_unix_ms = 0;
  std::string request_id;
  std::string state_reason;
  std::string guest_state;  // ferry.state.v1.GuestPayload bytes: processes, ports, ids
  std::string saved;        // ferry.state.v1.SavedRecord bytes; empty: it is not saved
  std::string disk_move;    // ferry.state.v1.DiskMoveRecord bytes; empty: no disk is being moved
  std::string save_draft;   // ferry.state.v1.SaveDraftRecord bytes; empty: it is not being saved
                            // to a file of its user's
};

// One session, as its controller encodes it; `decided` says that nothing more can happen in it.
struct SessionRow {
  std::string id;
  std::string vm_id;
  bool is_source = false;
  bool decided = false;
  uint64_t created_unix_ms = 0;
  std::string request_id;
  std::string session_bytes;  // ferry.v1.Session
};

struct ContainerRow {
  std::string id;
  std::string vm_id;
  std::string name;
  std::string record;  // ferry.state.v1.ContainerRecord
};

// Something long that was begun on this host, as its registry encodes it.
struct JobRow {
  std::string id;
  uint64_t started_unix_ms = 0;
  std::string job_bytes;  // ferry.v1.Job
};

// What is to be remembered of a snapshot in a VM's disks.
struct SnapshotRow {
  std::string vm_id;
  std::string tag;     // one of each in a VM
  std::string record;  // ferry.state.v1.SnapshotRecord
};

// What is to be remembered of a checkpoint of a VM.
struct CheckpointRow {
  std::string vm_id;
  std::string name;    // one of each in a VM
  std::string record;  // ferry.state.v1.CheckpointRecord
};

// One record of a session's commit protocol. Records are hash-chained over the whole journal, so
// that a lost or altered one is found.
struct JournalRecord {
  uint64_t sequence = 0;  // from 1, without gaps; filled by Append
  std::string session_id;
  std::string vm_id;
  std::string kind;  // e.g. "OPEN", "QUIESCED", "COMMIT", "GRANTED"
  uint64_t epoch = 0;
  std::string detail;  // opaque to the store: proofs, digests
  std::string hash;    // SHA-256 over the previous hash and this record; filled by Append
};

// Position in the journal, told to the peer so that a rolled-back journal is noticed.
struct JournalHead {
  uint64_t sequence = 0;
  std::string hash;
};

// What goes with a journal record.
struct AppendOptions {
  // Written in the same transaction: both are durable, or neither.
  std::optional<VmRow> vm;
  // The record gives the VM away or takes it, so its loss must be noticed. Its number and hash are
  // made durable beside the journal before it is written itself; see VerifyJournal().
  bool decisive = false;
};

// One notification of a session.
struct NotificationRow {
  std::string session_id;
  uint32_t id = 0;    // the session's own numbering, rising
  std::string bytes;  // ferry.v1.NotificationsResponse
  uint32_t drop = 0;  // that one goes in its place; 0: none
};

struct EventRow {
  uint64_t id = 0;  // filled by AppendEvent
  uint64_t unix_ms = 0;
  std::string type;
  std::string subject;
  std::vector<std::pair<std::string, std::string>> attributes;
};

class Store {
 public:
  virtual ~Store() = default;

  // A random id made with the store; a wiped or replaced store has another one.
  virtual const std::string& journal_id() const = 0;

  virtual Task<absl::Status> PutVm(const VmRow& row) = 0;
  // And what is remembered of its snapshots and checkpoints.
  virtual Task<absl::Status> DeleteVm(const std::string& id) = 0;
  virtual Task<absl::StatusOr<std::vector<VmRow>>> ListVms() = 0;

  virtual Task<absl::Status> PutSession(const SessionRow& row) = 0;
  // And its notifications.
  virtual Task<absl::Status> DeleteSession(const std::string& id) = 0;
  virtual Task<absl::StatusOr<std::vector<SessionRow>>> ListSessions() = 0;

  virtual Task<absl::Status> PutContainer(ContainerRow row) = 0;
  virtual Task<absl::Status> DeleteContainer(std::string id) = 0;
  virtual Task<absl::StatusOr<std::vector<ContainerRow>>> ListContainers() = 0;

  virtual Task<absl::Status> PutJob(JobRow row) = 0;
  virtual Task<absl::Status> DeleteJob(std::string id) = 0;
  // The oldest first.
  virtual Task<absl::StatusOr<std::vector<JobRow>>> ListJobs() = 0;

  virtual Task<absl::Status> PutSnapshot(SnapshotRow row) = 0;
  virtual Task<absl::Status> DeleteSnapshot(std::string vm_id, std::string tag) = 0;
  // Of all VMs.
  virtual Task<absl::StatusOr<std::vector<SnapshotRow>>> ListSnapshots() = 0;

  // All of these and the VM's row: all are durable, or none.
  virtual Task<absl::Status> PutCheckpoints(std::vector<CheckpointRow> rows,
                                            std::optional<VmRow> vm) = 0;
  // Puts `others` and the VM's row together with it: all is durable, or nothing.
  virtual Task<absl::Status> DeleteCheckpoint(std::string vm_id, std::string name,
                                              std::vector<CheckpointRow> others,
                                              std::optional<VmRow> vm) = 0;
  // Of all VMs.
  virtual Task<absl::StatusOr<std::vector<CheckpointRow>>> ListCheckpoints() = 0;

  // Appends and returns the record with sequence and hash filled. When this returns an error the
  // caller must take no step that depends on the record.
  virtual Task<absl::StatusOr<JournalRecord>> Append(JournalRecord record,
                                                     AppendOptions options) = 0;
  virtual Task<absl::StatusOr<std::vector<JournalRecord>>> ReadJournal(
      const std::string& session_id) = 0;
  // Those of a VM with a sequence above `after`, in order; of any session.
  virtual Task<absl::StatusOr<std::vector<JournalRecord>>> ReadVmJournal(const std::string& vm_id,
                                                                         uint64_t after) = 0;
  virtual Task<absl::StatusOr<JournalHead>> Head() = 0;
  // DATA_LOSS, naming the first bad sequence, if the chain does not verify, or if the newest
  // decisive record that was ever begun is not in it.
  virtual Task<absl::Status> VerifyJournal() = 0;

  // The exception to durability: what was put outlives this process at once, but the host only
  // together with the next record of any other kind, so that no record ever waits for its sync.
  virtual Task<absl::Status> PutNotification(NotificationRow row) = 0;
  // Those of a session with an id above `after`, in order.
  virtual Task<absl::StatusOr<std::vector<NotificationRow>>> ReadNotifications(
      const std::string& session_id, uint32_t after, size_t limit) = 0;

  // Events are numbered without gaps and kept up to a bound; the oldest go first.
  virtual Task<absl::StatusOr<EventRow>> AppendEvent(EventRow event) = 0;
  virtual Task<absl::StatusOr<std::vector<EventRow>>> ReadEvents(uint64_t after, size_t limit) = 0;
};

// Opens (or makes) the SQLite store at `path`, mode 0600, on a thread of its own; tasks resume on
// the caller's executor. FAILED_PRECONDITION if another process holds it or its version is unknown.
absl::StatusOr<std::unique_ptr<Store>> OpenSqliteStore(const std::string& path, Executor executor);

}  // namespace ferry::vm
