#pragma once

#include <google/protobuf/repeated_ptr_field.h>

#include <string>

#include "bridge/runtime/task.h"
#include "ferry/v1/error.pb.h"
#include "ferry/v1/migration.pb.h"

// What ferryctl shows before a migration, and when the hosts' machines do not fit.
namespace ferry::ctl {

class Client;

// `migrate --dry-run`: asks the source's daemon and prints what it found; 0 if the migration would
// be accepted, kRefused if not.
Task<int> DryRun(Client* client, v1::MigrateRequest request, bool json);

// A line for each check with what was found, and below it what to do about it; then the verdict.
std::string PreflightTable(const v1::PreflightResponse& response);

// Indented rows of field, source and destination; empty if there are no differences.
std::string DifferenceTable(const google::protobuf::RepeatedPtrField<v1::Difference>& differences);

}  // namespace ferry::ctl
