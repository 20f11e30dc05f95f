#include "vmmanager/service/process_conversion.h"

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::vm {
namespace {

constexpr int kMaxArguments = 4096;
constexpr size_t kMaxTextBytes = 48 * 1024;  // a bridge message holds 64 KiB
constexpr uint32_t kMaxTerminal = 4096;
constexpr size_t kOutputPart = 512 * 1024;  // of one stream, in one answer

}  // namespace

absl::StatusOr<guest::ProcessSpec> ToSpec(const v1::ProcessSpec& from) {
  if (from.command_size() == 0 || from.command(0).empty()) {
    return absl::InvalidArgumentError("there is no command; give one after --");
  }
  if (from.command_size() > kMaxArguments || from.ByteSizeLong() > kMaxTextBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the command and its environment are too long; together they may have ",
                     kMaxTextBytes, " bytes"));
  }
  if (from.terminal_size().rows() > kMaxTerminal || from.terminal_size().columns() > kMaxTerminal) {
    return absl::InvalidArgumentError(
        absl::StrCat("the terminal size must be at most ", kMaxTerminal, " x ", kMaxTerminal));
  }
  guest::ProcessSpec to;
  to.command.assign(from.command().begin(), from.command().end());
  to.environment.insert(from.environment().begin(), from.environment().end());
  to.working_directory = from.working_directory();
  to.has_stdin = from.has_stdin();
  to.terminal = from.terminal();
  to.rows = from.terminal_size().rows();
  to.columns = from.terminal_size().columns();
  to.detached = from.detached();
  return to;
}

v1::ExitStatus ToProto(const guest::ExitStatus& status) {
  v1::ExitStatus proto;
  switch (status.kind) {
    case guest::ExitStatus::Kind::kCode:
      proto.set_code(status.value);
      break;
    case guest::ExitStatus::Kind::kSignal:
      proto.set_signal(status.value);
      break;
    case guest::ExitStatus::Kind::kUnknown:
      proto.set_unknown(true);
      break;
  }
  return proto;
}

v1::Process ToProto(const std::string& vm_id, const guest::Process& process) {
  const guest::ProcessSpec& spec = process.spec();
  v1::Process proto;
  proto.set_id(process.pid());
  proto.set_vm_id(vm_id);
  for (const std::string& word : spec.command) proto.mutable_spec()->add_command(word);
  for (const auto& [name, value] : spec.environment) {
    (*proto.mutable_spec()->mutable_environment())[name] = value;
  }
  proto.mutable_spec()->set_working_directory(spec.working_directory);
  proto.mutable_spec()->set_has_stdin(spec.has_stdin);
  proto.mutable_spec()->set_terminal(spec.terminal);
  proto.mutable_spec()->set_detached(spec.detached);
  proto.mutable_spec()->set_container(spec.container_id);
  proto.mutable_spec()->set_user(spec.user);
  proto.set_running(!process.exit_status().has_value());
  if (process.exit_status()) *proto.mutable_exit_status() = ToProto(*process.exit_status());
  proto.set_attached(process.attached());
  proto.set_created_unix_ms(process.created_unix_ms());
  return proto;
}

v1::StdioStream ToProto(guest::Stream stream) {
  switch (stream) {
    case guest::Stream::kStdin:
      return v1::STDIO_STREAM_STDIN;
    case guest::Stream::kStdout:
      return v1::STDIO_STREAM_STDOUT;
    case guest::Stream::kStderr:
      return v1::STDIO_STREAM_STDERR;
  }
  return v1::STDIO_STREAM_UNSPECIFIED;
}

guest::Stream ToStream(v1::StdioStream stream) {
  if (stream == v1::STDIO_STREAM_STDOUT) return guest::Stream::kStdout;
  if (stream == v1::STDIO_STREAM_STDERR) return guest::Stream::kStderr;
  return guest::Stream::kStdin;
}

absl::StatusOr<v1::ReadOutputResponse> ReadParts(uint64_t stdout_since, uint64_t stderr_since,
                                                 const ReadStream& read) {
  v1::ReadOutputResponse response;
  for (const guest::Stream stream : {guest::Stream::kStdout, guest::Stream::kStderr}) {
    const uint64_t since = stream == guest::Stream::kStdout ? stdout_since : stderr_since;
    ASSIGN_OR_RETURN(guest::KeptOutput kept, read(stream, since, kOutputPart));
    v1::ReadOutputResponse::Part* part = response.add_parts();
    part->set_stream(ToProto(stream));
    part->set_generation(kept.start.generation);
    part->set_offset(kept.start.offset);
    part->set_data(std::move(kept.bytes));
    part->set_end(kept.end);
    part->set_ended(kept.ended);
    part->set_went_back_at(kept.went_back_at);
  }
  return response;
}

}  // namespace ferry::vm
