#include "migration/controller/session_registry.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/uuid/random_generator.hpp>
#include <boost/uuid/uuid_io.hpp>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "migration/controller/session_row.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::migration {
namespace {

constexpr size_t kRecordsKept = 1000;
// Of sessions that are over, so many keep their notifications and their request's id.
constexpr size_t kEndedKept = 64;
constexpr size_t kTracesKept = 16;  // of those that were cleaned up or retired

}  // namespace

Task<absl::Status> SessionRegistry::Load(JournalTrust trust) {
  auto rows = co_await deps_.store().ListSessions();
  if (!rows.ok()) co_return rows.status();
  CO_ASSIGN_OR_RETURN(const std::vector<vm::VmRow> vms, co_await deps_.store().ListVms());
  for (const vm::SessionRow& row : *rows) {
    v1::Session session;
    if (!session.ParseFromString(row.session_bytes)) continue;
    const bool is_here = std::any_of(vms.begin(), vms.end(),
                                     [&row](const vm::VmRow& vm) { return vm.id == row.vm_id; });
    bool goes_on = !row.decided;
    if (row.decided && is_here) {
      CO_ASSIGN_OR_RETURN(goes_on, co_await GaveAway(row));
      if (goes_on) {
        // And is a job again.
        session.set_done(false);
        session.set_dismissed(false);
      }
    }
    if (goes_on) {
      CO_RETURN_IF_ERROR(co_await LoadUndecided(row, std::move(session), trust));
      continue;
    }
    if (row.is_source && (session.commit_record() == ToString(SourceRecord::kReleased) ||
                          session.commit_record() == ToString(SourceRecord::kGivenUp))) {
      deps_.inventory.NoteDeparted(session.vm_id(), session.vm_name(), session.destination());
    }
    records_[row.id] = session;
    if (!row.request_id.empty()) requests_[row.request_id] = row.id;
  }
  co_await TrimRecords();
  co_return absl::OkStatus();
}

absl::Status SessionRegistry::CheckServing() const {
  if (!stopping_) return absl::OkStatus();
  return absl::UnavailableError(
      "this host's ferryd stops, and begins no migration; try again when it is back");
}

Task<void> SessionRegistry::TrimRecords() {
  while (records_.size() > kRecordsKept) {
    auto oldest = std::min_element(records_.begin(), records_.end(), [](auto& a, auto& b) {
      return a.second.created_unix_ms() < b.second.created_unix_ms();
    });
    const std::string id = oldest->first;
    records_.erase(oldest);
    std::erase_if(requests_, [&](const auto& request) { return request.second == id; });
    absl::Status deleted = co_await deps_.store().DeleteSession(id);
    if (!deleted.ok()) spdlog::warn("session {}: {}", id, deleted.ToString());
  }
}

Task<void> SessionRegistry::RetireEnded() {
  std::vector<std::shared_ptr<MigrationSession>> ended;
  for (const auto& [id, session] : sessions_) {
    if (session->over() && session->CheckCleanup().ok()) ended.push_back(session);
  }
  std::sort(ended.begin(), ended.end(), [](const auto& a, const auto& b) {
    return a->Describe().created_unix_ms() < b->Describe().created_unix_ms();
  });
  for (size_t i = 0; i + kEndedKept < ended.size(); ++i) {
    MakeRecord(ended[i]);
  }
  co_await TrimRecords();
}

void SessionRegistry::MakeRecord(const std::shared_ptr<MigrationSession>& session) {
  records_[session->id()] = session->Describe();
  if (std::string trace = session->TraceJson(); !trace.empty()) {
    traces_.emplace_back(session->id(), std::move(trace));
    if (traces_.size() > kTracesKept) traces_.pop_front();
  }
  sessions_.erase(session->id());
}

