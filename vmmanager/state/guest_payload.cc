#include "vmmanager/state/guest_payload.h"

#include <set>
#include <utility>
#include <vector>

#include "vmmanager/state/any_payload.h"

namespace ferry::vm {
namespace {

using guest::ExitStatus;
using guest::GuestState;
using guest::ProcessState;
using guest::StreamState;

constexpr size_t kMaxIdBytes = 1024;

absl::Status Bad(const ProcessState& process, std::string_view problem) {
  return absl::InvalidArgumentError(
      StrCat("process ", process.pid, " cannot be carried over: ", problem));
}

absl::Status CheckStream(const ProcessState& process, const char* name, bool wanted, uint32_t port,
                         const StreamState& stream) {
  if (wanted != (port != 0)) {
    return Bad(process, StrCat(name, wanted ? " has no port" : " has a port but is not used"));
  }
  if (wanted && port < bridge::kFirstStdioPort) {
    return Bad(process, StrCat(name, " has port ", port, ", which is below the stdio ports"));
  }
  if (stream.spool.size() > kMaxSpoolBytes) {
    return Bad(process, StrCat(name, " has a spool of ", stream.spool.size(),
                               " bytes; the limit is ", kMaxSpoolBytes));
  }
  if (stream.spool_start > UINT64_MAX - stream.spool.size()) {
    return Bad(process, StrCat(name, " has a spool beyond the end of its stream"));
  }
  return absl::OkStatus();
}

absl::Status CheckProcess(const ProcessState& process) {
  if (process.wait_call_id <= 0) return Bad(process, "it has no outstanding wait");
  if (process.spec.command.empty()) return Bad(process, "it has no command");
  if (process.container_id.size() > kMaxIdBytes || process.attachment_id.size() > kMaxIdBytes ||
      process.request_id.size() > kMaxIdBytes) {
    return Bad(process, "an id of it is too long");
  }
  const bool has_stderr = !process.spec.terminal;
  RETURN_IF_ERROR(
      CheckStream(process, "stdin", process.spec.has_stdin, process.stdin_port, process.std_in));
  RETURN_IF_ERROR(CheckStream(process, "stdout", true, process.stdout_port, process.std_out));
  return CheckStream(process, "stderr", has_stderr, process.stderr_port, process.std_err);
}

// What is to be unique, and below the floors.
absl::Status CheckAll(const std::vector<ProcessState>& all, const GuestState& state) {
  std::set<uint32_t> ports;
  std::set<int64_t> waits;
  for (const ProcessState& process : all) {
    RETURN_IF_ERROR(CheckProcess(process));
    if (!waits.insert(process.wait_call_id).second) return Bad(process, "its wait is used twice");
    if (process.wait_call_id >= state.next_message_id) {
      return Bad(process, "its wait is not below the next message id");
    }
    for (const uint32_t port : {process.stdin_port, process.stdout_port, process.stderr_port}) {
      if (port == 0) continue;
      if (!ports.insert(port).second) return Bad(process, StrCat("port ", port, " is used twice"));
      if (port >= state.next_port) {
        return Bad(process, StrCat("port ", port, " is not below the next port"));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status CheckGuest(const GuestState& state) {
  if (state.processes.size() > kMaxProcesses || state.starting.size() > kMaxProcesses) {
    return absl::InvalidArgumentError(StrCat("the guest has ", state.processes.size(),
                                             " processes; the limit is ", kMaxProcesses));
  }
  if (state.next_message_id < 0) {
    return absl::InvalidArgumentError("the guest's next message id is negative");
  }
  if (state.next_port != 0 && state.next_port < bridge::kFirstStdioPort) {
    return absl::InvalidArgumentError(
        StrCat("the guest's next port ", state.next_port, " is below the stdio ports"));
  }
  uint32_t last_pid = 0;
  for (const ProcessState& process : state.processes) {
    if (process.pid == 0) return Bad(process, "it has no process id");
    if (process.pid <= last_pid) return Bad(process, "processes are not in order of their ids");
    last_pid = process.pid;
  }
  std::string last_container;
  for (const ProcessState& init : state.starting) {
    if (init.pid != 0 || init.exit_status) return Bad(init, "it was to be started, and is already");
    if (init.container_id <= last_container) return Bad(init, "its container is not in order");
    last_container = init.container_id;
  }
  std::vector<ProcessState> all = state.processes;
  all.insert(all.end(), state.starting.begin(), state.starting.end());
  return CheckAll(all, state);
}

void Put(const StreamState& stream, state::v1::StreamPayload& payload) {
  payload.set_generation(stream.taken.generation);
  payload.set_offset(stream.taken.offset);
  payload.set_ended(stream.ended);
  payload.set_spool_start(stream.spool_start);
  payload.set_spool(stream.spool);
  payload.set_went_back_at(stream.went_back_at);
}

StreamState Take(const state::v1::StreamPayload& payload) {
  return {{payload.generation(), payload.offset()},
          payload.ended(),
          payload.spool_start(),
          payload.spool(),
          payload.went_back_at()};
}

state::v1::ProcessPayload ProcessToPayload(const ProcessState& process) {
  state::v1::ProcessPayload payload;
  payload.set_schema_version(kStateSchemaVersion);
  payload.set_container_id(process.container_id);
  payload.set_pid(process.pid);
  payload.set_spec_json(ProcessSpecToJson(process.spec));
  payload.set_stdin_port(process.stdin_port);
  payload.set_stdout_port(process.stdout_port);
  payload.set_stderr_port(process.stderr_port);
  payload.set_wait_call_id(process.wait_call_id);
  Put(process.std_in, *payload.mutable_stdin());
  Put(process.std_out, *payload.mutable_stdout());
  Put(process.std_err, *payload.mutable_stderr());
  if (process.exit_status) {
    payload.set_exited(true);
    payload.set_exit_kind(static_cast<uint32_t>(process.exit_status->kind));
    payload.set_exit_value(process.exit_status->value);
  }
  payload.set_created_unix_ms(process.created_unix_ms);
  payload.set_attachment_id(process.attachment_id);
  payload.set_request_id(process.request_id);
  return payload;
}

absl::StatusOr<ProcessState> ProcessFromPayload(const state::v1::ProcessPayload& payload) {
  ProcessState process;
  process.container_id = payload.container_id();
  process.pid = payload.pid();
  ASSIGN_OR_RETURN(process.spec, ProcessSpecFromJson(payload.spec_json()));
  process.stdin_port = payload.stdin_port();
  process.stdout_port = payload.stdout_port();
  process.stderr_port = payload.stderr_port();
  process.wait_call_id = payload.wait_call_id();
  process.std_in = Take(payload.stdin());
  process.std_out = Take(payload.stdout());
  process.std_err = Take(payload.stderr());
  if (payload.exited()) {
    if (payload.exit_kind() > static_cast<uint32_t>(ExitStatus::Kind::kUnknown)) {
      return Bad(process, StrCat("exit kind ", payload.exit_kind(), " is not known"));
    }
    process.exit_status = {static_cast<ExitStatus::Kind>(payload.exit_kind()),
                           payload.exit_value()};
  } else if (payload.exit_kind() != 0 || payload.exit_value() != 0) {
    return Bad(process, "it has an exit status but has not exited");
  }
  process.created_unix_ms = payload.created_unix_ms();
  process.attachment_id = payload.attachment_id();
  process.request_id = payload.request_id();
  return process;
}

absl::StatusOr<std::vector<ProcessState>> TakeProcesses(
    const google::protobuf::RepeatedPtrField<google::protobuf::Any>& payloads) {
  if (static_cast<size_t>(payloads.size()) > kMaxProcesses) {
    return absl::InvalidArgumentError(StrCat("the saved state holds ", payloads.size(),
                                             " processes; the limit is ", kMaxProcesses));
  }
  std::vector<ProcessState> processes;
  for (const google::protobuf::Any& any : payloads) {
    state::v1::ProcessPayload payload;
    RETURN_IF_ERROR(UnpackPayload(any, payload));
    ASSIGN_OR_RETURN(ProcessState process, ProcessFromPayload(payload));
    processes.push_back(std::move(process));
  }
  return processes;
}

}  // namespace

absl::StatusOr<state::v1::GuestPayload> ToPayload(const GuestState& state) {
  RETURN_IF_ERROR(CheckGuest(state));
  state::v1::GuestPayload payload;
  payload.set_schema_version(kStateSchemaVersion);
  payload.set_next_port(state.next_port);
  payload.set_bridge_next_id(state.next_message_id);
  payload.set_started_unix_ms(state.started_unix_ms);
  payload.set_timeline(state.timeline);
  for (const ProcessState& process : state.processes) {
    payload.add_processes()->PackFrom(ProcessToPayload(process));
  }
  for (const ProcessState& init : state.starting) {
    payload.add_starting()->PackFrom(ProcessToPayload(init));
  }
  return payload;
}

absl::StatusOr<GuestState> FromPayload(const state::v1::GuestPayload& payload) {
  GuestState state;
  state.next_port = payload.next_port();
  state.next_message_id = payload.bridge_next_id();
  state.started_unix_ms = payload.started_unix_ms();
  state.timeline = payload.timeline();
  ASSIGN_OR_RETURN(state.processes, TakeProcesses(payload.processes()));
  ASSIGN_OR_RETURN(state.starting, TakeProcesses(payload.starting()));
  RETURN_IF_ERROR(CheckGuest(state));
  return state;
}

}  // namespace ferry::vm
