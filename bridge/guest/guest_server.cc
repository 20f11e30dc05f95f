#include "bridge/guest/guest_server.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bridge/guest/redial.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::bridge {
namespace {

// How long a shutdown's answer may take to get out before the VM ends all the same.
constexpr milliseconds kFarewell{1'000};

// Beyond every pid that the kernel gives.
constexpr uint32_t kPidLimit = 1u << 22;

Capabilities OwnCapabilities(bool containers, bool clock, bool freeze, bool network) {
  Capabilities capabilities;
  capabilities.supported_schema_versions.push_back(SchemaVersion{2, 1});
  capabilities.runtime_os_type = "Linux";
  // Only what is answered: hosts send nothing else.
  GuestDefinedCapabilities& defined = capabilities.guest_defined;
  defined.signal_process_supported = true;
  defined.resumable_stdio_supported = true;
  defined.acknowledge_exit_supported = true;
  defined.delete_container_state_supported = containers;
  defined.containers_supported = containers;
  defined.clock_supported = clock;
  defined.repeated_start_supported = containers;
  defined.freeze_supported = freeze;
  defined.network_supported = network;
  defined.dhcp_supported = network;
  return capabilities;
}

// Gives a frame back to the outbox unless it was written, also when the writer is cancelled.
class Unwritten {
 public:
  Unwritten(BridgeOutbox& outbox, std::string frame) : outbox_(&outbox), frame_(std::move(frame)) {}
  Unwritten(const Unwritten&) = delete;
  Unwritten& operator=(const Unwritten&) = delete;
  ~Unwritten() {
    if (outbox_ != nullptr) outbox_->PutBack(std::move(frame_));
  }
  const std::string& frame() const { return frame_; }
  void Done() { std::exchange(outbox_, nullptr)->Written(); }

 private:
  BridgeOutbox* outbox_;
  std::string frame_;
};

// Cancels what a cancelled Run() leaves behind: requests that wait hold the server.
class CancelOnExit {
 public:
  explicit CancelOnExit(TaskScope& scope) : scope_(scope) {}
  CancelOnExit(const CancelOnExit&) = delete;
  CancelOnExit& operator=(const CancelOnExit&) = delete;
  ~CancelOnExit() { scope_.Cancel(); }

 private:
  TaskScope& scope_;
};

}  // namespace

GuestServer::GuestServer(Executor executor, GuestTransport& transport, Options options)
    : executor_(executor),
      transport_(transport),
      options_(std::move(options)),
      outbox_(executor),
      scope_(executor) {
  if (options_.filesystems != nullptr) {
    FilesystemFreezer::Options freezing;
    freezing.log = options_.log;
    freezer_ =
        std::make_shared<FilesystemFreezer>(executor_, *options_.filesystems, std::move(freezing));
  }
  if (!options_.containers.has_value()) return;
  containers_.emplace(
      executor_, transport_, *options_.containers,
      [this](const ContainerNotification& notification) { NotifyContainerExit(notification); });
}

GuestServer::~GuestServer() {
  for (const auto& [pid, process] : processes_) process->Abandon();
}

std::function<void()> GuestServer::ResolverListener() {
  return [weak = weak_from_this()] {
    const std::shared_ptr<GuestServer> self = weak.lock();
    if (self == nullptr || !self->containers_.has_value()) return;
    self->containers_->SetResolver(self->options_.network->resolver());
  };
}

Task<GuestServer::End> GuestServer::Run() {
  const std::shared_ptr<GuestServer> self = shared_from_this();
  const CancelOnExit cancel(scope_);
  if (options_.network != nullptr) options_.network->set_on_resolver(ResolverListener());
  Redial redial(transport_);
  while (!end_.has_value()) {
    absl::StatusOr<std::unique_ptr<Connection>> connection = co_await transport_.Dial(kBridgePort);
    if (connection.ok()) {
      redial.Succeeded();
      std::shared_ptr<Connection> shared = *std::move(connection);
      co_await Serve(std::move(shared));
    }
    if (!end_.has_value()) co_await redial.Wait();
  }
  co_await scope_.CancelAndJoin();
  if (containers_.has_value()) co_await containers_->Close();
  for (const auto& [pid, process] : processes_) process->Abandon();
  processes_.clear();
  co_return *end_;
}

Task<void> GuestServer::Serve(std::shared_ptr<Connection> connection) {
  ++link_;
  connection_ = connection;
  outbox_.OnConnect();
  TaskScope scope(executor_);
  scope.Spawn(WriteAnswers(shared_from_this(), connection, link_));
  const absl::Status status = co_await ReadRequests(*connection);
  if (options_.log && !status.ok() && !absl::IsUnavailable(status)) {
    options_.log(absl::StrCat("bridge: ", status.message(), "; dialling again"));
  }
  ++link_;
  connection_ = nullptr;
  connection->Close();
  // Whoever had them frozen cannot have them thawed any more.
  if (freezer_ != nullptr) freezer_->LetGo("the connection to the host was lost");
  // The writer sees that its link is over and ends by itself, which is quicker than to unwind it.
  outbox_.work().Set();
  co_await scope.CancelAndJoin();
  outbox_.OnDisconnect();
}

Task<absl::Status> GuestServer::ReadRequests(Connection& connection) {
  FrameDecoder decoder;
  std::vector<char> buffer(16 * 1024);
  while (true) {
    absl::StatusOr<size_t> got = co_await connection.Read(buffer);
    if (!got.ok()) co_return got.status();
    if (*got == 0) co_return absl::UnavailableError("the host closed the connection");
    decoder.Append(std::string_view(buffer.data(), *got));
    while (true) {
      absl::StatusOr<std::optional<Frame>> frame = decoder.Next();
      if (!frame.ok()) co_return frame.status();
      if (!frame->has_value()) break;
      CO_RETURN_IF_ERROR(OnFrame(*std::move(*frame)));
    }
  }
}

Task<void> GuestServer::WriteAnswers([[maybe_unused]] std::shared_ptr<GuestServer> self,
                                     std::shared_ptr<Connection> connection, LinkNumber link) {
  while (link == link_) {
    std::optional<std::string> frame = outbox_.Take();
    if (!frame.has_value()) {
      if (end_.has_value()) break;
      outbox_.work().Reset();
      co_await outbox_.work().Wait();
      continue;
    }
    Unwritten unwritten(outbox_, *std::move(frame));
    const absl::Status status = co_await connection->Write(unwritten.frame());
    if (!status.ok()) {
      connection->Close();
      co_return;
    }
    unwritten.Done();
  }
  // The answer to a shutdown is lost if the VM, and its link, end before the host has read it: it
  // says that it has by closing. Farewell() waits no longer than it must.
  const absl::Status ignored = co_await connection->CloseWrite();
}

absl::Status GuestServer::OnFrame(Frame frame) {
  if (!IsRequest(frame.type)) {
    return absl::InvalidArgumentError(
        absl::StrCat("message type ", absl::Hex(frame.type), " is no request"));
  }
  if (frame.type == kNegotiateProtocol && !outbox_.negotiated()) {
    OnNegotiate(frame);
    return absl::OkStatus();
  }
  if (!outbox_.negotiated() || requests_ >= kMaxRequests) {
    const absl::StatusOr<SimpleRequest> base = Decode<SimpleRequest>(frame.payload);
    const std::string activity = base.ok() ? base->activity_id : kNullGuid;
    const SimpleResponse answer =
        outbox_.negotiated()
            ? FailedResponse(kHresultFailed, "too many requests are pending", activity)
            : FailedResponse(kHresultNotImplemented, "the protocol is not negotiated", activity);
    Post(frame.type, frame.id, Encode(answer), /*direct=*/true);
    return absl::OkStatus();
  }
  ++requests_;
  scope_.Spawn(Handle(shared_from_this(), std::move(frame)));
  return absl::OkStatus();
}

void GuestServer::OnNegotiate(const Frame& frame) {
  const absl::StatusOr<NegotiateRequest> request = Decode<NegotiateRequest>(frame.payload);
  if (!request.ok()) {
    const SimpleResponse answer =
        FailedResponse(kHresultBadJson, std::string(request.status().message()), kNullGuid);
    return Post(frame.type, frame.id, Encode(answer), /*direct=*/true);
  }
  if (request->minimum_version > kProtocolVersion || request->maximum_version < kProtocolVersion) {
    const SimpleResponse answer = FailedResponse(
        kHresultBadProtocolVersion,
        absl::StrCat("this agent speaks protocol version ", kProtocolVersion, ", the host ",
                     request->minimum_version, " to ", request->maximum_version),
        request->activity_id);
    return Post(frame.type, frame.id, Encode(answer), /*direct=*/true);
  }
  NegotiateResponse response;
  response.activity_id = request->activity_id;
  response.version = kProtocolVersion;
  response.capabilities = OwnCapabilities(containers_.has_value(), options_.clock != nullptr,
                                          freezer_ != nullptr, options_.network != nullptr);
  // Direct frames go first, so what waits follows the answer.
  Post(frame.type, frame.id, Encode(response), /*direct=*/true);
  outbox_.OnNegotiated();
  // Whoever negotiates anew may be another host.
  if (options_.network != nullptr) options_.network->Confirm();
}

Task<void> GuestServer::Handle([[maybe_unused]] std::shared_ptr<GuestServer> self, Frame frame) {
  const absl::StatusOr<SimpleRequest> base = Decode<SimpleRequest>(frame.payload);
  std::string text;
  if (!base.ok()) {
    text = Encode(FailedResponse(kHresultBadJson, std::string(base.status().message()), kNullGuid));
  } else {
    text = co_await Answer(frame, *base);
  }
  --requests_;
  if (!text.empty()) Post(frame.type, frame.id, text, /*direct=*/false);
}

void GuestServer::Post(uint32_t type, int64_t id, const std::string& text, bool direct) {
  absl::StatusOr<std::string> frame = EncodeFrame(ResponseType(type), id, text);
  if (!frame.ok()) {
    const SimpleResponse failure =
        FailedResponse(kHresultFailed, std::string(frame.status().message()), kNullGuid);
    frame = EncodeFrame(ResponseType(type), id, Encode(failure));
  }
  if (!frame.ok()) return;
  if (direct) {
    outbox_.PostDirect(*std::move(frame));
  } else {
    outbox_.Post(*std::move(frame));
  }
}

void GuestServer::NotifyContainerExit(const ContainerNotification& notification) {
  absl::StatusOr<std::string> frame = EncodeFrame(kContainerNotification, 0, Encode(notification));
  if (frame.ok()) outbox_.Post(*std::move(frame));
}

void GuestServer::Add(std::shared_ptr<GuestProcess> process) {
  // A container's process is collected before the host has taken its exit, and the kernel may give
  // its number away.
  uint32_t id = static_cast<uint32_t>(process->kernel_pid());
  while (processes_.contains(id)) id += kPidLimit;
  process->set_id(id);
  processes_[id] = std::move(process);
}

std::shared_ptr<GuestProcess> GuestServer::Find(uint32_t id) const {
  const auto it = processes_.find(id);
  return it == processes_.end() ? nullptr : it->second;
}

bool GuestServer::Owns(uint32_t pid) const {
  const pid_t number = static_cast<pid_t>(pid);
  if (containers_.has_value() && containers_->Owns(number)) return true;
  return std::any_of(processes_.begin(), processes_.end(), [number](const auto& entry) {
    return entry.second->kernel_pid() == number && !entry.second->collected();
  });
}

Task<void> GuestServer::Farewell([[maybe_unused]] std::shared_ptr<GuestServer> self) {
  co_await Delay(kFarewell);
  if (connection_ != nullptr) connection_->Close();
}

Task<void> GuestServer::EndProcesses(bool force) {
  // What waits to write cannot end.
  if (freezer_ != nullptr) freezer_->Close("the VM shuts down");
  if (containers_.has_value()) {
    Task<void> prepare = containers_->PrepareShutdown(force);
    const absl::Status ignored =
        co_await WithDeadline(options_.shutdown_grace, "the containers", std::move(prepare));
  }
  const std::vector<std::pair<uint32_t, std::shared_ptr<GuestProcess>>> running(processes_.begin(),
                                                                                processes_.end());
  for (const auto& [pid, process] : running) {
    const absl::Status ignored = process->Signal(force ? 9 : 15);
  }
  for (const auto& [pid, process] : running) {
    Task<void> exited = process->exited().Wait();
    const absl::Status status =
        co_await WithDeadline(options_.shutdown_grace, "a process", std::move(exited));
    if (!status.ok()) {
      for (const auto& [late_pid, late] : running) {
        const absl::Status ignored = late->Signal(9);
      }
    }
  }
}

}  // namespace ferry::bridge
