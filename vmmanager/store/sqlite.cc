#include "vmmanager/store/sqlite.h"

#include <sqlite3.h>

#include <cerrno>
#include <cstring>

#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/str_cat.h"

namespace ferry::vm {
namespace {

// To be called right after a call that began with errno 0. SQLite tells only a full disk from other
// write errors; a quota or a limit on the file's size is the same to whoever has to make room.
absl::Status ToStatus(sqlite3* database, int result) {
  const int error = errno;
  const char* path = sqlite3_db_filename(database, "main");
  std::string text =
      StrCat("the store ", path == nullptr ? "" : path, ": ", sqlite3_errmsg(database));
  if ((result & 0xff) == SQLITE_IOERR && error != 0) {
    text += StrCat(" (", std::strerror(error), ")");
    if (error == ENOSPC || error == EDQUOT || error == EFBIG) result = SQLITE_FULL;
  }
  switch (result & 0xff) {
    case SQLITE_FULL:
      return absl::ResourceExhaustedError(StrCat(text, "; free space on its disk"));
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return absl::FailedPreconditionError(
          StrCat(text, "; another process holds it; stop that one or use another store"));
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return absl::DataLossError(text);
    case SQLITE_TOOBIG:
      return absl::InvalidArgumentError(text);
    case SQLITE_PERM:
    case SQLITE_READONLY:
    case SQLITE_AUTH:
      return absl::PermissionDeniedError(text);
    default:
      return absl::UnavailableError(text);
  }
}

}  // namespace

void SqliteStatement::Finalize::operator()(sqlite3_stmt* statement) const {
  sqlite3_finalize(statement);
}

void SqliteStatement::Note(int result) {
  if (bind_error_ == SQLITE_OK) bind_error_ = result;
}

SqliteStatement& SqliteStatement::Bind(const std::string& value) {
  Note(sqlite3_bind_blob64(statement_.get(), ++bound_, value.data(), value.size(),
                           SQLITE_TRANSIENT));
  return *this;
}

SqliteStatement& SqliteStatement::BindText(const std::string& value) {
  Note(sqlite3_bind_text64(statement_.get(), ++bound_, value.data(), value.size(), SQLITE_TRANSIENT,
                           SQLITE_UTF8));
  return *this;
}

SqliteStatement& SqliteStatement::Bind(uint64_t value) {
  Note(sqlite3_bind_int64(statement_.get(), ++bound_, static_cast<int64_t>(value)));
  return *this;
}

absl::StatusOr<bool> SqliteStatement::Step() {
  if (bind_error_ != SQLITE_OK) return ToStatus(database_, bind_error_);
  errno = 0;
  const int result = sqlite3_step(statement_.get());
  if (result == SQLITE_ROW) return true;
  if (result == SQLITE_DONE) return false;
  return ToStatus(database_, result);
}

absl::Status SqliteStatement::Run() { return Step().status(); }

std::string SqliteStatement::Text(int column) const {
  const void* bytes = sqlite3_column_blob(statement_.get(), column);
  const int size = sqlite3_column_bytes(statement_.get(), column);
  if (bytes == nullptr) return "";
  return std::string(static_cast<const char*>(bytes), size);
}

uint64_t SqliteStatement::Number(int column) const {
  return static_cast<uint64_t>(sqlite3_column_int64(statement_.get(), column));
}

void SqliteConnection::Close::operator()(sqlite3* database) const { sqlite3_close_v2(database); }

absl::StatusOr<std::unique_ptr<SqliteConnection>> SqliteConnection::Open(const std::string& path) {
  sqlite3* database = nullptr;
  errno = 0;
  const int result = sqlite3_open_v2(path.c_str(), &database, SQLITE_OPEN_READWRITE, nullptr);
  std::unique_ptr<SqliteConnection> connection(new SqliteConnection(database));
  if (result != SQLITE_OK) return ToStatus(database, result);
  return connection;
}

absl::StatusOr<SqliteStatement> SqliteConnection::Prepare(const std::string& sql) {
  sqlite3_stmt* statement = nullptr;
  errno = 0;
  const int result = sqlite3_prepare_v2(database_.get(), sql.data(), static_cast<int>(sql.size()),
                                        &statement, nullptr);
  if (result != SQLITE_OK) return ToStatus(database_.get(), result);
  return SqliteStatement(database_.get(), statement);
}

absl::Status SqliteConnection::Execute(const std::string& sql) {
  errno = 0;
  const int result = sqlite3_exec(database_.get(), sql.c_str(), nullptr, nullptr, nullptr);
  return result == SQLITE_OK ? absl::OkStatus() : ToStatus(database_.get(), result);
}

absl::Status SqliteTransaction::Begin() {
  RETURN_IF_ERROR(connection_.Execute("BEGIN IMMEDIATE"));
  open_ = true;
  return absl::OkStatus();
}

absl::Status SqliteTransaction::Commit() {
  RETURN_IF_ERROR(connection_.Execute("COMMIT"));
  open_ = false;
  return absl::OkStatus();
}

SqliteTransaction::~SqliteTransaction() {
  // An error that aborted the transaction has rolled it back already.
  if (open_) connection_.Execute("ROLLBACK").IgnoreError();
}

}  // namespace ferry::vm
