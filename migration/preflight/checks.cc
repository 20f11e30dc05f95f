#include "migration/preflight/checks.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "migration/preflight/host_checks.h"
#include "migration/preflight/verdict.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::migration {
namespace {

v1::PreflightCheck CheckState(v1::VmState state) {
  if (state == v1::VM_STATE_RUNNING) return Passed("vm_state", "the VM runs");
  if (state == v1::VM_STATE_PAUSED)
    return Passed("vm_state", "the VM is paused, and will be there");
  return Failed("vm_state", "the VM does not run, so there is nothing to move",
                "start it first, or wait until what is done to it has ended");
}

v1::PreflightCheck CheckAgent(const SourceFacts& facts) {
  if (facts.vm_state == v1::VM_STATE_PAUSED) {
    return Warned("agent", "the VM is paused, so its agent cannot be asked", "");
  }
  return PassedIf(
      "agent", facts.agent_ms.status(),
      absl::StrCat("the guest's agent answered within ",
                   static_cast<int64_t>(facts.agent_ms.value_or(0) + 1), " ms"),
      "wait until the guest is up, or look at its console; a guest whose agent does not "
      "answer cannot be moved with its processes");
}

v1::PreflightCheck CheckBlockers(const absl::StatusOr<std::vector<std::string>>& blockers) {
  if (!blockers.ok()) {
    return Failed("migratable", std::string(blockers.status().message()), "see the VM's qemu.log");
  }
  if (blockers->empty()) return Passed("migratable", "no device of the VM keeps it here");
  return Failed("migratable", absl::StrJoin(*blockers, "; "),
                "take that device out of the VM, or stop the VM and start it elsewhere");
}

v1::PreflightCheck CheckOther(const std::string& name, const std::string& session) {
  if (session.empty()) return Passed(name, "no other migration holds the VM");
  return Failed(name, absl::StrCat("migration ", session, " holds the VM"),
                "wait for its end, or cancel it");
}

// Formats of which both hosts know a version; an older one is negotiated.
v1::PreflightCheck CheckVersions(const v1::Host& here, const absl::StatusOr<v1::Host>& there) {
  if (!there.ok()) {
    return Warned("versions",
                  absl::StrCat("the destination does not tell: ", there.status().message()), "");
  }
  const std::string both =
      absl::StrCat("ferry ", here.version(), " here and ", there->version(), " at the destination");
  std::vector<std::string> older;
  for (const auto& [name, version] : here.format_versions()) {
    const auto other = there->format_versions().find(name);
    const uint32_t known = other == there->format_versions().end() ? 0 : other->second;
    if (known != version) {
      older.push_back(absl::StrCat(name, " ", version, " here, ", known, " there"));
    }
  }
  if (older.empty()) return Passed("versions", both);
  std::sort(older.begin(), older.end());
  return Warned("versions", absl::StrCat(both, "; ", absl::StrJoin(older, "; ")),
                "hosts one release apart work together; bring both to the same one soon");
}

}  // namespace

std::vector<v1::PreflightCheck> CheckSource(const SourceFacts& facts) {
  std::vector<v1::PreflightCheck> checks;
  checks.push_back(CheckState(facts.vm_state));
  checks.push_back(CheckOther("source_session", facts.other_session));
  checks.push_back(CheckAgent(facts));
  checks.push_back(CheckBlockers(facts.blockers));
  if (!facts.stays.ok()) {
    checks.push_back(
        Failed("stays", std::string(facts.stays.message()), rpc::NextStepOf(facts.stays)));
  }
  if (!facts.containers.ok()) {
    checks.push_back(Failed("containers", std::string(facts.containers.message()),
                            rpc::NextStepOf(facts.containers)));
  }
  checks.push_back(PassedIf("source_machine", facts.plan, "the VM can be described completely",
                            "make the files of its guest image readable"));
  checks.push_back(PassedIf("source_options", facts.options, "the options can be met here",
                            "correct that option"));
  checks.push_back(CheckCertificate("source_certificate", facts.certificate, facts.now_unix_ms));
  checks.push_back(CheckFolder("source_state", facts.folder));
  checks.push_back(CheckSourceFence(facts.fence));
  return checks;
}

std::vector<v1::PreflightCheck> CheckPeer(const PeerFacts& facts) {
  std::vector<v1::PreflightCheck> checks;
  checks.push_back(Passed("reachability", absl::StrCat(facts.destination, " answers")));
  checks.push_back(CheckVersions(facts.here, facts.there));
  return checks;
}

v1::PreflightCheck ExplainNoAnswer(const std::string& destination, const absl::Status& status) {
  const std::string text(status.message());
  switch (status.code()) {
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
      return Failed("authorization", text,
                    "give this host a certificate with the role peer, of the destination's CA");
    case absl::StatusCode::kUnimplemented:
      return Failed("destination", absl::StrCat(destination, " does not know this check"),
                    "its ferryd is older; bring it up to date");
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
      return Failed("reachability", text,
                    "check that ferryd runs there, that the address is right, and that both hosts "
                    "use certificates of the same CA or none");
    default:
      return Failed("destination", text, "see the destination's log");
  }
}

v1::PreflightCheck ExplainUnreadablePlan(const absl::Status& status) {
  const std::string step = rpc::NextStepOf(status);
  return Failed("saved_state",
                absl::StrCat("the destination cannot use the plan: ", status.message()),
                step.empty() ? "bring both hosts to the same release" : step);
}

std::vector<v1::PreflightCheck> CheckDestination(const DestinationFacts& facts) {
  std::vector<v1::PreflightCheck> checks = CheckMachine(facts);
  if (!facts.checkpoints.ok()) {
    checks.push_back(Failed("checkpoints", std::string(facts.checkpoints.message()),
                            rpc::NextStepOf(facts.checkpoints)));
  } else if (facts.vm.checkpoints_size() > 0) {
    checks.push_back(Passed("checkpoints", absl::StrCat("the destination sees the files of all ",
                                                        facts.vm.checkpoints_size())));
  }
  if (facts.disks_come) {
    checks.push_back(PassedIf("disk_room", facts.disk_room, "the disks that are copied have room",
                              rpc::NextStepOf(facts.disk_room)));
  }
  checks.push_back(CheckMemory(facts.memory));
  checks.push_back(
      facts.taken.empty()
          ? Passed("vm_name", absl::StrCat("the destination has no VM named ", facts.vm.vm_name()))
          : Failed("vm_name", facts.taken, "rename or delete that one first"));
  checks.push_back(CheckOther("destination_session", facts.other_session));
  checks.push_back(PassedIf("destination_options", facts.options, "the options can be met there",
                            "correct that option"));
  checks.push_back(
      CheckMigrationAddress(facts.session_address, facts.bound_address, facts.source_address));
  checks.push_back(
      CheckCertificate("destination_certificate", facts.certificate, facts.now_unix_ms));
  checks.push_back(CheckFolder("destination_state", facts.folder));
  checks.push_back(CheckDestinationFence(facts.fence));
  checks.push_back(CheckClock(facts.source_unix_ms, facts.now_unix_ms));
  return checks;
}

bool AllowsMigration(const v1::PreflightResponse& response) {
  return std::none_of(response.checks().begin(), response.checks().end(), [](const auto& check) {
    return check.result() == v1::PREFLIGHT_RESULT_FAIL;
  });
}

}  // namespace ferry::migration