absl::StatusOr<std::string> SessionRegistry::Trace(const std::string& session_id) const {
  ASSIGN_OR_RETURN(const v1::Session session, Describe(session_id));
  std::string trace;
  if (auto it = sessions_.find(session_id); it != sessions_.end()) trace = it->second->TraceJson();
  for (const auto& [id, kept] : traces_) {
    if (id == session_id) trace = kept;
  }
  if (!trace.empty()) return trace;
  return absl::FailedPreconditionError(
      absl::StrCat("there is no trace of session ", session_id, ": it was not asked for ",
                   "(perf_tracing_enabled), or ferryd has let go of it since"));
}

absl::Status SessionRegistry::CheckId(const std::string& session_id) {
  if (!session_id.empty() && session_id.size() <= kMaxId) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("session_id must have 1 to ", kMaxId, " bytes; a UUID is a good choice"));
}

absl::Status SessionRegistry::CheckNew(const std::string& session_id) const {
  RETURN_IF_ERROR(CheckServing());
  RETURN_IF_ERROR(CheckId(session_id));
  if (sessions_.contains(session_id) || records_.contains(session_id)) {
    return absl::AlreadyExistsError(
        absl::StrCat("session ", session_id, " exists; choose another id"));
  }
  return absl::OkStatus();
}

Task<absl::StatusOr<v1::Session>> SessionRegistry::Migrate(v1::MigrateRequest request) {
  co_await RetireEnded();
  if (auto known = requests_.find(request.request_id()); known != requests_.end()) {
    auto session = Describe(known->second);
    if (session.ok()) co_return session;
    requests_.erase(known);
  }
  CO_RETURN_IF_ERROR(CheckServing());
  if (request.destination().empty()) {
    co_return absl::InvalidArgumentError("no destination given; name the other host's ferryd");
  }
  if (request.destination() == deps_.own_address()) {
    co_return absl::InvalidArgumentError(
        absl::StrCat("the VM is on ", request.destination(), " already; choose another host"));
  }
  const std::string id = boost::uuids::to_string(boost::uuids::random_generator()());
  auto session = std::make_shared<SourceSession>(deps_, id);
  sessions_[id] = session;
  const std::string request_id = request.request_id();
  if (!request_id.empty()) requests_[request_id] = id;
  absl::Status started = co_await orchestrator_.Start(session, std::move(request));
  if (!started.ok()) {
    requests_.erase(request_id);
    co_await Drop(session);
    if (sessions_.contains(id)) {
      Spawn(deps_.executor(), Orchestrator::GiveBack(session, deps_.limits.ask_again));
    }
    co_return started;
  }
  co_return session->Describe();
}

Task<absl::StatusOr<std::string>> SessionRegistry::PrepareAndExport(
    v1::PrepareAndExportSandboxRequest request) {
  co_await RetireEnded();
  if (auto again = FindAs<SourceSession>(request.session_id())) {
    co_return co_await again->ExportAgain(std::move(request));
  }
  CO_RETURN_IF_ERROR(CheckNew(request.session_id()));
  auto session = std::make_shared<SourceSession>(deps_, request.session_id());
  sessions_[request.session_id()] = session;
  session->set_request(request);
  std::optional<v1::InitializeOptions> options;
  if (request.has_options()) options = request.options();
  auto plan =
      co_await session->PrepareAndExport(request.vm(), request.destination(), std::move(options));
  if (!plan.ok()) co_await Drop(session);
  // Also one that could not be undone yet.
  if (sessions_.contains(request.session_id())) session->SetExpiry(request.expiry());
  co_return plan;
}

// A session that came to nothing. One that could not be undone stays, so that Cleanup can.
Task<void> SessionRegistry::Drop(std::shared_ptr<MigrationSession> session) {
  if (!session->Describe().done() && session->state() != v1::SESSION_STATE_IDLE) co_return;
  const std::string id = session->id();
  co_await session->notifier()->Flush();
  sessions_.erase(id);
  absl::Status deleted = co_await deps_.store().DeleteSession(id);
  if (!deleted.ok()) spdlog::warn("session {}: {}", id, deleted.ToString());
}

