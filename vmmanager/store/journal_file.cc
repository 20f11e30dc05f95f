#include "vmmanager/store/journal_file.h"

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <optional>

#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/str_cat.h"
#include "bridge/runtime/unique_fd.h"
#include "vmmanager/store/journal_chain.h"
#include "vmmanager/store/migrations.h"

namespace ferry::vm {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kAttempts = 20;

// The files of a store, in the order in which they are copied. The witness is the first, because
// the daemon writes it before the record that it names: so it never knows more than the others.
constexpr std::array kSuffixes = {"-witness", "", "-wal"};

struct RemoveOnExit {
  std::string folder;
  ~RemoveOnExit() {
    std::error_code ignored;
    std::filesystem::remove_all(folder, ignored);
  }
};

// What a write to a file changes.
struct FileMark {
  bool there = false;
  int64_t size = 0;
  int64_t modified_ns = 0;
  std::string head;  // of the log: its salts, which are new whenever it is begun again

  bool operator==(const FileMark&) const = default;
};
using StoreMark = std::array<FileMark, kSuffixes.size()>;

FileMark MarkOf(const std::string& path) {
  constexpr size_t kHead = 32;
  FileMark mark;
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat status {};
  if (!fd.valid() || ::fstat(fd.get(), &status) != 0) return mark;
  mark.there = true;
  mark.size = status.st_size;
  mark.modified_ns = int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec;
  mark.head.resize(kHead);
  const ssize_t size = ::pread(fd.get(), mark.head.data(), mark.head.size(), 0);
  mark.head.resize(static_cast<size_t>(std::max<ssize_t>(size, 0)));
  return mark;
}

StoreMark MarksOf(const std::string& path) {
  StoreMark marks;
  for (size_t i = 0; i < kSuffixes.size(); ++i) marks[i] = MarkOf(path + kSuffixes[i]);
  return marks;
}

absl::Status CopyFiles(const std::string& path, const std::string& copy) {
  for (const char* suffix : kSuffixes) {
    std::error_code error;
    std::filesystem::remove(copy + suffix, error);
    std::filesystem::copy_file(path + suffix, copy + suffix, error);
    const bool needed = *suffix == '\0';
    const bool absent = error == std::errc::no_such_file_or_directory;
    if (!error || (absent && !needed)) continue;
    const std::string text = StrCat("cannot read ", path, suffix, ": ", error.message());
    return absent ? absl::NotFoundError(text) : absl::UnavailableError(text);
  }
  return absl::OkStatus();
}

// All files as they were at one moment.
absl::Status CopyStore(const std::string& path, const std::string& copy,
                       const std::function<void()>& copied) {
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    const StoreMark before = MarksOf(path);
    RETURN_IF_ERROR(CopyFiles(path, copy));
    copied();
    if (MarksOf(path) == before) return absl::OkStatus();
  }
  return absl::UnavailableError(StrCat("cannot read ", path, ": the daemon writes; try again"));
}

// Notices writes to the files of a folder from its making on.
class FolderWatch {
 public:
  explicit FolderWatch(const std::string& file) : fd_(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK)) {
    const std::string parent = std::filesystem::path(file).parent_path().string();
    const char* folder = parent.empty() ? "." : parent.c_str();
    if (fd_.valid() && ::inotify_add_watch(fd_.get(), folder, IN_MODIFY | IN_CREATE) < 0) {
      fd_ = UniqueFd();
    }
  }

  // False if none came until then.
  bool AwaitWrite(Clock::time_point until) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now()).count();
    if (!fd_.valid() || left <= 0) return false;
    pollfd waiting{fd_.get(), POLLIN, 0};
    if (::poll(&waiting, 1, static_cast<int>(left)) <= 0) return false;
    std::array<char, 4096> told{};
    while (::read(fd_.get(), told.data(), told.size()) > 0) {
    }
    return true;
  }

 private:
  UniqueFd fd_;
};

struct Following {
  JournalReport report;
  // The witness's record is the one that comes next: begun, and lost or yet to be written.
  bool next_was_begun = false;
};

absl::StatusOr<Following> FollowCopy(const std::string& copy) {
  ASSIGN_OR_RETURN(const std::unique_ptr<SqliteConnection> connection,
                   SqliteConnection::Open(copy));
  RETURN_IF_ERROR(CheckStoreIsKnown(*connection));
  ASSIGN_OR_RETURN(const JournalWitness witness, JournalWitness::Open(copy + "-witness"));
  Following following;
  JournalReport& report = following.report;
  report.intact = FollowJournal(*connection, witness, [&report](JournalRecord record) {
    report.records.push_back(std::move(record));
  });
  if (report.intact.ok()) return following;
  if (!absl::IsDataLoss(report.intact)) return report.intact;
  const auto begun = witness.Read();
  const uint64_t newest = report.records.empty() ? 0 : report.records.back().sequence;
  following.next_was_begun = begun.ok() && begun->has_value() && (*begun)->sequence == newest + 1;
  return following;
}

absl::Status CannotBeRead(const absl::Status& status, const std::string& path) {
  return absl::Status(status.code(), StrCat(path, " cannot be read: ", status.message()));
}

}  // namespace

JournalRecord ToRecord(const SqliteStatement& read) {
  return {read.Number(0), read.Text(1), read.Text(2), read.Text(3),
          read.Number(4), read.Text(5), read.Text(6)};
}

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

absl::StatusOr<JournalReport> ReadJournalFile(const std::string& path,
                                              const JournalReading& reading) {
  std::error_code error;
  const std::filesystem::path temporary = std::filesystem::temp_directory_path(error);
  if (error) return absl::UnavailableError(StrCat("no folder for a copy: ", error.message()));
  std::string folder = (temporary / "ferry-journal-XXXXXX").string();
  if (::mkdtemp(folder.data()) == nullptr) {
    return absl::UnavailableError(StrCat("cannot make ", folder, ": ", std::strerror(errno)));
  }
  const RemoveOnExit remove{folder};
  const std::string copy = folder + "/ferry.db";
  const auto until = Clock::now() + reading.patience;
  FolderWatch watch(path);
  while (true) {
    RETURN_IF_ERROR(CopyStore(path, copy, reading.copied));
    auto following = FollowCopy(copy);
    if (!following.ok()) return CannotBeRead(following.status(), path);
    if (!following->next_was_begun || !watch.AwaitWrite(until)) {
      return std::move(following->report);
    }
  }
}

}  // namespace ferry::vm
