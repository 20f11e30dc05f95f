#include "migration/controller/orchestrator.h"

#include <spdlog/spdlog.h>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "migration/options/profile.h"
#include "vmmanager/fence/fence.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::migration {
Task<absl::Status> Orchestrator::Start(std::shared_ptr<SourceSession> session,
                                       v1::MigrateRequest request) {
  auto peer = deps_.make_peer(request.destination());
  if (!peer.ok()) co_return peer.status();
  auto run = std::make_shared<Run>();
  run->session = std::move(session);
  run->peer = *std::move(peer);
  run->request = std::move(request);
  run->session->set_commit_when_ready();
  run->session->set_request_id(run->request.request_id());
  CO_RETURN_IF_ERROR(ExpandProfile(run->request.profile(), *run->request.mutable_options()));
  if (!v1::TimeoutAction_IsValid(run->request.on_timeout())) {
    co_return absl::InvalidArgumentError(
        absl::StrCat("on_timeout is ", run->request.on_timeout(), ", but must be from 0 to 3"));
  }
  auto plan = co_await run->session->PrepareAndExport(run->request.vm(), run->request.destination(),
                                                      run->request.options());
  if (!plan.ok()) co_return plan.status();
  run->plan = *std::move(plan);
  const uint64_t limit = run->request.timeout_ms() != 0
                             ? run->request.timeout_ms()
                             : DefaultTimeLimitMs(run->request.profile());
  run->session->LimitTime(milliseconds(limit), run->request.on_timeout());
  Spawn(deps_.executor(), RunToEnd(run, &deps_));
  co_return absl::OkStatus();
}

Task<void> Orchestrator::RunToEnd(std::shared_ptr<Run> run, const ControllerDeps* deps) {
  absl::Status outcome = co_await Drive(run);
  if (outcome.ok()) {
    co_await SettleInDoubt(run, deps->limits);
    co_await CleanUpPeer(run, outcome);
    co_return;
  }
  spdlog::warn("session {}: {}", run->session->id(), outcome.ToString());
  run->session->NoteError(outcome);
  // The source runs on: undo what was prepared, on both sides.
  (void)co_await run->session->Cancel(std::string(outcome.message()));
  co_await CleanUpPeer(run, outcome);
  co_await GiveBack(run->session, deps->limits.ask_again);
  std::shared_ptr<PeerClient> peer = run->peer;
  co_await run->session->TellAbort(std::move(peer));
}

Task<void> Orchestrator::GiveBack(std::shared_ptr<SourceSession> session, milliseconds pause) {
  while (true) {
    std::string no_proof;
    auto back = co_await session->Finalize(v1::FINALIZE_ACTION_RESUME, std::move(no_proof));
    if (back.ok() || session->Describe().done()) co_return;
    // What is not allowed now will not be later, since it was decided otherwise; but a fence may be
    // held for a moment only.
    const std::string reason = rpc::ReasonOf(back.status());
    const bool fenced = reason == vm::kFenceHeld || reason == vm::kFenceStale;
    if (absl::IsFailedPrecondition(back.status()) && !fenced) co_return;
    spdlog::warn("session {}: {}; tried again", session->id(), back.status().ToString());
    co_await Delay(pause);
  }
}

