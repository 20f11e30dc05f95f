#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "tools/ferryctl/command.h"

namespace ferry::ctl {

// Two traces in Trace Event Format as one.
absl::StatusOr<std::string> MergeTraces(std::string_view one, std::string_view other);

// `ferryctl migration trace`: a session's timeline, with the other host's half of it if that can be
// reached, to `file` ("": stdout).
Task<int> PrintTrace(Client* client, std::string session_id, std::string file);

}  // namespace ferry::ctl
