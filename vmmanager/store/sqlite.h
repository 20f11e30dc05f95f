#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

struct sqlite3;
struct sqlite3_stmt;

// A thin layer over SQLite: ownership, bound parameters and statuses. One thread at a time.
namespace ferry::vm {

class SqliteConnection;

// One prepared statement. Parameters are bound in order by Bind(); text and bytes are blobs.
class SqliteStatement {
 public:
  SqliteStatement& Bind(const std::string& value);
  SqliteStatement& BindText(const std::string& value);
  SqliteStatement& Bind(uint64_t value);

  // True when there is a row.
  absl::StatusOr<bool> Step();
  // Steps a statement that returns no rows.
  absl::Status Run();

  std::string Text(int column) const;
  uint64_t Number(int column) const;

 private:
  friend class SqliteConnection;
  struct Finalize {
    void operator()(sqlite3_stmt* statement) const;
  };
  SqliteStatement(sqlite3* database, sqlite3_stmt* statement)
      : database_(database), statement_(statement) {}
  void Note(int result);

  sqlite3* database_;
  std::unique_ptr<sqlite3_stmt, Finalize> statement_;
  int bound_ = 0;
  int bind_error_ = 0;
};

class SqliteConnection {
 public:
  static absl::StatusOr<std::unique_ptr<SqliteConnection>> Open(const std::string& path);

  absl::StatusOr<SqliteStatement> Prepare(const std::string& sql);
  absl::Status Execute(const std::string& sql);

 private:
  struct Close {
    void operator()(sqlite3* database) const;
  };
  explicit SqliteConnection(sqlite3* database) : database_(database) {}
  std::unique_ptr<sqlite3, Close> database_;
};

// Rolls back unless committed.
class SqliteTransaction {
 public:
  explicit SqliteTransaction(SqliteConnection& connection) : connection_(connection) {}
  ~SqliteTransaction();
  SqliteTransaction(const SqliteTransaction&) = delete;
  SqliteTransaction& operator=(const SqliteTransaction&) = delete;
  absl::Status Begin();
  absl::Status Commit();

 private:
  SqliteConnection& connection_;
  bool open_ = false;
};

}  // namespace ferry::vm
