#include "migration/preflight/preflight.h"

#include <unistd.h>

#include <boost/uuid/random_generator.hpp>
#include <boost/uuid/uuid_io.hpp>
#include <cerrno>
#include <chrono>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/unix_time.h"
#include "migration/controller/exported_plan.h"
#include "migration/options/initialize_options.h"
#include "migration/options/profile.h"
#include "vmmanager/sandbox/checkpoint_moves.h"

namespace ferry::migration {
namespace {

// A round trip to the guest's agent, in milliseconds. One that comes back just now, after a restore
// for instance, is waited for.
Task<absl::StatusOr<double>> AskWhenReady(std::shared_ptr<guest::Guest> guest) {
  CO_RETURN_IF_ERROR(co_await guest->WaitReady());
  const auto asked = std::chrono::steady_clock::now();
  std::string query = "{}";
  const auto answer = co_await guest->GetProperties(std::move(query));
  if (!answer.ok()) co_return answer.status();
  const auto taken = std::chrono::steady_clock::now() - asked;
  co_return std::chrono::duration<double, std::milli>(taken).count();
}

Task<absl::StatusOr<double>> AskAgent(std::shared_ptr<guest::Guest> guest, milliseconds limit) {
  if (guest == nullptr) co_return absl::FailedPreconditionError("the VM has no guest");
  co_return co_await WithDeadline(limit, "the guest's agent", AskWhenReady(std::move(guest)));
}

Task<absl::StatusOr<std::vector<std::string>>> AskBlockers(
    std::shared_ptr<vm::ComputeSystem> system) {
  if (system == nullptr) co_return absl::FailedPreconditionError("the VM has no VMM");
  schema::PropertyQuery query;
  query.types = {schema::PropertyType::kMigrationBlockers};
  const auto properties = co_await system->GetProperties(query);
  if (!properties.ok()) co_return properties.status();
  co_return properties->migration_blockers;
}

void Append(v1::PreflightResponse& response, const std::vector<v1::PreflightCheck>& checks) {
  response.mutable_checks()->Add(checks.begin(), checks.end());
}

}  // namespace

Task<absl::StatusOr<v1::PreflightResponse>> Preflight::Run(v1::PreflightRequest request) {
  CO_ASSIGN_OR_RETURN(std::shared_ptr<vm::UtilityVm> machine, deps_.inventory.Find(request.vm()));
  CO_ASSIGN_OR_RETURN(std::shared_ptr<PeerClient> peer, deps_.make_peer(request.destination()));
  SourceFacts facts = co_await LookAt(machine, request.options().copy_storage());
  facts.certificate = LookAtCertificate(request.destination());
  facts.options = ExpandProfile(request.profile(), *request.mutable_options());
  if (facts.options.ok()) facts.options = InitializeOptionsFromProto(request.options()).status();
  if (facts.options.ok()) facts.options = CheckCopyStorage(request.options().copy_storage());

  const std::string no_session = boost::uuids::to_string(boost::uuids::random_generator()());
  std::vector<vm::DiskMark> marks;
  auto described = co_await DescribeForExport(deps_, machine, no_session,
                                              request.options().copy_storage(), &marks);
  std::string plan;
  if (described.ok()) {
    auto encoded = vm::EncodePlan(*described);
    facts.plan = encoded.status();
    if (encoded.ok()) plan = *std::move(encoded);
  } else {
    facts.plan = described.status();
  }
  v1::PreflightResponse response;
  Append(response, CheckSource(facts));
  co_await AskDestination(std::move(peer), std::move(request), std::move(plan), &response);
  response.set_ok(AllowsMigration(response));
  co_return response;
}

Task<void> Preflight::AskDestination(std::shared_ptr<PeerClient> peer, v1::PreflightRequest request,
                                     std::string plan, v1::PreflightResponse* response) {
  PeerFacts facts;
  facts.destination = request.destination();
  facts.here = vm::DescribeHost(deps_.inventory.deps(), settings_.program);
  facts.there = co_await peer->Host();
  const bool silent =
      absl::IsUnavailable(facts.there.status()) || absl::IsDeadlineExceeded(facts.there.status());
  if (silent) {
    *response->add_checks() = ExplainNoAnswer(facts.destination, facts.there.status());
    co_return;
  }
  v1::PreflightIncomingRequest incoming;
  incoming.set_config(std::move(plan));
  *incoming.mutable_options() = request.options();
  incoming.set_unix_ms(NowUnixMs());
  const auto answer = co_await peer->PreflightIncoming(std::move(incoming));
  Append(*response, CheckPeer(facts));
  if (!answer.ok()) {
    *response->add_checks() = ExplainNoAnswer(facts.destination, answer.status());
    co_return;
  }
  response->mutable_checks()->MergeFrom(answer->checks());
}

Task<SourceFacts> Preflight::LookAt(std::shared_ptr<vm::UtilityVm> machine,
                                    v1::CopyStorage storage) {
  SourceFacts facts;
  facts.now_unix_ms = static_cast<int64_t>(NowUnixMs());
  facts.vm_state = machine->state();
  facts.other_session = OpenSession(machine->id());
  facts.stays = machine->CheckMayLeave();
  if (deps_.exports != nullptr)
    facts.containers = deps_.exports->CheckMovable(machine->id(), storage);
  facts.folder = LookAtFolder();
  std::shared_ptr<guest::Guest> guest = machine->guest();
  if (facts.vm_state != v1::VM_STATE_PAUSED) {
    facts.agent_ms = co_await AskAgent(std::move(guest), settings_.agent);
  }
  std::shared_ptr<vm::ComputeSystem> system = machine->system();
  facts.blockers = co_await AskBlockers(std::move(system));
  vm::FenceClaim claim{machine->id(), machine->name(), machine->epoch()};
  std::string own_journal = deps_.store().journal_id();
  facts.fence = co_await LookAtFence(std::move(claim), std::move(own_journal));
  co_return facts;
}

Task<absl::StatusOr<v1::PreflightResponse>> Preflight::RunIncoming(
    v1::PreflightIncomingRequest request) {
  DestinationFacts facts;
  facts.now_unix_ms = static_cast<int64_t>(NowUnixMs());
  facts.source_unix_ms = static_cast<int64_t>(request.unix_ms());
  v1::PreflightResponse response;
  const absl::StatusOr<vm::PlanState> plan = vm::DecodePlan(request.config());
  if (!plan.ok()) {
    *response.add_checks() = ExplainUnreadablePlan(plan.status());
    co_return response;
  }
  absl::StatusOr<vm::IncomingMachine> machine =
      co_await vm::FitMachine(plan->vm, deps_.inventory, deps_.digests);
  if (!machine.ok()) {
    *response.add_checks() = ExplainUnreadablePlan(machine.status());
    co_return response;
  }
  const vm::BackendInfo& backend = deps_.inventory.deps().backend.info();
  facts.certificate = LookAtCertificate(deps_.own_address());
  facts.vmm = absl::StrCat(backend.name, " ", backend.version);
  facts.vm = plan->vm;
  std::string own = deps_.inventory.deps().settings.state_folder;
  facts.checkpoints =
      (co_await vm::FitCheckpoints(plan->vm, std::move(own), &deps_.digests.reads())).status();
  facts.machine = *std::move(machine);
  std::vector<vm::ArrivingDisk> copies = facts.machine.copies;
  for (const state::v1::ContainerRecord& container : plan->vm.containers()) {
    if (container.scratch_bytes() == 0) continue;
    vm::ArrivingDisk& scratch = copies.emplace_back();
    scratch.bytes = container.scratch_bytes();
    scratch.used_bytes = container.scratch_used_bytes();
  }
  facts.disks_come = !copies.empty();
  std::string state_folder = deps_.inventory.deps().settings.state_folder;
  facts.disk_room =
      co_await vm::CheckArrivalRoom(deps_.inventory.deps().overlays, std::move(state_folder),
                                    std::move(copies), deps_.image_reserve);
  facts.memory =
      vm::MemoryFor(plan->vm.fingerprint().memory_mb(), plan->vm.vm_id(), deps_.inventory);
  facts.taken = WhyTaken(*plan);
  facts.other_session = OpenSession(plan->vm.vm_id());
  facts.options = InitializeOptionsFromProto(request.options()).status();
  facts.session_address = deps_.listener.address();
  facts.bound_address = deps_.listener.bound_address();
  facts.source_address = plan->source_address;
  facts.folder = LookAtFolder();
  vm::FenceClaim claim{plan->vm.vm_id(), plan->vm.vm_name(), plan->vm.epoch() + 1};
  std::string source_journal = plan->source_journal_id;
  facts.fence = co_await LookAtFence(std::move(claim), std::move(source_journal));
  Append(response, CheckDestination(facts));
  response.set_ok(AllowsMigration(response));
  co_return response;
}

std::string Preflight::OpenSession(const std::string& vm_id) const {
  for (const v1::Session& session : sessions_.List(vm_id)) {
    if (!session.done()) return session.session_id();
  }
  return "";
}

CertificateFacts Preflight::LookAtCertificate(const std::string& address) const {
  CertificateFacts facts;
  // What stays on this host needs none.
  facts.used = !settings_.certificate.empty() && !absl::StartsWith(address, "unix:");
  if (facts.used) facts.certificate = identity::DescribeFile(settings_.certificate);
  return facts;
}

FolderFacts Preflight::LookAtFolder() const {
  const vm::HostSettings& settings = deps_.inventory.deps().settings;
  FolderFacts facts;
  facts.path = settings.state_folder;
  for (const std::string& folder : {settings.state_folder, deps_.runtime_dir}) {
    if (!folder.empty() && ::access(folder.c_str(), W_OK | X_OK) != 0) {
      facts.writable = absl::ErrnoToStatus(errno, absl::StrCat("cannot write to ", folder));
    }
  }
  facts.room = vm::StateRoom(settings);
  return facts;
}

Task<FenceFacts> Preflight::LookAtFence(vm::FenceClaim claim, std::string holder) const {
  vm::Fence& fence = deps_.inventory.deps().fence;
  FenceFacts facts;
  facts.level = fence.level();
  facts.sight = co_await fence.Look(std::move(claim), std::move(holder));
  co_return facts;
}

std::string Preflight::WhyTaken(const vm::PlanState& plan) const {
  if (plan.source_journal_id == deps_.store().journal_id()) {
    return absl::StrCat("the destination is the VM's own host, ", deps_.own_address());
  }
  for (const std::string& name : {plan.vm.vm_id(), plan.vm.vm_name()}) {
    if (auto other = deps_.inventory.Find(name); other.ok()) {
      return absl::StrCat("the destination has a VM named ", (*other)->name(), " (", (*other)->id(),
                          ")");
    }
  }
  return "";
}

}  // namespace ferry::migration
