#include "guestmanager/fake_agent.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace ferry::guest {

using bridge::Frame;
using bridge::StreamFrame;
using bridge::StreamFrameType;

// A connection with a queue in front of its writing side.
struct FakeAgent::Wire {
  Wire(Executor executor, std::unique_ptr<bridge::Connection> c)
      : connection(std::move(c)), queue(executor) {}
  std::unique_ptr<bridge::Connection> connection;
  AsyncQueue<std::string> queue;
  bool positioned = false;  // the host's hello was seen
  uint64_t sent = 0;        // output: next offset to send
  void Close() {
    queue.Close();
    connection->Close();
  }
};

std::shared_ptr<FakeAgent::Wire> FakeAgent::Dial(uint32_t port) {
  if (stopped_) return nullptr;
  absl::StatusOr<std::unique_ptr<bridge::Connection>> connection = dialer_(port);
  if (!connection.ok()) return nullptr;
  auto wire = std::make_shared<Wire>(executor_, *std::move(connection));
  Spawn(executor_, WriteLoop(wire));
  return wire;
}

Task<void> FakeAgent::WriteLoop(std::shared_ptr<Wire> wire) {
  while (true) {
    std::optional<std::string> bytes = co_await wire->queue.Pop();
    if (!bytes) break;
    absl::Status status;
    if (bytes->empty()) {
      status = co_await wire->connection->CloseWrite();
    } else {
      status = co_await wire->connection->Write(*bytes);
    }
    if (!status.ok()) break;
  }
}

void FakeAgent::Connect(bridge::FakeHostTransport* transport) {
  if (transport != nullptr) {
    dialer_ = [transport](uint32_t port) { return transport->Dial(port); };
  }
  ConnectTo(dialer_);
}

void FakeAgent::ConnectTo(Dialer dialer) {
  dialer_ = std::move(dialer);
  if (bridge_) bridge_->Close();
  bridge_ = Dial(bridge::kBridgePort);
  if (bridge_) Spawn(executor_, ServeBridge(shared_from_this(), bridge_));
  for (auto& [pid, process] : processes) DialStdio(pid);
}

void FakeAgent::DialStdio(uint32_t pid) {
  Process& process = processes[pid];
  if (process.in.port != 0 && !process.in.ended) {
    Spawn(executor_, ServeInput(shared_from_this(), pid));
  }
  if (process.out.port != 0 && !process.out.end_taken) {
    Spawn(executor_, ServeOutput(shared_from_this(), pid, false));
  }
  if (process.err.port != 0 && !process.err.end_taken) {
    Spawn(executor_, ServeOutput(shared_from_this(), pid, true));
  }
}

Task<void> FakeAgent::ServeBridge(Shared self, std::shared_ptr<Wire> wire) {
  bridge::FrameDecoder decoder;
  std::vector<char> buffer(4096);
  while (self->bridge_ == wire) {
    absl::StatusOr<size_t> read = co_await wire->connection->Read(buffer);
    if (!read.ok() || *read == 0) break;
    decoder.Append(std::string_view(buffer.data(), *read));
    while (true) {
      absl::StatusOr<std::optional<Frame>> frame = decoder.Next();
      if (!frame.ok() || !frame->has_value()) break;
      self->received.push_back(**frame);
      self->Handle(**frame);
    }
  }
  wire->Close();
  self->frozen = false;
}

void FakeAgent::SendRaw(const std::string& bytes) {
  if (bridge_) bridge_->queue.Push(bytes);
}

void FakeAgent::Send(uint32_t type, int64_t id, const std::string& payload) {
  SendRaw(*bridge::EncodeFrame(type, id, payload));
}

int FakeAgent::CountReceived(uint32_t type) const {
  return static_cast<int>(std::count_if(received.begin(), received.end(),
                                        [type](const Frame& f) { return f.type == type; }));
}

