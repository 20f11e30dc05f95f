#include "vmmanager/store/migrations.h"

#include <iterator>

#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/str_cat.h"
#include "vmmanager/store/journal_chain.h"

namespace ferry::vm {
namespace {

constexpr char kVersion1[] = R"sql(
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
)sql";

constexpr char kVersion2[] = R"sql(
CREATE TABLE notifications (
  session_id TEXT NOT NULL, id INTEGER NOT NULL, bytes BLOB NOT NULL,
  PRIMARY KEY (session_id, id)) WITHOUT ROWID;
)sql";

constexpr char kVersion3[] = R"sql(
CREATE TABLE containers (
  id TEXT PRIMARY KEY, vm_id BLOB NOT NULL, name BLOB NOT NULL, record BLOB NOT NULL)
  WITHOUT ROWID;
)sql";

constexpr char kVersion4[] = "ALTER TABLE vms ADD COLUMN saved BLOB NOT NULL DEFAULT x''";

constexpr char kVersion5[] = R"sql(
CREATE TABLE jobs (
  id TEXT PRIMARY KEY, started_unix_ms INTEGER NOT NULL, job_bytes BLOB NOT NULL) WITHOUT ROWID;
)sql";

constexpr char kVersion6[] = R"sql(
CREATE TABLE snapshots (
  vm_id TEXT NOT NULL, tag TEXT NOT NULL, record BLOB NOT NULL, PRIMARY KEY (vm_id, tag))
  WITHOUT ROWID;
)sql";

constexpr char kVersion7[] = R"sql(
CREATE TABLE checkpoints (
  vm_id TEXT NOT NULL, name TEXT NOT NULL, record BLOB NOT NULL, PRIMARY KEY (vm_id, name))
  WITHOUT ROWID;
)sql";

constexpr char kVersion8[] = "ALTER TABLE vms ADD COLUMN disk_move BLOB NOT NULL DEFAULT x''";

constexpr char kVersion9[] = "ALTER TABLE vms ADD COLUMN save_draft BLOB NOT NULL DEFAULT x''";

// What each version adds to the one before it. A step is never changed once it was released.
constexpr const char* kSteps[] = {kVersion1, kVersion2, kVersion3, kVersion4, kVersion5,
                                  kVersion6, kVersion7, kVersion8, kVersion9};
static_assert(std::size(kSteps) == kStoreVersion);

// FAILED_PRECONDITION if there are tables, but not those of a store: nothing is added to a file
// that belongs to another program.
absl::Status CheckOurs(SqliteConnection& connection) {
  ASSIGN_OR_RETURN(SqliteStatement count,
                   connection.Prepare("SELECT (SELECT COUNT(*) FROM sqlite_schema), "
                                      "(SELECT COUNT(*) FROM pragma_table_info('store') "
                                      "WHERE name IN ('version', 'journal_id'))"));
  RETURN_IF_ERROR(count.Step().status());
  if (count.Number(0) == 0 || count.Number(1) == 2) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "the store's file belongs to another program; move it away or use another path");
}

absl::Status CheckVersion(uint64_t version) {
  if (version != 0 && version <= kStoreVersion) return absl::OkStatus();
  return absl::FailedPreconditionError(StrCat("the store has version ", version,
                                              " but this ferryd knows up to ", kStoreVersion,
                                              "; run the newer ferryd, or move the store away"));
}

}  // namespace

absl::Status CheckStoreIsKnown(SqliteConnection& connection) {
  ASSIGN_OR_RETURN(SqliteStatement count,
                   connection.Prepare("SELECT COUNT(*) FROM sqlite_schema WHERE type = 'table' AND "
                                      "name IN ('store', 'journal')"));
  RETURN_IF_ERROR(count.Step().status());
  if (count.Number(0) != 2) {
    return absl::FailedPreconditionError("this is no store of Ferry's: it has no journal");
  }
  ASSIGN_OR_RETURN(SqliteStatement read, connection.Prepare("SELECT version FROM store"));
  ASSIGN_OR_RETURN(const bool found, read.Step());
  return CheckVersion(found ? read.Number(0) : 0);
}

absl::StatusOr<std::string> MigrateStore(SqliteConnection& connection) {
  SqliteTransaction transaction(connection);
  RETURN_IF_ERROR(transaction.Begin());
  RETURN_IF_ERROR(CheckOurs(connection));
  RETURN_IF_ERROR(connection.Execute(
      "CREATE TABLE IF NOT EXISTS store (version INTEGER NOT NULL, journal_id BLOB NOT NULL)"));
  std::string journal_id;
  uint64_t version = 0;
  {
    ASSIGN_OR_RETURN(SqliteStatement read,
                     connection.Prepare("SELECT version, journal_id FROM store"));
    ASSIGN_OR_RETURN(const bool found, read.Step());
    if (found) {
      version = read.Number(0);
      RETURN_IF_ERROR(CheckVersion(version));
      journal_id = read.Text(1);
    }
  }
  for (uint64_t step = version; step < kStoreVersion; ++step) {
    RETURN_IF_ERROR(connection.Execute(kSteps[step]));
  }
  if (version == 0) {
    ASSIGN_OR_RETURN(journal_id, MakeJournalId());
    ASSIGN_OR_RETURN(SqliteStatement write, connection.Prepare("INSERT INTO store VALUES (?, ?)"));
    RETURN_IF_ERROR(write.Bind(kStoreVersion).Bind(journal_id).Run());
  } else if (version < kStoreVersion) {
    RETURN_IF_ERROR(connection.Execute(StrCat("UPDATE store SET version = ", kStoreVersion)));
  }
  RETURN_IF_ERROR(transaction.Commit());
  return journal_id;
}

}  // namespace ferry::vm
