#pragma once

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

// Follows the chain from the first record, handing on each that verifies. DATA_LOSS, naming the
// first bad sequence, or if the witness knows of a decisive record that is not there.
absl::Status FollowJournal(SqliteConnection& connection, const JournalWitness& witness,
                           const std::function<void(JournalRecord)>& each);

struct JournalReport {
  std::vector<JournalRecord> records;  // up to the first bad one
  absl::Status intact;                 // see FollowJournal
};

// Reads the store at `path` through a private copy, so that nothing of it changes. Of a store that
// a daemon writes at the same time the newest records may be missing. An error: it is no store.
absl::StatusOr<JournalReport> ReadJournalFile(const std::string& path);

}  // namespace ferry::vm