void FakeAgent::Handle(const Frame& frame) {
  const uint32_t answer = bridge::ResponseType(frame.type);
  if (frame.type == bridge::kNegotiateProtocol) {
    bridge::NegotiateResponse response;
    response.version = version;
    response.capabilities.runtime_os_type = "Linux";
    response.capabilities.guest_defined.resumable_stdio_supported = resumable;
    response.capabilities.guest_defined.acknowledge_exit_supported = acknowledges;
    response.capabilities.guest_defined.containers_supported = containers;
    response.capabilities.guest_defined.clock_supported = clock_ahead.has_value();
    response.capabilities.guest_defined.repeated_start_supported = repeats_starts;
    response.capabilities.guest_defined.freeze_supported = freezes;
    response.capabilities.guest_defined.network_supported = network;
    response.capabilities.guest_defined.dhcp_supported = dhcp;
    return Send(answer, frame.id, Encode(response));
  }
  if (silent || ignored.contains(frame.type)) return;
  if (const auto refusal = refusals.find(frame.type); refusal != refusals.end()) {
    return Send(answer, frame.id, Encode(bridge::FailedResponse(refusal->second, "refused", "")));
  }
  if (frame.type == bridge::kExecuteProcess) return Execute(frame);
  if (frame.type == bridge::kWaitForProcess) return HandleWait(frame);
  if (frame.type == bridge::kGetClock || frame.type == bridge::kAdjustClock) {
    return HandleClock(frame);
  }
  if (frame.type == bridge::kFreezeFilesystems || frame.type == bridge::kThawFilesystems) {
    return HandleFreeze(frame);
  }
  if (frame.type == bridge::kSignalProcess) {
    auto request = bridge::Decode<bridge::SignalProcessRequest>(frame.payload);
    auto found = processes.find(request->process_id);
    if (found == processes.end() || found->second.exit_code) {
      return Send(answer, frame.id,
                  Encode(bridge::FailedResponse(bridge::kHresultProcessNotFound, "gone", "")));
    }
    signals.push_back(request->signal);
  }
  if (frame.type == bridge::kResizeConsole) {
    auto request = bridge::Decode<bridge::ResizeConsoleRequest>(frame.payload);
    sizes.emplace_back(request->height, request->width);
  }
  if (frame.type == bridge::kAcknowledgeExit) {
    auto request = bridge::Decode<bridge::AcknowledgeExitRequest>(frame.payload);
    acknowledged.push_back(request->process_id);
  }
  if (frame.type == bridge::kListProcesses) {
    bridge::ListProcessesResponse response;
    for (const auto& [pid, process] : processes) {
      if (process.forgotten || std::count(acknowledged.begin(), acknowledged.end(), pid)) continue;
      response.processes.push_back({pid, process.exit_code.has_value()});
    }
    return Send(answer, frame.id, Encode(response));
  }
  if (frame.type == bridge::kGetProperties) {
    bridge::GetPropertiesResponse response;
    response.properties = properties;
    return Send(answer, frame.id, Encode(response));
  }
  Send(answer, frame.id, Encode(bridge::SimpleResponse{}));
  const bool shutdown =
      frame.type == bridge::kShutdownGraceful || frame.type == bridge::kShutdownForced;
  if (shutdown && on_shutdown) on_shutdown();
}

void FakeAgent::HandleClock(const Frame& frame) {
  if (holds_clock) return clock_requests_.push_back(frame);
  const uint32_t answer = bridge::ResponseType(frame.type);
  if (refuses_clock || !clock_ahead) {
    return Send(answer, frame.id,
                Encode(bridge::FailedResponse(bridge::kHresultFailed, "no clock", "")));
  }
  if (frame.type == bridge::kAdjustClock) {
    *clock_ahead += bridge::Decode<bridge::AdjustClockRequest>(frame.payload)->offset_ns;
    return Send(answer, frame.id, Encode(bridge::SimpleResponse{}));
  }
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  bridge::GetClockResponse response;
  response.unix_ns = static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(now).count() + *clock_ahead);
  Send(answer, frame.id, Encode(response));
}

void FakeAgent::HandleFreeze(const Frame& frame) {
  const uint32_t answer = bridge::ResponseType(frame.type);
  if (frame.type == bridge::kFreezeFilesystems) {
    frozen = !thaws_early;
    bridge::FreezeFilesystemsResponse response;
    response.frozen = 2;
    return Send(answer, frame.id, Encode(response));
  }
  if (std::exchange(frozen, false)) {
    return Send(answer, frame.id, Encode(bridge::SimpleResponse{}));
  }
  Send(answer, frame.id,
       Encode(bridge::FailedResponse(bridge::kHresultInvalidState, "they thawed before", "")));
}