Task<absl::Status> SessionRegistry::Import(v1::ImportSandboxRequest request,
                                           std::string peer_name) {
  // An address says little about which host it leads to; that the session is one of ours does.
  if (auto ours = Find(request.session_id());
      ours.ok() && (*ours)->origin() == v1::MIGRATION_ORIGIN_SOURCE) {
    co_return absl::InvalidArgumentError(
        absl::StrCat("the destination is this host (", deps_.own_address(),
                     ") under another name, ", "and the VM is here already; choose another host"));
  }
  const std::string id = request.session_id();
  CO_RETURN_IF_ERROR(CheckId(id));
  co_await RetireEnded();
  AsyncMutex::Guard lock = co_await arriving_.Lock();
  // A session that was refused once is refused for ever, also after its row was dropped.
  auto known = co_await deps_.store().ReadJournal(id);
  if (!known.ok()) co_return known.status();
  if (auto again = FindAs<DestinationSession>(id)) {
    if (!peer_name.empty() && peer_name != again->peer_name()) {
      co_return rpc::ErrorWithReason(
          absl::StatusCode::kPermissionDenied,
          absl::StrCat("session ", id, " is not one of host ", peer_name), "not_your_session",
          "choose another id for a session of your own");
    }
    co_return co_await again->ImportAgain(std::move(request));
  }
  CO_RETURN_IF_ERROR(CheckNew(id));
  if (!known->empty()) {
    co_return absl::AlreadyExistsError(
        absl::StrCat("session ", id, " was decided here before; choose another id"));
  }
  auto session = std::make_shared<DestinationSession>(deps_, id, std::move(peer_name));
  sessions_[id] = session;
  lock = AsyncMutex::Guard();
  const uint32_t expiry = request.expiry();
  absl::Status imported = co_await session->Import(std::move(request));
  if (imported.ok()) {
    session->SetExpiry(expiry);
  } else {
    sessions_.erase(id);
    absl::Status deleted = co_await deps_.store().DeleteSession(id);
    if (!deleted.ok()) spdlog::warn("session {}: {}", id, deleted.ToString());
  }
  co_return imported;
}

absl::StatusOr<std::shared_ptr<DestinationSession>> SessionRegistry::FindDestination(
    const std::string& session_id, const char* call) const {
  ASSIGN_OR_RETURN(std::shared_ptr<MigrationSession> session, Find(session_id));
  auto destination = std::dynamic_pointer_cast<DestinationSession>(session);
  if (destination != nullptr) return destination;
  return absl::FailedPreconditionError(absl::StrCat("this host is the source of session ",
                                                    session_id, "; ", call, " the destination"));
}

absl::StatusOr<std::shared_ptr<SourceSession>> SessionRegistry::FindSource(
    const std::string& session_id, const char* what) const {
  ASSIGN_OR_RETURN(std::shared_ptr<MigrationSession> session, Find(session_id));
  auto source = std::dynamic_pointer_cast<SourceSession>(session);
  if (source != nullptr) return source;
  return absl::FailedPreconditionError(absl::StrCat("this host is the destination of session ",
                                                    session_id, "; ", what, " by the source"));
}

std::vector<v1::IncomingContainer> SessionRegistry::Incoming(const std::string& session_id) const {
  const auto session = FindAs<DestinationSession>(session_id);
  return session == nullptr ? std::vector<v1::IncomingContainer>() : session->Incoming();
}

Task<absl::StatusOr<v1::BindContainerResponse>> SessionRegistry::Bind(
    v1::BindContainerRequest request) {
  CO_ASSIGN_OR_RETURN(const auto session, FindDestination(request.session_id(), "bind them at"));
  co_return co_await session->Bind(std::move(request));
}

Task<absl::StatusOr<v1::ReceiveLayersResponse>> SessionRegistry::ReceiveLayers(
    v1::ReceiveLayersRequest request) {
  CO_ASSIGN_OR_RETURN(const auto session, FindDestination(request.session_id(), "receive at"));
  co_return co_await session->ReceiveLayers();
}

