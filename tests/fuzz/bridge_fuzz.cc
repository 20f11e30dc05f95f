// A hostile agent at the host's end of the bridge: frames of any kind and size at any moment, and
// JSON texts for each kind of message.

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bridge/protocol/container_messages.h"
#include "bridge/protocol/frame.h"
#include "bridge/protocol/messages.h"
#include "guestmanager/bridge_client_core.h"
#include "tests/fuzz/fuzz_target.h"

namespace ferry::fuzz {
namespace {

using guest::BridgeClientCore;

// What was understood can be said, and then means the same.
template <typename Message>
void TryText(std::string_view text) {
  const absl::StatusOr<Message> message = bridge::Decode<Message>(text);
  if (!message.ok()) return;
  const std::string said = Encode(*message);
  const absl::StatusOr<Message> again = bridge::Decode<Message>(said);
  Check(again.ok() && Encode(*again) == said);
}

using Try = void (*)(std::string_view);
constexpr Try kMessages[] = {
    TryText<bridge::SimpleRequest>,          TryText<bridge::NegotiateRequest>,
    TryText<bridge::CreateRequest>,          TryText<bridge::ExecuteProcessRequest>,
    TryText<bridge::WaitForProcessRequest>,  TryText<bridge::SignalProcessRequest>,
    TryText<bridge::ResizeConsoleRequest>,   TryText<bridge::GetPropertiesRequest>,
    TryText<bridge::ModifySettingsRequest>,  TryText<bridge::AcknowledgeExitRequest>,
    TryText<bridge::SimpleResponse>,         TryText<bridge::NegotiateResponse>,
    TryText<bridge::CreateResponse>,         TryText<bridge::ExecuteProcessResponse>,
    TryText<bridge::WaitForProcessResponse>, TryText<bridge::GetPropertiesResponse>,
    TryText<bridge::ListProcessesResponse>,  TryText<bridge::ContainerNotification>,
    TryText<bridge::ContainerConfig>,        TryText<bridge::MappedVirtualDisk>,
    TryText<bridge::MappedDirectory>,        TryText<bridge::ScsiDevice>,
    TryText<bridge::CombinedLayers>,         TryText<bridge::ContainerConstraints>,
    TryText<bridge::PodCgroupMemoryLimit>,   TryText<bridge::PropertyQuery>,
    TryText<bridge::ContainerProperties>,    TryText<bridge::AdjustClockRequest>,
    TryText<bridge::GetClockResponse>,       TryText<bridge::FreezeFilesystemsRequest>,
};

// However the bytes are cut, the same frames come out.
void TryFrames(std::string_view bytes, size_t piece) {
  bridge::FrameDecoder whole;
  bridge::FrameDecoder pieces;
  whole.Append(bytes);
  bool failed = false;
  while (!bytes.empty() && !failed) {
    pieces.Append(bytes.substr(0, piece));
    bytes.remove_prefix(std::min(piece, bytes.size()));
    while (true) {
      const auto frame = pieces.Next();
      failed = !frame.ok();
      if (failed || !frame->has_value()) break;
      const auto same = whole.Next();
      Check(same.ok() && same->has_value() && (*same)->type == (*frame)->type &&
            (*same)->id == (*frame)->id && (*same)->payload == (*frame)->payload);
    }
  }
  // The whole gives no more than the pieces did, and fails exactly if they did.
  const auto more = whole.Next();
  Check(failed ? !more.ok() : more.ok() && !more->has_value());
}

std::string Reply(uint32_t type, int64_t id, std::string_view text) {
  return bridge::EncodeFrame(type, id, text).value_or("");
}

std::string Negotiated() {
  bridge::NegotiateResponse response;
  response.version = bridge::kProtocolVersion;
  return Encode(response);
}

constexpr uint32_t kCalls[] = {bridge::kExecuteProcess, bridge::kWaitForProcess,
                               bridge::kSignalProcess, bridge::kListProcesses};

// One end of a bridge, and how often each call was answered.
class Host {
 public:
  Host() {
    core_.set_on_notification([](const bridge::ContainerNotification&) {});
  }

