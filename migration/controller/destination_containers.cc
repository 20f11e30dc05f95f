// What the VM's containers consist of, and where this host has it.
#include <openssl/rand.h>
#include <spdlog/spdlog.h>

#include <boost/asio/experimental/awaitable_operators.hpp>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/str_cat.h"
#include "ferry/v1/container.pb.h"
#include "migration/controller/destination_session.h"
#include "migration/layers/layer_receiver.h"
#include "vmmanager/state/envelope.h"

namespace ferry::migration {
namespace {

constexpr milliseconds kLayersWait{60'000};  // for the source to connect
constexpr milliseconds kAnswerWait{10'000};  // for it to read the answer

}  // namespace

absl::StatusOr<std::string> DestinationSession::MakeToken() const {
  std::string token(kSessionTokenSize, '\0');
  if (RAND_bytes(reinterpret_cast<unsigned char*>(token.data()), static_cast<int>(token.size())) !=
      1) {
    return absl::InternalError("no random numbers for the session's token");
  }
  return token;
}

void DestinationSession::MakeArrivals(const vm::PlanState& plan) {
  if (plan.vm.containers_size() == 0) return;
  arrivals_ = std::make_shared<vm::ContainerArrivals>(
      *deps_.containers, vm_,
      std::vector<state::v1::ContainerRecord>(plan.vm.containers().begin(),
                                              plan.vm.containers().end()));
}

std::vector<v1::IncomingContainer> DestinationSession::Incoming() const {
  std::vector<v1::IncomingContainer> incoming;
  if (arrivals_ == nullptr) return incoming;
  for (const state::v1::ContainerRecord& record : arrivals_->planned()) {
    v1::ContainerSpec spec;
    v1::IncomingContainer& container = incoming.emplace_back();
    container.set_container_id(record.container_id());
    if (spec.ParseFromString(record.spec())) container.set_name(spec.name());
    container.set_scratch_file(record.scratch_file());
  }
  return incoming;
}

absl::Status DestinationSession::CheckBinds(const std::string& call) const {
  if (info_.state() == v1::SESSION_STATE_DESTINATION_IMPORTED) return absl::OkStatus();
  return absl::FailedPreconditionError(
      StrCat(call, " is for a session that is imported and not prepared yet; session ", id(),
             " is ", ToString(info_.state())));
}

Task<absl::StatusOr<v1::BindContainerResponse>> DestinationSession::Bind(
    v1::BindContainerRequest request) {
  auto keep = self();
  AsyncMutex::Guard lock = co_await deciding_.Lock();
  CO_RETURN_IF_ERROR(CheckBinds("BindContainer"));
  if (arrivals_ == nullptr) {
    co_return absl::NotFoundError(
        absl::StrCat("VM ", info_.vm_name(), " comes without containers"));
  }
  const absl::Status bound = co_await arrivals_->Bind(
      request.source_container_id(), request.scratch_file(), request.container_id());
  if (!bound.ok()) co_return Explain(bound, "bind", "the VM runs on at its source");
  v1::BindContainerResponse response;
  response.set_container_id(arrivals_->IdOf(request.source_container_id()));
  for (const auto& [digest, size] : arrivals_->MissingLayers()) {
    response.add_missing_layers(digest);
  }
  for (const vm::ArrivingScratch& scratch : arrivals_->ScratchToCome()) {
    if (scratch.source_id == request.source_container_id()) response.set_scratch_comes(true);
  }
  co_return response;
}

Task<absl::StatusOr<v1::ReceiveLayersResponse>> DestinationSession::ReceiveLayers() {
  auto keep = self();
  while (true) {
    CO_RETURN_IF_ERROR(CheckBinds("ReceiveLayers"));
    // What is lacking is known when those that come have come.
    co_await layers_settled_.Wait();
    AsyncMutex::Guard lock = co_await deciding_.Lock();
    if (layers_settled_.is_set()) co_return co_await ExpectLayers();
  }
}

Task<absl::StatusOr<v1::ReceiveLayersResponse>> DestinationSession::ExpectLayers() {
  auto keep = self();
  CO_RETURN_IF_ERROR(CheckBinds("ReceiveLayers"));
  if (layers_expected_ != nullptr) co_return layers_answer_;
  v1::ReceiveLayersResponse response;
  std::map<std::string, uint64_t> wanted;
  if (arrivals_ != nullptr) wanted = arrivals_->MissingLayers();
  if (wanted.empty()) co_return response;
  CO_RETURN_IF_ERROR(Explain(co_await CheckLayerRoom(wanted), "receive layers", ""));
  CO_ASSIGN_OR_RETURN(const std::string token, MakeToken());
  CO_ASSIGN_OR_RETURN(layers_expected_,
                      deps_.listener.Expect(id(), token, deps_.store().journal_id(), peer_name_));
  response.set_session_address(deps_.listener.address());
  response.set_session_token(token);
  for (const auto& [digest, size] : wanted) response.add_layers(digest);
  layers_answer_ = response;
  layers_over_.Reset();
  Spawn(deps_.executor(), TakeLayers(keep, std::move(wanted)));
  co_return response;
}

Task<absl::Status> DestinationSession::CheckLayerRoom(std::map<std::string, uint64_t> wanted) {
  auto keep = self();
  LayerReceiver::Options options;
  options.reserve = deps_.image_reserve;
  LayerReceiver receiver(deps_.executor(), *deps_.containers->deps().images, std::move(options));
  co_return co_await receiver.CheckRoom(std::move(wanted));
}

Task<void> DestinationSession::TakeLayers(Self self, std::map<std::string, uint64_t> wanted) {
  using asio::experimental::awaitable_operators::operator||;
  auto first =
      co_await (self->layers_expected_->Wait(kLayersWait) || self->layers_called_off_.Wait());
  self->layers_settled_.Reset();
  self->layers_expected_.reset();
  absl::Status taken = absl::CancelledError("the session ended before its layers came");
  if (first.index() == 0) {
    auto connection = std::get<0>(std::move(first));
    taken = connection.status();
    if (taken.ok()) taken = co_await self->TakeLayersFrom(*connection, std::move(wanted));
  }
  taken.Update(co_await self->KeepLayers());
  self->layers_settled_.Set();
  self->layers_over_.Set();
  // The source is told, too; it decides what follows from that.
  if (!taken.ok()) spdlog::warn("session {}: {}", self->id(), taken.ToString());
}

Task<void> DestinationSession::AwaitWork() {
  auto keep = self();
  // A session that could not be called off, for want of its record, takes none any more either.
  layers_called_off_.Set();
  if (layers_ != nullptr) layers_->Close();
  co_await layers_over_.Wait();
}

Task<absl::Status> DestinationSession::TakeLayersFrom(std::shared_ptr<SessionConnection> connection,
                                                      std::map<std::string, uint64_t> wanted) {
  auto keep = self();
  if (!wants_layers() || layers_called_off_.is_set()) {
    co_return absl::CancelledError("the session ended before its layers came");
  }
  LayerReceiver::Options options;
  options.owner = LayerOwner();
  options.reserve = deps_.image_reserve;
  // The source may have to read a slow disk, and says by itself if that is too slow.
  if (limits_.stall.count() > 0) options.silence = limits_.stall + 2 * kLayerDiskTime;
  CO_ASSIGN_OR_RETURN(options.socket_path, MakeLayerSocketPath());
  layers_ = connection;
  LayerReceiver receiver(deps_.executor(), *deps_.containers->deps().images, std::move(options));
  absl::Status received = co_await receiver.Receive(connection, std::move(wanted), nullptr);
  // The source closes it when it has read what is said of the last one.
  (void)co_await WithDeadline(kAnswerWait, "the source", connection->WaitClosed());
  layers_.reset();
  connection->Close();
  Touch();  // that took its time
  co_return received;
}

bool DestinationSession::wants_layers() const {
  const bool open = core_->record() == DestinationRecord::kImported ||
                    core_->record() == DestinationRecord::kListening;
  return open && arrivals_ != nullptr;
}

Task<absl::Status> DestinationSession::KeepLayers() {
  auto keep = self();
  AsyncMutex::Guard lock = co_await deciding_.Lock();
  absl::Status kept;
  if (wants_layers()) {
    const std::shared_ptr<vm::ContainerArrivals> arrivals = arrivals_;
    kept = co_await arrivals->PinLayers();
  }
  // Where some are missing yet, those that came wait for the others.
  if (kept.ok()) co_await DropLayerPin();
  co_return kept;
}

// Some layers may have been there, or have come, for others.
Task<absl::Status> DestinationSession::PrepareContainers() {
  auto keep = self();
  if (arrivals_ == nullptr) co_return absl::OkStatus();
  CO_RETURN_IF_ERROR(arrivals_->CheckReady());
  CO_RETURN_IF_ERROR(co_await arrivals_->PinLayers());
  co_await DropLayerPin();
  co_return absl::OkStatus();
}

void DestinationSession::TellContainers() {
  if (deps_.containers == nullptr || std::exchange(containers_told_, true)) return;
  Spawn(deps_.executor(), VmArrived(self()));
}

Task<void> DestinationSession::VmArrived(Self self) {
  // Whoever follows this host's events has not seen those of its source, an exit among them.
  for (const auto& container : self->deps_.containers->Of(self->info_.vm_id())) {
    container->TellArrived();
  }
  co_await self->deps_.containers->VmArrived(self->info_.vm_id());
}

void DestinationSession::RemoveDoneContainers() {
  if (deps_.containers == nullptr) return;
  const std::string vm_id = info_.vm_id();
  for (const auto& container : deps_.containers->Of(vm_id)) {
    deps_.containers->NoteExitTaken(vm_id, container->record().process_id());
  }
}

// Looks like a container's, and is none's: a daemon that is started anew lets go of it. No other
// session's, so that none takes anything from another.
std::string DestinationSession::LayerOwner() const {
  return absl::BytesToHexString(vm::Sha256(absl::StrCat("layers of session ", id())));
}

Task<void> DestinationSession::DropLayerPin() {
  auto keep = self();
  vm::ImageStore* images = deps_.containers == nullptr ? nullptr : deps_.containers->deps().images;
  if (images == nullptr) co_return;
  const absl::Status unpinned = co_await images->Unpin(LayerOwner());
  if (!unpinned.ok()) spdlog::warn("session {}: {}", id(), unpinned.ToString());
}

}  // namespace ferry::migration