Task<absl::Status> SessionRegistry::SendLayers(v1::SendLayersRequest request) {
  CO_ASSIGN_OR_RETURN(const auto source, FindSource(request.session_id(), "layers are sent"));
  co_return co_await source->SendLayers(std::move(request));
}

std::vector<v1::IncomingDisk> SessionRegistry::IncomingDisks(const std::string& session_id) const {
  const auto session = FindAs<DestinationSession>(session_id);
  return session == nullptr ? std::vector<v1::IncomingDisk>() : session->IncomingDisks();
}

Task<absl::StatusOr<v1::ReceiveDisksResponse>> SessionRegistry::ReceiveDisks(
    v1::ReceiveDisksRequest request) {
  CO_ASSIGN_OR_RETURN(const auto session, FindDestination(request.session_id(), "receive at"));
  co_return co_await session->ReceiveDisks();
}

Task<absl::Status> SessionRegistry::SendDisks(v1::SendDisksRequest request) {
  CO_ASSIGN_OR_RETURN(const auto source, FindSource(request.session_id(), "disks are sent"));
  co_return co_await source->SendDisks(std::move(request));
}

Task<absl::StatusOr<v1::PrepareSandboxResponse>> SessionRegistry::Prepare(
    v1::PrepareSandboxRequest request) {
  CO_ASSIGN_OR_RETURN(const auto destination, FindDestination(request.session_id(), "prepare"));
  std::optional<v1::InitializeOptions> options;
  if (request.has_init_options()) options = request.init_options();
  co_return co_await destination->Prepare(std::move(options));
}

Task<absl::Status> SessionRegistry::Cleanup(std::string session_id) {
  auto it = sessions_.find(session_id);
  if (it == sessions_.end()) {
    if (records_.contains(session_id)) co_return absl::OkStatus();
    co_return Find(session_id).status();
  }
  std::shared_ptr<MigrationSession> session = it->second;
  session->Touch();
  if (session->state() == v1::SESSION_STATE_FAILED) {
    // Failed is not the end: the VM goes back to where it belongs first.
    auto ended = co_await session->Finalize(session->origin() == v1::MIGRATION_ORIGIN_SOURCE
                                                ? v1::FINALIZE_ACTION_RESUME
                                                : v1::FINALIZE_ACTION_STOP,
                                            "");
    if (!ended.ok()) co_return ended.status();
  }
  CO_RETURN_IF_ERROR(session->CheckCleanup());
  session->StopTelling();
  MakeRecord(session);
  co_return absl::OkStatus();
}

Task<absl::Status> SessionRegistry::Dismiss(std::string session_id) {
  if (auto session = Find(session_id); session.ok()) co_return co_await (*session)->Dismiss();
  CO_ASSIGN_OR_RETURN(v1::Session record, Describe(session_id));
  record.set_dismissed(true);
  std::string began_by;
  for (const auto& [request_id, id] : requests_) {
    if (id == session_id) began_by = request_id;
  }
  const vm::SessionRow row = ToRow(record, true, std::move(began_by));
  CO_RETURN_IF_ERROR(co_await deps_.store().PutSession(row));
  if (auto kept = records_.find(session_id); kept != records_.end()) {
    kept->second.set_dismissed(true);
  }
  co_return absl::OkStatus();
}

Task<absl::StatusOr<std::shared_ptr<Notifier>>> SessionRegistry::Notifications(
    std::string session_id) {
  if (auto session = Find(session_id); session.ok()) co_return (*session)->notifier();
  if (!records_.contains(session_id)) co_return Find(session_id).status();
  auto kept = std::make_shared<Notifier>(deps_.executor(), deps_.store(), session_id);
  CO_RETURN_IF_ERROR(co_await kept->Restore());
  kept->Close();
  co_return kept;
}