  void Act(Input& input) {
    switch (input.Byte() % 8) {
      case 0:
        core_.Connected();
        break;
      case 1:
        core_.Disconnected(absl::UnavailableError("lost"));
        break;
      case 2:
        Receive(Reply(bridge::ResponseType(bridge::kNegotiateProtocol), 0, Negotiated()));
        break;
      case 3:
        Call(kCalls[input.Byte() % std::size(kCalls)]);
        break;
      case 4:
        core_.PreregisterWait(input.Byte(), Expect());
        break;
      case 5: {
        const uint32_t type = kCalls[input.Byte() % std::size(kCalls)];
        const uint8_t id = input.Byte();
        Receive(Reply(bridge::ResponseType(type), id, input.Take(input.Byte())));
        break;
      }
      case 6:
        Receive(Reply(bridge::kContainerNotification, 0, input.Take(input.Byte())));
        break;
      default:
        Receive(input.Take(input.Byte()));
        break;
    }
    Check(core_.pending() <= answers_.size());
    while (core_.TakeFrame()) {
    }
  }

  void End() {
    core_.Close(absl::UnavailableError("over"));
    Check(core_.pending() == 0);
    for (const int count : answers_) Check(count == 1);
  }

 private:
  void Receive(std::string_view bytes) {
    // The driver ends a connection that cannot be trusted.
    if (const absl::Status status = core_.Receive(bytes); !status.ok()) core_.Disconnected(status);
  }

  BridgeClientCore::Completion Expect() {
    answers_.push_back(0);
    return [this, at = answers_.size() - 1](const absl::StatusOr<std::string>&) { ++answers_[at]; };
  }

  void Call(uint32_t type) {
    const auto kind = type == bridge::kWaitForProcess ? BridgeClientCore::Kind::kWait
                                                      : BridgeClientCore::Kind::kShort;
    if (!core_.Call(type, "{}", kind, Expect()).ok()) answers_.pop_back();
  }

  BridgeClientCore core_;
  std::vector<int> answers_;
};

}  // namespace

std::vector<std::string> Seeds() {
  bridge::NegotiateResponse negotiated;
  negotiated.version = bridge::kProtocolVersion;
  negotiated.capabilities.supported_schema_versions = {{2, 1}};
  negotiated.capabilities.runtime_os_type = "Linux";
  bridge::ExecuteProcessRequest execute;
  execute.parameters.command_args = {"cat", "-v"};
  execute.parameters.environment = {{"A", "b"}};
  execute.parameters.console_rows = 24;
  execute.parameters.oci_process = R"({"args":["a",1.5,null,true]})";
  execute.stdio = {1, 2, 3, true};
  bridge::ListProcessesResponse list;
  list.processes = {{7, true}, {8, false}};
  bridge::WaitForProcessResponse exit;
  exit.exit_signal = 9;
  bridge::ContainerNotification notification;
  notification.type = "GracefulExit";
  const auto failed = bridge::FailedResponse(bridge::kHresultFailed, "no", bridge::kNullGuid);

  std::vector<std::string> seeds;
  const std::pair<char, std::string> texts[] = {{11, Encode(negotiated)},   {3, Encode(execute)},
                                                {16, Encode(list)},         {14, Encode(exit)},
                                                {17, Encode(notification)}, {10, Encode(failed)}};
  for (const auto& [message, text] : texts) {
    seeds.push_back(std::string{1, message} + text);
    seeds.push_back(std::string("\x02\x05", 2) + Reply(bridge::kContainerNotification, 0, text) +
                    Reply(bridge::ResponseType(bridge::kWaitForProcess), 1, text));
  }
  const std::string start = {0, 0, 2, 3, 1, 3, 0, 4, 9};
  seeds.push_back(start + std::string({5, 1, 1}) + Part(0, Encode(exit)).substr(1) +
                  std::string({1, 6}) + Part(0, Encode(notification)).substr(1));
  return seeds;
}

}  // namespace ferry::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace ferry::fuzz;  // NOLINT: the entry point must be global
  Input input(data, size);
  switch (input.Byte() % 4) {
    case 1:
      kMessages[input.Byte() % std::size(kMessages)](input.Rest());
      break;
    case 2: {
      const size_t piece = 1 + input.Byte();
      TryFrames(input.Rest(), piece);
      break;
    }
    default: {
      Host host;
      while (!input.empty()) host.Act(input);
      host.End();
    }
  }
  return 0;
}