void FakeAgent::AnswerClock() {
  holds_clock = false;
  for (const Frame& frame : std::exchange(clock_requests_, {})) HandleClock(frame);
}

bool FakeAgent::StartedBefore(const Frame& frame) {
  const auto before = started_.find(frame.id);
  if (before == started_.end()) return false;
  if (!repeats_starts) {
    Send(bridge::ResponseType(frame.type), frame.id,
         Encode(bridge::FailedResponse(bridge::kHresultInvalidState, "it runs", "")));
  } else if (!holds_starts) {
    SendRaw(before->second);
  }
  return true;
}

void FakeAgent::Execute(const Frame& frame) {
  if (StartedBefore(frame)) return;
  auto request = bridge::Decode<bridge::ExecuteProcessRequest>(frame.payload);
  const uint32_t pid = next_pid_++;
  Process& process = processes[pid];
  process.request = *request;
  process.in.port = request->stdio.std_in;
  process.out.port = request->stdio.std_out;
  process.err.port = request->stdio.std_err;
  DialStdio(pid);
  bridge::ExecuteProcessResponse response;
  response.process_id = pid;
  std::string answer =
      *bridge::EncodeFrame(bridge::ResponseType(frame.type), frame.id, Encode(response));
  // No frame begins like this, so the host takes the answer and hangs up in one go.
  if (breaks_link) answer.append(bridge::kFrameHeaderSize, '\0');
  const bool starts_container =
      !request->parameters.create_in_utility_vm && request->parameters.oci_process.empty();
  if (starts_container) started_[frame.id] = answer;
  if (holds_starts) {
    start_answers_.push_back(std::move(answer));
  } else {
    SendRaw(answer);
  }
}

void FakeAgent::AnswerStarts() {
  holds_starts = false;
  for (const std::string& answer : std::exchange(start_answers_, {})) SendRaw(answer);
}

void FakeAgent::LoseStarts() {
  holds_starts = false;
  start_answers_.clear();
}

void FakeAgent::HandleWait(const Frame& frame) {
  auto request = bridge::Decode<bridge::WaitForProcessRequest>(frame.payload);
  auto found = processes.find(request->process_id);
  if (found == processes.end() || found->second.forgotten) {
    return Send(bridge::ResponseType(frame.type), frame.id,
                Encode(bridge::FailedResponse(bridge::kHresultProcessNotFound, "gone", "")));
  }
  waits_.emplace_back(frame.id, request->process_id);
  if (found->second.exit_code && answer_waits) {
    Exit(request->process_id, *found->second.exit_code, found->second.exit_signal);
  }
}

void FakeAgent::Exit(uint32_t pid, uint32_t code, std::optional<uint32_t> signal) {
  processes[pid].exit_code = code;
  processes[pid].exit_signal = signal;
  if (!answer_waits) return;
  for (const auto& [id, waited] : waits_) {
    if (waited != pid) continue;
    bridge::WaitForProcessResponse response;
    response.exit_code = code;
    response.exit_signal = signal;
    Send(bridge::ResponseType(bridge::kWaitForProcess), id, Encode(response));
  }
  std::erase_if(waits_, [pid](const auto& wait) { return wait.second == pid; });
}

void FakeAgent::SendOutput(Wire& wire, Output& output, uint64_t from) {
  const uint64_t end = output.base + output.kept.size();
  while (from < end) {
    std::string_view part = std::string_view(output.kept).substr(from - output.base, 32 * 1024);
    std::string bytes = resumable ? bridge::EncodeDataHeader(from, part.size()) : "";
    bytes.append(part);
    wire.queue.Push(std::move(bytes));
    from += part.size();
  }
  wire.sent = end;
  if (output.ended) wire.queue.Push(resumable ? bridge::EncodeEof(end) : "");
}

