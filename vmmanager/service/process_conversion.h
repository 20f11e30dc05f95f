#pragma once

#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "ferry/v1/guest.pb.h"
#include "guestmanager/process.h"

// ferry.v1's process messages and guestmanager's structs.
namespace ferry::vm {

// INVALID_ARGUMENT names the member that cannot be.
absl::StatusOr<guest::ProcessSpec> ToSpec(const v1::ProcessSpec& spec);

v1::ExitStatus ToProto(const guest::ExitStatus& status);
v1::Process ToProto(const std::string& vm_id, const guest::Process& process);

v1::StdioStream ToProto(guest::Stream stream);
// kStdin for everything that is no output stream.
guest::Stream ToStream(v1::StdioStream stream);

// One answer's part of both output streams.
using ReadStream = std::function<absl::StatusOr<guest::KeptOutput>(guest::Stream stream,
                                                                   uint64_t since, size_t limit)>;
absl::StatusOr<v1::ReadOutputResponse> ReadParts(uint64_t stdout_since, uint64_t stderr_since,
                                                 const ReadStream& read);

}  // namespace ferry::vm
