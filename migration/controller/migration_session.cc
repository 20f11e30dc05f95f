#include "migration/controller/migration_session.h"

#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/str_cat.h"
#include "bridge/runtime/unix_time.h"
#include "migration/controller/session_row.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/state/envelope.h"

namespace ferry::migration {
namespace {

constexpr uint32_t kDefaultExpiryS = 600;
constexpr uint32_t kDefaultSocketTimeoutS = 600;

// Whoever hands over both ends gives them one after the other, each within its ticket's time.
constexpr milliseconds kHandedOverDeadline{60'000};

}  // namespace

std::string DiskSessionId(const std::string& session_id) {
  // Ids have any length; one that a caller has chosen is not to be one of these.
  return absl::StrCat("disks-", absl::BytesToHexString(vm::Sha256(session_id)));
}

milliseconds SocketTimeout(const v1::TransferSandboxRequest& request) {
  return std::chrono::seconds(request.timeout() == 0 ? kDefaultSocketTimeoutS : request.timeout());
}

MigrationSession::MigrationSession(const ControllerDeps& deps, std::string session_id,
                                   v1::MigrationOrigin origin)
    : deps_(deps),
      limits_(deps.limits),
      notifier_(std::make_shared<Notifier>(deps.executor(), deps.store(), session_id)),
      connected_(deps.executor()),
      greetings_(deps.executor()),
      transfer_ended_(deps.executor()),
      deciding_(deps.executor()),
      ended_(std::make_shared<AsyncEvent>(deps.executor())) {
  info_.set_session_id(std::move(session_id));
  info_.set_origin(origin);
  info_.set_state(v1::SESSION_STATE_IDLE);
  info_.set_created_unix_ms(NowUnixMs());
  transfer_ended_.Set();
}

v1::Session MigrationSession::Describe() const {
  v1::Session session = info_;
  session.set_last_message_id(notifier_->last_id());
  session.set_fence(deps_.inventory.deps().fence.level());
  return session;
}

absl::StatusOr<Transition> MigrationSession::Enter(SessionCall call) {
  auto transition = Apply(info_.state(), call);
  if (!transition.ok()) {
    return absl::Status(transition.status().code(),
                        absl::StrCat("session ", id(), ": ", transition.status().message()));
  }
  info_.set_state(transition->next);
  if (trace_) trace_->Enter(SessionTrace::Row::kSession, ToString(transition->next), Clock::now());
  Touch();
  const v1::SessionOutcome outcome = OutcomeOf(transition->next);
  if (outcome != v1::SESSION_OUTCOME_UNSPECIFIED) {
    Conclude({outcome, origin(), DefaultReason(outcome), ""});
  }
  return *transition;
}

void MigrationSession::UseOptions(const schema::MigrationInitializeOptions& options) {
  limits_ = deps_.limits.For(options);
  if (!options.perf_tracing_enabled.value_or(false) || trace_) return;
  const bool source = origin() == v1::MIGRATION_ORIGIN_SOURCE;
  trace_ = std::make_unique<SessionTrace>(
      absl::StrCat(source ? "source " : "destination ", deps_.own_address()), source);
  trace_->Enter(SessionTrace::Row::kSession, ToString(info_.state()), Clock::now());
}

void MigrationSession::Conclude(EndReason reason) {
  if (end_reason_.has_value()) return;
  if (info_.outcome() == v1::SESSION_OUTCOME_UNSPECIFIED) {
    info_.set_outcome(reason.outcome);
    info_.set_reason(reason.word);
    info_.set_failed_at(reason.began_at);
    info_.set_next_step(reason.next_step);
  }
  if (info_.error().empty()) info_.set_error(reason.message);
  end_reason_ = std::move(reason);
}

void MigrationSession::SetExpiry(uint32_t seconds) {
  expiry_ = std::chrono::seconds(seconds == 0 ? kDefaultExpiryS : seconds);
  Touch();
  Spawn(deps_.executor(), WatchExpiry(weak_from_this(), ended_));
}

Task<void> MigrationSession::WatchExpiry(std::weak_ptr<MigrationSession> weak,
                                         std::shared_ptr<AsyncEvent> ended) {
  while (!ended->is_set()) {
    std::shared_ptr<MigrationSession> self = weak.lock();
    if (self == nullptr) co_return;
    if (!self->may_expire() || self->notifier_->has_subscribers()) self->Touch();
    const auto last = std::max(self->last_call_, self->notifier_->last_unsubscribed());
    const auto left = std::chrono::ceil<milliseconds>(last + self->expiry_ - Clock::now());
    if (left.count() <= 0) {
      spdlog::warn("session {}: nobody has asked about it for {} s", self->id(),
                   self->expiry_.count());
      EndReason why = CalledOff(self->origin(), absl::StrCat("nobody asked about the session for ",
                                                             self->expiry_.count(), " s"));
      why.word = "expired";
      co_await self->Expire(std::move(why));
      self->Touch();  // what could not be ended now is tried again
      continue;
    }
    self.reset();
    (void)co_await WithDeadline(left, "the session's end", WaitFor(ended.get()));
  }
}

Task<absl::Status> MigrationSession::WaitFor(AsyncEvent* event) {
  co_await event->Wait();
  co_return absl::OkStatus();
}

absl::Status MigrationSession::CheckNeedsSocket() const {
  if (connection_ != nullptr) {
    return absl::AlreadyExistsError(absl::StrCat("session ", id(), " has its connection"));
  }
  if (greeting_) {
    return absl::AlreadyExistsError(absl::StrCat(
        "session ", id(), " has a socket already and waits for the host at its other end"));
  }
  return Apply(info_.state(), SessionCall::kSocketArrived).status();
}

Task<absl::Status> MigrationSession::AdoptSocket(std::string ticket) {
  CO_RETURN_IF_ERROR(CheckNeedsSocket());
  auto socket = deps_.handoff.Redeem(ticket);
  if (!socket.ok()) co_return socket.status();
  GreetOver(*std::move(socket));
  co_return absl::OkStatus();
}

Task<absl::Status> MigrationSession::AdoptProcessSocket(ProcessSocket socket, uid_t caller) {
  CO_RETURN_IF_ERROR(CheckNeedsSocket());
  auto taken = TakeProcessSocket(socket, caller);
  if (!taken.ok()) co_return taken.status();
  GreetOver(*std::move(taken));
  co_return absl::OkStatus();
}

void MigrationSession::GreetOver(UniqueFd socket) {
  HandshakeParams params;
  params.role = role();
  params.session_id = id();
  params.journal_id = deps_.store().journal_id();
  greeting_ = true;
  socket_error_ = absl::OkStatus();
  // Source and destination shake hands with each other, so neither call can wait for it.
  greetings_.Spawn(ShakeHands(shared_from_this(), std::move(socket), std::move(params)));
}

Task<void> MigrationSession::ShakeHands(std::shared_ptr<MigrationSession> self, UniqueFd socket,
                                        HandshakeParams params) {
  const SessionLimits limits;
  auto connection = co_await SessionConnection::Handshake(std::move(socket), std::move(params),
                                                          limits, kHandedOverDeadline);
  self->greeting_ = false;
  if (connection.ok()) {
    self->ConnectionArrived(*std::move(connection));
  } else {
    self->SocketFailed(connection.status());
  }
}

void MigrationSession::SocketFailed(const absl::Status& why) {
  socket_error_ = rpc::ErrorWithReason(
      absl::StatusCode::kFailedPrecondition,
      absl::StrCat("the socket that was handed over to session ", id(),
                   " does not lead to the other host's daemon: ", why.message()),
      "foreign_socket", "connect the two hosts, and give each daemon its end of the connection");
  spdlog::warn("{}", std::string(socket_error_.message()));
  // Nobody waits for it yet: another may be handed over.
  if (info_.state() != v1::SESSION_STATE_SOCKET_WAITING) return;
  connected_.Set();
}

// The id is the caller's choice, so the folder is named after its digest: of one length, without
// separators, and another one for another id.
absl::StatusOr<std::string> MigrationSession::MakeSocketFolder(const std::string& kind) {
  const std::string name = absl::BytesToHexString(vm::Sha256(id()).substr(0, 8));
  const char* side = origin() == v1::MIGRATION_ORIGIN_SOURCE ? "-out" : "-in";
  std::string dir = absl::StrCat(deps_.runtime_dir, "/", name, side, kind);
  if (::mkdir(dir.c_str(), 0700) == 0 || errno == EEXIST) return dir;
  return absl::UnavailableError(
      absl::StrCat("cannot make folder ", dir, ": ", std::strerror(errno)));
}

absl::StatusOr<std::string> MigrationSession::MakeSocketPath() {
  ASSIGN_OR_RETURN(const std::string dir, MakeSocketFolder(""));
  socket_paths_.push_back(absl::StrCat(dir, "/m"));
  RETURN_IF_ERROR(GiveToVmm(dir));
  return socket_paths_.back();
}

absl::StatusOr<std::string> MigrationSession::MakeDiskSocketPath() {
  ASSIGN_OR_RETURN(const std::string dir, MakeSocketFolder("-d"));
  socket_paths_.push_back(absl::StrCat(dir, "/d"));
  RETURN_IF_ERROR(GiveToVmm(dir));
  return socket_paths_.back();
}

absl::Status MigrationSession::GiveToVmm(const std::string& folder) const {
  const auto& owner = deps_.vmm_owner;
  if (!owner || ::chown(folder.c_str(), owner->first, owner->second) == 0) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat("cannot give folder ", folder, " to QEMU's user: ", std::strerror(errno)));
}

absl::StatusOr<std::string> MigrationSession::MakeLayerSocketPath() {
  ASSIGN_OR_RETURN(const std::string dir, MakeSocketFolder("-l"));
  socket_paths_.push_back(absl::StrCat(dir, "/l"));
  return socket_paths_.back();
}

void MigrationSession::RemoveSocketPaths() {
  for (const std::string& path : std::exchange(socket_paths_, {})) {
    ::unlink(path.c_str());
    ::rmdir(path.substr(0, path.rfind('/')).c_str());
  }
}

Task<absl::Status> MigrationSession::EndResumedVm(uint64_t epoch) {
  auto self = shared_from_this();
  if (stopped_again_) co_return absl::OkStatus();
  // What was brought here is not held by a session that is over.
  const auto found = deps_.inventory.Find(info_.vm_id());
  if (!found.ok() || (*found)->epoch() != epoch) {
    co_return absl::FailedPreconditionError(
        absl::StrCat("VM ", info_.vm_name(), " has moved since session ", id(), " ended"));
  }
  const std::shared_ptr<vm::UtilityVm> machine = *found;
  CO_RETURN_IF_ERROR(co_await machine->Stop(true, milliseconds(0)));
  stopped_again_ = true;
  info_.set_vm_location("nowhere");
  Store();
  co_return absl::OkStatus();
}

void MigrationSession::ConnectionArrived(std::shared_ptr<SessionConnection> connection) {
  if (connection_ != nullptr) return;
  auto transition = Enter(SessionCall::kSocketArrived);
  if (!transition.ok()) {
    connection->Close();
    return;
  }
  connection_ = std::move(connection);
  if (peer_name_.empty()) peer_name_ = connection_->peer_name();
  connected_.Set();
}

void MigrationSession::ForgetLater(const absl::Status& why) {
  std::string left = absl::StrCat("what is left of VM ", info_.vm_name(),
                                  " here cannot be removed yet: ", why.message());
  info_.set_error(left);
  const std::string former = std::exchange(left_, std::move(left));
  if (former == left_) return;
  spdlog::error("session {}: {}", id(), left_);
  Store();
  if (former.empty()) Spawn(deps_.executor(), KeepForgetting(shared_from_this()));
}

Task<void> MigrationSession::KeepForgetting(std::shared_ptr<MigrationSession> self) {
  while (!self->info_.done()) {
    co_await Delay(self->deps_.limits.ask_again);
    AsyncMutex::Guard lock = co_await self->deciding_.Lock();
    if (!self->info_.done()) co_await self->ForgetVm();
  }
}

absl::Status MigrationSession::CheckCleanup() const {
  if (!left_.empty() && !info_.done()) {
    return Explain(absl::FailedPreconditionError(
                       absl::StrCat("session ", id(), " cannot be cleaned up: ", left_)),
                   "cleanup", "wait until it is; that is tried again by itself");
  }
  if (CanCleanUp(info_.state(), origin())) return absl::OkStatus();
  std::string next = "cancel or finalize it first";
  if (info_.commit_record() == ToString(SourceRecord::kCommit)) {
    next = StrCat("it is committed and waits for what becomes of the VM at ", info_.destination(),
                  ": finalize with STOP and that host's DONE, or with RESUME and its REFUSED");
  } else if (info_.commit_record() == ToString(DestinationRecord::kGranted)) {
    next = "the VM was granted to this host: finalize with RESUME, so that it runs";
  }
  return Explain(
      absl::FailedPreconditionError(StrCat("session ", id(), " cannot be cleaned up while it is ",
                                           ToString(info_.state()), "; ", next)),
      "cleanup", next);
}

CommitIdentity MigrationSession::Identity() const {
  CommitIdentity identity;
  identity.session_id = id();
  identity.vm_id = info_.vm_id();
  identity.epoch = base_epoch_;
  identity.plan_digest = plan_digest_;
  identity.journal_id = deps_.store().journal_id();
  identity.peer_journal_id = peer_journal_id_;
  return identity;
}

void MigrationSession::Restore(const FormerSession& former) {
  info_ = former.session;
  head_ = former.last;
  request_id_ = former.request_id;
  plan_digest_ = former.detail.plan_sha256();
  state_digest_ = former.detail.state_sha256();
  peer_journal_id_ = former.detail.peer_journal_id();
  heard_ = {former.detail.heard_sequence(), former.detail.heard_hash()};
  peer_name_ = former.detail.peer_name();
  base_epoch_ = former.detail.epoch();
  if (info_.outcome() == v1::SESSION_OUTCOME_CANCELLED ||
      info_.outcome() == v1::SESSION_OUTCOME_FAILED) {
    const bool known = info_.failed_at() != v1::MIGRATION_ORIGIN_UNSPECIFIED;
    end_reason_ = EndReason{info_.outcome(), known ? info_.failed_at() : origin(), info_.reason(),
                            info_.error()};
  }
  paused_by_user_ = former.detail.paused_by_user();
}

Task<absl::Status> MigrationSession::Journal(std::string_view record, uint64_t epoch,
                                             vm::AppendOptions options) {
  auto self = shared_from_this();
  state::v1::CommitDetail detail;
  detail.set_schema_version(kCommitDetailVersion);
  detail.set_epoch(base_epoch_);
  detail.set_plan_sha256(plan_digest_);
  detail.set_state_sha256(state_digest_);
  detail.set_peer_journal_id(peer_journal_id_);
  detail.set_peer_name(peer_name_);
  detail.set_heard_sequence(heard_.sequence);
  detail.set_heard_hash(heard_.hash);
  detail.set_paused_by_user(paused_by_user_);
  vm::JournalRecord entry;
  entry.session_id = id();
  entry.vm_id = info_.vm_id();
  entry.kind = std::string(record);
  entry.epoch = epoch;
  entry.detail = detail.SerializeAsString();
  deps_.failpoint(StrCat(entry.kind, ".before"));
  const auto begun = Clock::now();
  auto stored = co_await deps_.store().Append(std::move(entry), std::move(options));
  if (trace_) {
    trace_->Span(SessionTrace::Row::kJournal, record, begun, Clock::now(),
                 {{"epoch", epoch}, {"stored", stored.ok()}});
  }
  if (!stored.ok()) co_return stored.status();
  deps_.failpoint(StrCat(stored->kind, ".after"));
  head_ = *std::move(stored);
  info_.set_commit_record(head_.kind);
  co_return absl::OkStatus();
}

std::string MigrationSession::MakeProof(ProofKind kind, uint64_t epoch, std::string detail) const {
  Proof proof;
  proof.kind = kind;
  proof.session_id = id();
  proof.vm_id = info_.vm_id();
  proof.epoch = epoch;
  proof.plan_digest = plan_digest_;
  proof.state_digest = state_digest_;
  proof.journal_id = deps_.store().journal_id();
  proof.journal_sequence = head_.sequence;
  proof.journal_hash = head_.hash;
  proof.detail = std::move(detail);
  proof.heard_sequence = heard_.sequence;
  proof.heard_hash = heard_.hash;
  return EncodeProof(proof, plan_digest_);
}

bool MigrationSession::IsPeers(const Proof& proof) const {
  return proof.session_id == id() &&
         (peer_journal_id_.empty() || proof.journal_id == peer_journal_id_);
}

void MigrationSession::NoteHeard(const Proof& proof) {
  if (!IsPeers(proof) || proof.journal_sequence <= heard_.sequence) return;
  heard_ = {proof.journal_sequence, proof.journal_hash};
}

Task<void> MigrationSession::CheckHeard(Proof echo, std::string meaning) {
  auto self = shared_from_this();
  if (echo.heard_sequence == 0 || put_back_ || !IsPeers(echo)) co_return;
  // The usual case, at a switchover too: the newest of this session, which is known here.
  if (echo.heard_sequence == head_.sequence && echo.heard_hash == head_.hash) co_return;
  auto records = co_await deps_.store().ReadJournal(id());
  if (!records.ok()) co_return;
  for (const vm::JournalRecord& record : *records) {
    if (record.sequence == echo.heard_sequence && record.hash == echo.heard_hash) co_return;
  }
  put_back_ = true;
  const bool source = origin() == v1::MIGRATION_ORIGIN_SOURCE;
  const std::string& peer = source ? info_.destination() : info_.source();
  spdlog::error(
      "session {}: this host's journal was put back to an earlier state: {} was told of its record "
      "{}, which is not in it. {}",
      id(), peer, echo.heard_sequence, meaning);
  deps_.events().Publish("journal.put_back", id(),
                         {{"vm", info_.vm_name()},
                          {source ? "destination" : "source", peer},
                          {"record", absl::StrCat(echo.heard_sequence)}});
}

void MigrationSession::Publish(v1::MigrationPhase phase, v1::MigrationPhaseState state,
                               const std::string& message) {
  v1::Notification notification;
  notification.set_origin(origin());
  notification.set_phase(phase);
  notification.set_state(state);
  notification.set_message(message);
  Tell(notification);
}

void MigrationSession::Tell(const v1::Notification& notification) {
  if (trace_ && !notification.has_progress()) {
    trace_->Instant(SessionTrace::Row::kNotifications,
                    v1::MigrationPhase_Name(notification.phase()), Clock::now(),
                    {{"state", v1::MigrationPhaseState_Name(notification.state())}});
  }
  notifier_->Publish(notification);
}

void MigrationSession::TellFailure() {
  if (notifier_->told(v1::MIGRATION_PHASE_DONE) || notifier_->told(v1::MIGRATION_PHASE_FAILED)) {
    return;
  }
  Conclude({v1::SESSION_OUTCOME_FAILED, origin(), DefaultReason(v1::SESSION_OUTCOME_FAILED), ""});
  const v1::MigrationPhaseState state = PhaseStateOf(*end_reason_, origin());
  const bool off_line = origin() == v1::MIGRATION_ORIGIN_SOURCE &&
                        notifier_->told(v1::MIGRATION_PHASE_BLACKOUT_STARTED);
  const bool by_guest = state == v1::MIGRATION_PHASE_STATE_GUEST_INITIATED_CANCELLATION;
  Publish(off_line || by_guest ? v1::MIGRATION_PHASE_FAILED : v1::MIGRATION_PHASE_DONE, state,
          info_.error());
}

void MigrationSession::EndWell(const std::string& message) {
  if (info_.done()) return;
  info_.set_outcome(v1::SESSION_OUTCOME_SUCCEEDED);
  info_.clear_reason();
  info_.clear_error();
  info_.clear_failed_at();
  info_.clear_next_step();
  if (!notifier_->told(v1::MIGRATION_PHASE_DONE)) {
    Publish(v1::MIGRATION_PHASE_DONE, v1::MIGRATION_PHASE_STATE_SUCCESS, message);
  }
  Finish(true, message);
}

void MigrationSession::EndBadly(Recovery recovery) {
  if (info_.done()) return;
  TellFailure();
  if (recovery != Recovery::kNone && !notifier_->told(v1::MIGRATION_PHASE_RECOVERY_DONE)) {
    Publish(v1::MIGRATION_PHASE_RECOVERY_DONE,
            recovery == Recovery::kDone ? v1::MIGRATION_PHASE_STATE_SUCCESS
                                        : v1::MIGRATION_PHASE_STATE_RECOVERY_FAILED,
            info_.error());
  }
  Finish(false, info_.error());
}

void MigrationSession::Finish(bool moved, const std::string& message) {
  info_.set_done(true);
  info_.set_ended_unix_ms(NowUnixMs());
  if (trace_) {
    for (const auto row : {SessionTrace::Row::kSession, SessionTrace::Row::kMemory}) {
      trace_->Enter(row, "", Clock::now());
    }
  }
  notifier_->Close();
  ended_->Set();
  greetings_.Cancel();
  if (connection_ != nullptr) connection_->Close();
  RemoveSocketPaths();
  deps_.events().Publish(
      moved ? "migration.done" : "migration.ended", id(),
      {{"vm", info_.vm_name()}, {"location", info_.vm_location()}, {"message", message}});
  Store();
  LetGoIfOver();
}

Task<absl::Status> MigrationSession::Dismiss() {
  auto self = shared_from_this();
  info_.set_dismissed(true);
  const absl::Status stored = co_await StoreNow();
  if (!stored.ok()) info_.set_dismissed(false);
  co_return stored;
}

void MigrationSession::Store() { Spawn(deps_.executor(), StoreLater(shared_from_this())); }

Task<absl::Status> MigrationSession::StoreNow() {
  auto self = shared_from_this();
  const vm::SessionRow row = ToRow(Describe(), over(), request_id_);
  co_return co_await deps_.store().PutSession(row);
}

Task<void> MigrationSession::StoreLater(std::shared_ptr<MigrationSession> self) {
  absl::Status stored = co_await self->StoreNow();
  if (!stored.ok()) spdlog::error("session {}: {}", self->id(), stored.ToString());
}

absl::Status MigrationSession::Explain(const absl::Status& status, const std::string& phase,
                                       const std::string& next_step) const {
  if (status.ok()) return status;
  v1::ErrorInfo info;
  if (auto known = rpc::GetErrorInfo(status)) info = *known;
  info.set_side(origin() == v1::MIGRATION_ORIGIN_SOURCE ? v1::ErrorInfo::SIDE_SOURCE
                                                        : v1::ErrorInfo::SIDE_DESTINATION);
  if (info.phase().empty()) info.set_phase(phase);
  if (info.vm_location().empty()) info.set_vm_location(info_.vm_location());
  if (info.next_step().empty()) info.set_next_step(next_step);
  info.set_session_id(id());
  return rpc::WithErrorInfo(status, info);
}

double MigrationSession::MillisecondsBetween(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double, std::milli>(to - from).count();
}

}  // namespace ferry::migration
