#include "tools/ferryctl/fake_daemon.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "vmmanager/rpc/error_info.h"

namespace ferry::ctl {
namespace {

using Kind = FakeProcess::Step::Kind;

// Output leaves in pieces that do not match the input's.
constexpr size_t kPiece = 50000;

}  // namespace

FakeDaemon::FakeDaemon(Executor executor, std::string socket_path, FakeProcess* process,
                       grpc::Service* more)
    : executor_(executor),
      path_(std::move(socket_path)),
      process_(process),
      more_(more),
      gate_(executor),
      changed_(executor) {
  gate_.Set();
  Restart();
}

void FakeDaemon::Restart() {
  rpc::ServerOptions options;
  options.unix_socket = path_;
  std::vector<grpc::Service*> services = {this};
  if (more_ != nullptr) services.push_back(more_);
  auto server = rpc::Server::Start(options, services);
  if (!server.ok()) std::abort();
  server_ = *std::move(server);
}

Task<void> FakeDaemon::WaitForChange() {
  changed_.Reset();
  co_await changed_.Wait();
}

Task<void> FakeDaemon::Shutdown() {
  if (std::unique_ptr<rpc::Server> server = std::move(server_)) {
    co_await server->Shutdown(milliseconds(0));
  }
}

grpc::ServerUnaryReactor* FakeDaemon::CreateProcess(grpc::CallbackServerContext* context,
                                                    const v1::CreateProcessRequest* request,
                                                    v1::Process* response) {
  auto handler = [this](const v1::CreateProcessRequest& r) -> Task<absl::StatusOr<v1::Process>> {
    process_->created = r;
    if (!process_->create_status.ok()) co_return process_->create_status;
    v1::Process process;
    process.set_id(7);
    co_return process;
  };
  return rpc::ServeUnary(context, executor_, request, response, handler);
}

grpc::ServerUnaryReactor* FakeDaemon::SignalProcess(grpc::CallbackServerContext* context,
                                                    const v1::SignalProcessRequest* request,
                                                    v1::SignalProcessResponse* response) {
  auto handler =
      [this](const v1::SignalProcessRequest& r) -> Task<absl::StatusOr<v1::SignalProcessResponse>> {
    process_->last_signal = r.signal();
    changed_.Set();
    v1::SignalProcessResponse answer;
    answer.set_delivered(true);
    co_return answer;
  };
  return rpc::ServeUnary(context, executor_, request, response, handler);
}

grpc::ServerBidiReactor<v1::AttachRequest, v1::AttachResponse>* FakeDaemon::Attach(
    grpc::CallbackServerContext* context) {
  return rpc::ServeBidi<v1::AttachRequest, v1::AttachResponse>(
      context, executor_,
      [this](std::shared_ptr<Stream> stream) { return Serve(std::move(stream)); });
}

Task<absl::Status> FakeDaemon::Serve(std::shared_ptr<Stream> stream) {
  std::optional<v1::AttachRequest> first = co_await stream->Read();
  if (!first || !first->has_open()) co_return absl::InvalidArgumentError("no open");
  co_await gate_.Wait();
  if (process_->home != address() && process_->is_followed) {
    co_return rpc::ErrorOfMove(absl::StatusCode::kNotFound, "the VM moved", process_->home);
  }
  if (process_->home != address()) co_return absl::NotFoundError("no such VM here");
  if (process_->saved) {
    ++process_->refused_saved;
    changed_.Set();
    co_return rpc::ErrorWithReason(absl::StatusCode::kUnavailable, "VM web is saved", "vm_saved",
                                   "Start it: ferryctl start web");
  }
  const std::string& id = first->open().attachment_id();
  if (!process_->attachment_id.empty() && process_->attachment_id != id && !first->open().steal()) {
    co_return absl::AlreadyExistsError("another client is attached");
  }
  process_->attachment_id = id;
  ++process_->opens;
  sent_ = first->open().has_stdout_position() ? first->open().stdout_position().offset()
                                              : process_->acked;
  v1::AttachResponse response;
  v1::ProcessSpec* spec = response.mutable_opened()->mutable_process()->mutable_spec();
  spec->set_has_stdin(process_->has_stdin);
  spec->set_terminal(process_->terminal);
  response.mutable_opened()->set_stdin_offset(process_->taken);
  response.mutable_opened()->set_stdin_generation(1);
  stream->Write(std::move(response));
  PumpOutput(stream.get());
  if (process_->stdin_ended) SendExit(stream.get());

  while (std::optional<v1::AttachRequest> request = co_await stream->Read()) {
    bool over = false;
    changed_.Set();
    if (request->has_stdin_data()) {
      const absl::Status status = OnData(stream.get(), request->stdin_data(), &over);
      if (over) co_return status;
    } else if (request->has_stdin_end()) {
      if (request->stdin_end().offset() == process_->taken) {
        process_->stdin_ended = true;
        PumpOutput(stream.get());
        SendExit(stream.get());
      }
    } else if (request->has_ack() && request->ack().stream() == v1::STDIO_STREAM_STDOUT &&
               request->ack().offset() > process_->acked) {
      process_->output.erase(0, request->ack().offset() - process_->acked);
      process_->acked = request->ack().offset();
    } else if (request->has_exit_taken()) {
      process_->exit_taken = true;
      co_return absl::OkStatus();
    }
  }
  co_return absl::OkStatus();
}

absl::Status FakeDaemon::OnData(Stream* stream, const v1::AttachRequest::StdinData& data,
                                bool* over) {
  if (process_->home != address()) return absl::OkStatus();  // sent before the client heard
  // A gap means that an earlier piece was lost with a step; the client will send again.
  if (data.offset() > process_->taken) return absl::OkStatus();
  std::string bytes = data.data();
  const uint64_t known = process_->taken - data.offset();
  if (known >= bytes.size()) return absl::OkStatus();
  bytes.erase(0, known);
  const bool step =
      !process_->script.empty() && process_->taken + bytes.size() >= process_->script.front().at;
  if (step) bytes.resize(process_->script.front().at - process_->taken);
  process_->received += bytes;
  process_->output += bytes;
  process_->taken += bytes.size();
  if (step) {
    const Kind kind = process_->script.front().kind;
    process_->script.pop_front();
    PumpOutput(stream);
    if (!process_->output.empty()) ++process_->unacknowledged_breaks;
    return Perform(stream, kind, over);
  }
  v1::AttachResponse taken;
  taken.mutable_stdin_taken()->set_offset(process_->taken);
  stream->Write(std::move(taken));
  PumpOutput(stream);
  return absl::OkStatus();
}

absl::Status FakeDaemon::Perform(Stream* stream, Kind kind, bool* over) {
  v1::AttachResponse message;
  switch (kind) {
    case Kind::kBreak:
      *over = true;
      return absl::UnavailableError("the daemon restarts");
    case Kind::kSave:
      process_->saved = true;
      *over = true;
      return absl::UnavailableError("the VM is saved");
    case Kind::kMove:
      message.mutable_moved()->set_destination(peer_);
      stream->Write(std::move(message));
      process_->home = peer_;
      return absl::OkStatus();
    case Kind::kSilentMove:
      message.mutable_migration_opened()->set_destination(peer_);
      stream->Write(std::move(message));
      process_->home = peer_;
      *over = true;
      return absl::UnavailableError("the source died");
    case Kind::kCalledOff:
      message.mutable_moved()->set_destination(peer_);
      stream->Write(std::move(message));
      return absl::OkStatus();
    case Kind::kRewind:
      message.mutable_stdin_rewind()->set_offset(process_->taken);
      stream->Write(std::move(message));
      return absl::OkStatus();
    case Kind::kGap:
      skip_one_ = true;
      message.mutable_stdin_rewind()->set_offset(process_->taken);
      stream->Write(std::move(message));
      return absl::OkStatus();
  }
  return absl::OkStatus();
}

void FakeDaemon::PumpOutput(Stream* stream) {
  const uint64_t end = process_->acked + process_->output.size();
  sent_ = std::max(sent_, process_->acked);
  while (sent_ < end) {
    const size_t size = std::min<uint64_t>(kPiece, end - sent_);
    v1::AttachResponse response;
    v1::AttachResponse::Output* output = response.mutable_output();
    output->set_stream(v1::STDIO_STREAM_STDOUT);
    output->set_generation(1);
    output->set_offset(sent_);
    output->set_data(process_->output.substr(sent_ - process_->acked, size));
    if (!std::exchange(skip_one_, false)) stream->Write(std::move(response));
    sent_ += size;
  }
}

void FakeDaemon::SendExit(Stream* stream) {
  for (const v1::StdioStream name : {v1::STDIO_STREAM_STDOUT, v1::STDIO_STREAM_STDERR}) {
    v1::AttachResponse end;
    end.mutable_output_end()->set_stream(name);
    end.mutable_output_end()->set_offset(name == v1::STDIO_STREAM_STDOUT ? sent_ : 0);
    stream->Write(std::move(end));
  }
  v1::AttachResponse exited;
  exited.mutable_exited()->set_code(process_->exit_code);
  stream->Write(std::move(exited));
}

}  // namespace ferry::ctl