Task<absl::StatusOr<v1::SettleSessionResponse>> SessionRegistry::Settle(
    v1::SettleSessionRequest request, std::string peer_name, MayForce may_force) {
  v1::SettleSessionResponse response;
  if (!sessions_.contains(request.session_id())) {
    CO_RETURN_IF_ERROR(co_await ReviveIfForced(request, may_force));
  }
  auto it = sessions_.find(request.session_id());
  if (it != sessions_.end()) {
    it->second->Touch();
    auto destination = std::dynamic_pointer_cast<DestinationSession>(it->second);
    if (destination == nullptr) {
      co_return absl::FailedPreconditionError(
          absl::StrCat("this host is the source of session ", request.session_id()));
    }
    auto proof = co_await destination->Settle(request.proof(), may_force);
    // It may have become a mere record while it decided.
    if (destination->revived() || !sessions_.contains(destination->id())) LayDown(destination);
    if (!proof.ok()) co_return proof.status();
    response.set_proof(*std::move(proof));
    co_return response;
  }
  AsyncMutex::Guard lock = co_await arriving_.Lock();
  if (sessions_.contains(request.session_id())) {
    co_return absl::UnavailableError(
        absl::StrCat("session ", request.session_id(), " has only just come here; ask again"));
  }
  auto proof = co_await AnswerFromJournal(std::move(request), std::move(peer_name));
  if (!proof.ok()) co_return proof.status();
  response.set_proof(*std::move(proof));
  co_return response;
}

absl::StatusOr<std::shared_ptr<MigrationSession>> SessionRegistry::Find(
    const std::string& session_id) const {
  auto it = sessions_.find(session_id);
  if (it != sessions_.end()) {
    it->second->Touch();
    return it->second;
  }
  return absl::NotFoundError(records_.contains(session_id)
                                 ? absl::StrCat("session ", session_id,
                                                " has ended; ferryctl migration show ", session_id,
                                                " tells how")
                                 : absl::StrCat("this host has no migration session ", session_id,
                                                "; ferryctl migration list shows those there are"));
}

absl::StatusOr<v1::Session> SessionRegistry::Describe(const std::string& session_id) const {
  if (auto it = sessions_.find(session_id); it != sessions_.end()) {
    it->second->Touch();
    return it->second->Describe();
  }
  if (auto it = records_.find(session_id); it != records_.end()) return it->second;
  return Find(session_id).status();
}

std::vector<v1::Session> SessionRegistry::List(const std::string& vm) const {
  std::vector<v1::Session> list;
  auto add = [&](const v1::Session& session) {
    if (vm.empty() || vm == session.vm_id() || vm == session.vm_name()) list.push_back(session);
  };
  for (const auto& [id, session] : sessions_) add(session->Describe());
  for (const auto& [id, record] : records_) add(record);
  std::sort(list.begin(), list.end(), [](const v1::Session& a, const v1::Session& b) {
    return a.created_unix_ms() < b.created_unix_ms();
  });
  return list;
}

Task<void> SessionRegistry::Shutdown() {
  stopping_ = true;
  const auto sessions = sessions_;
  for (const auto& [id, session] : sessions) {
    if (session->Describe().done()) continue;
    std::string reason = "the daemon stops";
    absl::Status cancelled = co_await session->Cancel(std::move(reason));
    if (cancelled.ok()) {
      const v1::FinalizeAction action = session->origin() == v1::MIGRATION_ORIGIN_SOURCE
                                            ? v1::FINALIZE_ACTION_RESUME
                                            : v1::FINALIZE_ACTION_STOP;
      (void)co_await session->Finalize(action, "");
    } else {
      spdlog::warn("session {}: {}", id, cancelled.ToString());
    }
  }
  for (const auto& [id, session] : sessions) {
    // What is below it may be gone after this.
    co_await session->AwaitWork();
    session->notifier()->Close();
    co_await session->notifier()->Flush();
  }
}

}  // namespace ferry::migration
