#include "vmmanager/store/journal_file.h"

#include <stdlib.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <optional>

#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/str_cat.h"
#include "vmmanager/store/journal_chain.h"

namespace ferry::vm {
namespace {

JournalRecord ToRecord(const SqliteStatement& read) {
  return {read.Number(0), read.Text(1), read.Text(2), read.Text(3),
          read.Number(4), read.Text(5), read.Text(6)};
}

struct RemoveOnExit {
  std::string folder;
  ~RemoveOnExit() {
    std::error_code ignored;
    std::filesystem::remove_all(folder, ignored);
  }
};

}  // namespace

absl::Status FollowJournal(SqliteConnection& connection, const JournalWitness& witness,
                           const std::function<void(JournalRecord)>& each) {
  ASSIGN_OR_RETURN(SqliteStatement read,
                   connection.Prepare("SELECT * FROM journal ORDER BY sequence"));
  ASSIGN_OR_RETURN(const std::optional<JournalHead> wanted, witness.Read());
  bool witnessed = !wanted.has_value();
  JournalHead head;
  while (true) {
    ASSIGN_OR_RETURN(const bool found, read.Step());
    if (!found) break;
    JournalRecord record = ToRecord(read);
    RETURN_IF_ERROR(CheckFollows(head, record));
    head = {record.sequence, record.hash};
    if (wanted && wanted->sequence == head.sequence) witnessed = wanted->hash == head.hash;
    each(std::move(record));
  }
  if (witnessed) return absl::OkStatus();
  return absl::DataLossError(StrCat("record ", wanted->sequence,
                                    " of the journal was begun and is not there; the newest is ",
                                    head.sequence));
}

absl::StatusOr<JournalReport> ReadJournalFile(const std::string& path) {
  std::string folder = (std::filesystem::temp_directory_path() / "ferry-journal-XXXXXX").string();
  if (::mkdtemp(folder.data()) == nullptr) {
    return absl::UnavailableError(StrCat("cannot make ", folder, ": ", std::strerror(errno)));
  }
  const RemoveOnExit remove{folder};
  const std::string copy = folder + "/ferry.db";
  std::error_code error;
  for (const char* suffix : {"", "-wal", "-witness"}) {
    const bool needed = *suffix == '\0';
    if (!needed && !std::filesystem::exists(path + suffix)) continue;
    std::filesystem::copy_file(path + suffix, copy + suffix, error);
    if (error) {
      return absl::NotFoundError(StrCat("cannot read ", path, suffix, ": ", error.message()));
    }
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<SqliteConnection> connection,
                   SqliteConnection::Open(copy));
  ASSIGN_OR_RETURN(const JournalWitness witness, JournalWitness::Open(copy + "-witness"));
  JournalReport report;
  report.intact = FollowJournal(*connection, witness, [&report](JournalRecord record) {
    report.records.push_back(std::move(record));
  });
  return report;
}

}  // namespace ferry::vm