Task<absl::Status> Orchestrator::Drive(std::shared_ptr<Run> run) {
  const std::string id = run->session->id();
  v1::ImportSandboxRequest import;
  import.set_session_id(id);
  import.set_config(std::move(run->plan));
  auto imported = co_await run->peer->Import(std::move(import));
  if (!imported.ok()) co_return imported.status();
  run->disks_come = !imported->disks().empty();
  CO_RETURN_IF_ERROR(co_await BringContainers(run, *std::move(imported)));

  v1::PrepareSandboxRequest prepare;
  prepare.set_session_id(id);
  *prepare.mutable_init_options() = run->request.options();
  auto prepared = co_await run->peer->Prepare(std::move(prepare));
  if (!prepared.ok()) co_return prepared.status();
  if (prepared->session_address().empty()) {
    co_return rpc::ErrorWithReason(
        absl::StatusCode::kFailedPrecondition,
        absl::StrCat(run->request.destination(), " accepts no session connections"),
        "no_session_address", "start ferryd there with certificates, or with --insecure-tcp");
  }

  if (run->disks_come) CO_RETURN_IF_ERROR(co_await BringDisks(run));
  v1::TransferSandboxRequest receive;
  receive.set_session_id(id);
  CO_RETURN_IF_ERROR(co_await run->peer->Transfer(receive));
  v1::TransferSandboxRequest transfer;
  transfer.set_session_id(id);
  transfer.set_session_address(prepared->session_address());
  transfer.set_session_token(prepared->session_token());
  CO_RETURN_IF_ERROR(co_await run->session->Transfer(std::move(transfer)));
  CO_RETURN_IF_ERROR(co_await run->session->AwaitTransfer());
  co_return co_await run->session->AwaitCommit();
}

Task<absl::Status> Orchestrator::BringContainers(std::shared_ptr<Run> run,
                                                 v1::ImportSandboxResponse imported) {
  bool complete = true;
  for (const v1::IncomingContainer& container : imported.containers()) {
    v1::BindContainerRequest bind;
    bind.set_session_id(run->session->id());
    bind.set_source_container_id(container.container_id());
    auto bound = co_await run->peer->Bind(std::move(bind));
    if (!bound.ok()) co_return bound.status();
    complete = bound->missing_layers().empty();
    run->disks_come = run->disks_come || bound->scratch_comes();
  }
  if (complete) co_return absl::OkStatus();
  v1::ReceiveLayersRequest receive;
  receive.set_session_id(run->session->id());
  auto awaited = co_await run->peer->ReceiveLayers(std::move(receive));
  if (!awaited.ok()) co_return awaited.status();
  // They may have come meanwhile for another VM.
  if (awaited->layers().empty()) co_return absl::OkStatus();
  v1::SendLayersRequest send;
  send.set_session_id(run->session->id());
  send.set_session_address(awaited->session_address());
  send.set_session_token(awaited->session_token());
  *send.mutable_layers() = awaited->layers();
  co_return co_await run->session->SendLayers(std::move(send));
}

Task<absl::Status> Orchestrator::BringDisks(std::shared_ptr<Run> run) {
  v1::ReceiveDisksRequest receive;
  receive.set_session_id(run->session->id());
  auto awaited = co_await run->peer->ReceiveDisks(std::move(receive));
  if (!awaited.ok()) co_return awaited.status();
  v1::SendDisksRequest send;
  send.set_session_id(run->session->id());
  send.set_session_address(awaited->session_address());
  send.set_session_token(awaited->session_token());
  *send.mutable_disks() = awaited->disks();
  if (awaited->has_room_bytes()) send.set_room_bytes(awaited->room_bytes());
  co_return co_await run->session->SendDisks(std::move(send));
}

// After COMMIT only the destination's word counts, whichever way it comes: over the session
// connection, or as the answer to the GO that is offered again.
Task<void> Orchestrator::SettleInDoubt(std::shared_ptr<Run> run, ControllerLimits limits) {
  std::shared_ptr<SourceSession> session = run->session;
  std::shared_ptr<PeerClient> peer = run->peer;
  const bool released = co_await session->AwaitRelease(limits.release);
  if (released) co_return;
  co_await session->Settle(std::move(peer));
}

Task<void> Orchestrator::CleanUpPeer(std::shared_ptr<Run> run, const absl::Status& outcome) {
  const bool failed = !outcome.ok();
  if (failed) {
    v1::CancelRequest cancel;
    cancel.set_session_id(run->session->id());
    (void)co_await run->peer->Cancel(cancel);
  }
  v1::CleanupRequest cleanup;
  cleanup.set_session_id(run->session->id());
  absl::Status cleaned = co_await run->peer->Cleanup(cleanup);
  if (!cleaned.ok() && !absl::IsNotFound(cleaned)) {
    spdlog::info("session {}: the destination keeps its record: {}", run->session->id(),
                 cleaned.ToString());
  }
}

}  // namespace ferry::migration
