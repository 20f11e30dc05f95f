#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vmmanager/store/journal_witness.h"
#include "vmmanager/store/sqlite.h"
#include "vmmanager/store/store.h"

// Reading a whole journal: what the store does on start, and what a person does who asks what a
// host has decided.
namespace ferry::vm {

// A row of "SELECT * FROM journal".
JournalRecord ToRecord(const SqliteStatement& read);

// Follows the chain from the first record, handing on each that verifies. DATA_LOSS, naming the
// first bad sequence, or if the witness knows of a decisive record that is not there.
absl::Status FollowJournal(SqliteConnection& connection, const JournalWitness& witness,
                           const std::function<void(JournalRecord)>& each);

struct JournalReport {
  std::vector<JournalRecord> records;  // up to the first bad one
  absl::Status intact;                 // OK, or DATA_LOSS; see FollowJournal
};

struct JournalReading {
  // For a record that was begun and is not there: a daemon may just be writing it.
  std::chrono::milliseconds patience{2000};
  // For tests: called whenever the files have been copied.
  std::function<void()> copied = [] {};
};

// Reads the store at `path` through a private copy, so that nothing of it changes; a daemon may
// write it at the same time. NOT_FOUND if there is none; UNAVAILABLE if a daemon writes so much
// that no copy of one moment can be had; FAILED_PRECONDITION if it is of a version that is not
// known; anything else: it is no store. Blocks.
absl::StatusOr<JournalReport> ReadJournalFile(const std::string& path,
                                              const JournalReading& reading = {});

}  // namespace ferry::vm
