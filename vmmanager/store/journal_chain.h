#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vmmanager/store/store.h"

// The journal's hash chain, the same for every store.
namespace ferry::vm {

// SHA-256 over the previous record's hash ("" for the first) and the length-delimited fields.
std::string ChainHash(const std::string& previous_hash, const JournalRecord& record);

// DATA_LOSS, naming the first bad sequence, unless `record` follows `head`.
absl::Status CheckFollows(const JournalHead& head, const JournalRecord& record);

// A new journal's id: random, in hex, because it travels in text fields.
absl::StatusOr<std::string> MakeJournalId();

}  // namespace ferry::vm