void FakeAgent::Write(uint32_t pid, bool to_stderr, const std::string& data) {
  Output& output = to_stderr ? processes[pid].err : processes[pid].out;
  output.kept += data;
  std::shared_ptr<Wire> wire = stdio_[output.port];
  if (wire && wire->positioned) SendOutput(*wire, output, wire->sent);
}

void FakeAgent::EndOutput(uint32_t pid) {
  for (Output* output : {&processes[pid].out, &processes[pid].err}) {
    output->ended = true;
    std::shared_ptr<Wire> wire = stdio_[output->port];
    if (wire && wire->positioned) SendOutput(*wire, *output, wire->sent);
  }
}

void FakeAgent::CloseInput(uint32_t pid) {
  Input& input = processes[pid].in;
  input.ended = true;
  if (stdio_[input.port]) {
    stdio_[input.port]->queue.Push(bridge::EncodeAck(input.taken.size(), true));
  }
}

Task<void> FakeAgent::ServeOutput(Shared self, uint32_t pid, bool to_stderr) {
  Output& output = to_stderr ? self->processes[pid].err : self->processes[pid].out;
  std::shared_ptr<Wire> wire;
  while (!output.end_taken && (wire = self->Dial(output.port))) {
    self->stdio_[output.port] = wire;
    if (self->resumable) {
      wire->queue.Push(bridge::EncodeHello(
          {.offset = output.base, .end = output.base + output.kept.size(), .ended = output.ended}));
    } else {
      wire->positioned = true;
      self->SendOutput(*wire, output, output.base);
    }
    bridge::StreamDecoder decoder;
    std::vector<char> buffer(4096);
    while (true) {
      absl::StatusOr<size_t> read = co_await wire->connection->Read(buffer);
      if (!read.ok() || *read == 0) break;
      decoder.Append(std::string_view(buffer.data(), *read));
      while (true) {
        absl::StatusOr<std::optional<StreamFrame>> frame = decoder.Next();
        if (!frame.ok() || !frame->has_value()) break;
        if ((*frame)->type == StreamFrameType::kHello) {
          ++output.hellos;
          output.wanted = (*frame)->hello.offset;
          wire->positioned = true;
          self->SendOutput(*wire, output, output.wanted);
        } else {
          output.kept.erase(0, (*frame)->offset - output.base);
          output.base = (*frame)->offset;
          if ((*frame)->flags != 0) output.end_taken = true;
        }
      }
    }
    wire->Close();
    if (self->stdio_[output.port] != wire || !self->resumable) co_return;
  }
}

Task<void> FakeAgent::ServeInput(Shared self, uint32_t pid) {
  Input& input = self->processes[pid].in;
  std::shared_ptr<Wire> wire = self->Dial(input.port);
  if (!wire) co_return;
  self->stdio_[input.port] = wire;
  if (self->resumable) wire->queue.Push(bridge::EncodeHello({.offset = input.taken.size()}));
  bridge::StreamDecoder decoder;
  std::vector<char> buffer(4096);
  while (true) {
    absl::StatusOr<size_t> read = co_await wire->connection->Read(buffer);
    if (!read.ok()) break;
    if (*read == 0) input.ended = !self->resumable;
    if (*read == 0) break;
    std::string_view bytes(buffer.data(), *read);
    if (!self->resumable) {
      input.taken.append(bytes);
      continue;
    }
    decoder.Append(bytes);
    while (true) {
      absl::StatusOr<std::optional<StreamFrame>> frame = decoder.Next();
      if (!frame.ok() || !frame->has_value()) break;
      if ((*frame)->type == StreamFrameType::kData && (*frame)->offset == input.taken.size()) {
        input.taken.append((*frame)->payload);
      }
      if ((*frame)->type == StreamFrameType::kEof) input.ended = true;
      const size_t lag = std::min(self->ack_lag, input.taken.size());
      wire->queue.Push(bridge::EncodeAck(input.taken.size() - lag, input.ended));
    }
  }
  wire->Close();
}

void FakeAgent::Stop() {
  stopped_ = true;
  if (bridge_) bridge_->Close();
  bridge_.reset();
  for (auto& [port, wire] : stdio_) {
    if (wire) wire->Close();
  }
  stdio_.clear();
}

}  // namespace ferry::guest
