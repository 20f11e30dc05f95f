#include "migration/preflight/checks.h"

#include <gmock/gmock.h>

#include <functional>
#include <set>

#include "migration/preflight/host_checks.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::migration {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kNow = 1'700'000'000'000;
constexpr int64_t kDay = 24ll * 3600 * 1000;

CertificateFacts Certificate(int64_t days) {
  CertificateFacts facts;
  facts.used = true;
  facts.certificate->not_after = (kNow + days * kDay) / 1000 + 1;
  return facts;
}

FolderFacts Folder(uint64_t available_mb) {
  FolderFacts facts;
  facts.path = "/state";
  facts.room = vm::Capacity{32, available_mb, 1000};
  return facts;
}

SourceFacts GoodSource() {
  SourceFacts facts;
  facts.now_unix_ms = kNow;
  facts.certificate = Certificate(100);
  facts.vm_state = v1::VM_STATE_RUNNING;
  facts.blockers = std::vector<std::string>();
  facts.folder = Folder(500);
  return facts;
}

v1::Difference Differing(const std::string& field) {
  v1::Difference difference;
  difference.set_field(field);
  difference.set_source("this");
  difference.set_destination("that");
  return difference;
}

DestinationFacts GoodDestination() {
  DestinationFacts facts;
  facts.now_unix_ms = kNow;
  facts.source_unix_ms = kNow - 3;
  facts.certificate = Certificate(100);
  facts.vmm = "qemu 7.2.22";
  facts.vm.mutable_fingerprint()->set_cpu_model("max");
  facts.vm.mutable_fingerprint()->add_cpu_features("avx");
  facts.machine.fingerprint = facts.vm.fingerprint();
  facts.memory = vm::Capacity{320, 4000, 8000};
  facts.session_address = "10.0.0.2:7000";
  facts.bound_address = "10.0.0.2:7000";
  facts.source_address = "10.0.0.1:7717";
  facts.folder = Folder(500);
  return facts;
}

v1::PreflightCheck Find(const std::vector<v1::PreflightCheck>& checks, const std::string& name) {
  for (const v1::PreflightCheck& check : checks) {
    if (check.name() == name) return check;
  }
  ADD_FAILURE() << "there is no check " << name;
  return {};
}

// All of `checks` pass but `name`, which says what to do unless there is nothing to do.
void ExpectOnly(const std::vector<v1::PreflightCheck>& checks, const std::string& name,
                v1::PreflightResult result, const std::string& found) {
  for (const v1::PreflightCheck& check : checks) {
    if (check.name() == name) continue;
    EXPECT_EQ(check.result(), v1::PREFLIGHT_RESULT_PASS) << name << ": " << check.DebugString();
    EXPECT_TRUE(check.fix().empty()) << check.DebugString();
  }
  const v1::PreflightCheck check = Find(checks, name);
  EXPECT_EQ(check.result(), result) << check.DebugString();
  EXPECT_THAT(check.message(), HasSubstr(found));
  EXPECT_TRUE(result != v1::PREFLIGHT_RESULT_FAIL || !check.fix().empty()) << name;
}

TEST(Preflight, GoodHostsPassEveryCheckUnderItsOwnName) {
  std::set<std::string> names;
  v1::PreflightResponse response;
  for (const auto& checks : {CheckSource(GoodSource()), CheckDestination(GoodDestination())}) {
    for (const v1::PreflightCheck& check : checks) {
      EXPECT_EQ(check.result(), v1::PREFLIGHT_RESULT_PASS) << check.DebugString();
      EXPECT_FALSE(check.message().empty()) << check.name();
      EXPECT_TRUE(names.insert(check.name()).second) << check.name();
      *response.add_checks() = check;
    }
  }
  EXPECT_TRUE(AllowsMigration(response));
  response.mutable_checks(0)->set_result(v1::PREFLIGHT_RESULT_WARN);
  EXPECT_TRUE(AllowsMigration(response));
  response.mutable_checks(0)->set_result(v1::PREFLIGHT_RESULT_FAIL);
  EXPECT_FALSE(AllowsMigration(response));
}

struct SourceRow {
  const char* name;
  v1::PreflightResult result;
  const char* found;
  std::function<void(SourceFacts&)> spoil;
};

TEST(Preflight, SourceChecks) {
  const auto fail = v1::PREFLIGHT_RESULT_FAIL;
  const auto warn = v1::PREFLIGHT_RESULT_WARN;
  const SourceRow rows[] = {
      {"vm_state", fail, "does not run", [](auto& f) { f.vm_state = v1::VM_STATE_STOPPED; }},
      {"source_session", fail, "migration s1", [](auto& f) { f.other_session = "s1"; }},
      {"agent", fail, "no answer",
       [](auto& f) { f.agent_ms = absl::DeadlineExceededError("no answer"); }},
      {"agent", warn, "paused", [](auto& f) { f.vm_state = v1::VM_STATE_PAUSED; }},
      {"migratable", fail, "nvme",
       [](auto& f) { f.blockers = std::vector<std::string>{"nvme is non-migratable"}; }},
      {"migratable", fail, "silent",
       [](auto& f) { f.blockers = absl::UnavailableError("silent"); }},
      {"source_machine", fail, "cannot read",
       [](auto& f) { f.plan = absl::NotFoundError("cannot read"); }},
      {"source_options", fail, "scale",
       [](auto& f) { f.options = absl::InvalidArgumentError("scale"); }},
      {"source_certificate", warn, "whoever", [](auto& f) { f.certificate = {}; }},
      {"source_certificate", warn, "3 more days", [](auto& f) { f.certificate = Certificate(3); }},
      {"source_certificate", fail, "expired", [](auto& f) { f.certificate = Certificate(-1); }},
      {"source_certificate", fail, "not valid yet",
       [](auto& f) { f.certificate.certificate->not_before = kNow / 1000 + 1; }},
      {"source_state", fail, "32 MiB are needed", [](auto& f) { f.folder = Folder(31); }},
      {"source_fence", fail, "process 7",
       [](auto& f) { f.fence.sight = absl::FailedPreconditionError("process 7 holds it"); }},
      {"source_fence", warn, "not claimed", [](auto& f) { f.fence.sight = vm::FenceSight::kFree; }},
      {"source_state", fail, "read-only",
       [](auto& f) { f.folder.writable = absl::PermissionDeniedError("read-only"); }},
  };
  for (const SourceRow& row : rows) {
    SourceFacts facts = GoodSource();
    row.spoil(facts);
    ExpectOnly(CheckSource(facts), row.name, row.result, row.found);
  }
}

struct DestinationRow {
  const char* name;
  v1::PreflightResult result;
  const char* found;
  std::function<void(DestinationFacts&)> spoil;
};

TEST(Preflight, DestinationChecks) {
  const auto fail = v1::PREFLIGHT_RESULT_FAIL;
  const auto warn = v1::PREFLIGHT_RESULT_WARN;
  const DestinationRow rows[] = {
      {"memory", fail, "320 MiB",
       [](auto& f) {
         f.memory = vm::Capacity{320, 319, 8000};
       }},
      {"memory", warn, "321 MiB",
       [](auto& f) {
         f.memory = vm::Capacity{320, 321, 8000};
       }},
      {"memory", warn, "no meminfo",
       [](auto& f) { f.memory = absl::UnavailableError("no meminfo"); }},
      {"vm_name", fail, "has a VM", [](auto& f) { f.taken = "it has a VM named web"; }},
      {"destination_session", fail, "migration s2", [](auto& f) { f.other_session = "s2"; }},
      {"destination_options", fail, "scale",
       [](auto& f) { f.options = absl::InvalidArgumentError("scale"); }},
      {"migration_address", fail, "no host's address",
       [](auto& f) { f.session_address = "0.0.0.0:7000"; }},
      {"migration_address", fail, "cannot reach", [](auto& f) { f.bound_address = "127.0.0.1:7"; }},
      {"destination_certificate", fail, "expired",
       [](auto& f) { f.certificate = Certificate(-1); }},
      {"destination_state", fail, "needed", [](auto& f) { f.folder = Folder(1); }},
      {"clock", warn, "60 s ahead", [](auto& f) { f.source_unix_ms = kNow - 60'000; }},
      {"clock", warn, "60 s behind", [](auto& f) { f.source_unix_ms = kNow + 60'000; }},
      {"clock", warn, "does not tell", [](auto& f) { f.source_unix_ms = 0; }},
      {"cpu_features", warn, "avx512f",
       [](auto& f) { f.machine.fingerprint.add_cpu_features("avx512f"); }},
      {"disks", warn, "not proved",
       [](auto& f) {
         f.machine.document.virtual_machine.devices.scsi["0"].attachments["0"].name = "data";
       }},
  };
  for (const DestinationRow& row : rows) {
    DestinationFacts facts = GoodDestination();
    row.spoil(facts);
    ExpectOnly(CheckDestination(facts), row.name, row.result, row.found);
  }
}

TEST(Preflight, DisksThatTheSourceTellsAreTheSame) {
  const auto disks = [](const DestinationFacts& facts) {
    for (const v1::PreflightCheck& check : CheckDestination(facts)) {
      if (check.name() == "disks") return check;
    }
    return v1::PreflightCheck();
  };
  DestinationFacts facts = GoodDestination();
  EXPECT_EQ(disks(facts).message(), "the VM has no disks");
  facts.machine.document.virtual_machine.devices.scsi["0"].attachments["0"].name = "data";
  state::v1::DiskPayload* data = facts.vm.add_disks();
  data->set_name("data");
  EXPECT_EQ(disks(facts).result(), v1::PREFLIGHT_RESULT_WARN);
  data->set_mark("lock:1");
  EXPECT_EQ(disks(facts).result(), v1::PREFLIGHT_RESULT_PASS);
  EXPECT_EQ(disks(facts).message(), "the destination has the same disks (1)");
}

TEST(Preflight, OfNetworksItSaysWhatWasLookedAtAndWhatMayHelp) {
  const auto networks = [](const DestinationFacts& facts) {
    for (const v1::PreflightCheck& check : CheckDestination(facts)) {
      if (check.name() == "networks") return check;
    }
    return v1::PreflightCheck();
  };
  DestinationFacts facts = GoodDestination();
  EXPECT_EQ(networks(facts).message(), "the VM has no network cards");
  facts.machine.document.virtual_machine.devices.network_adapters["0"].bridge = "br0";
  EXPECT_EQ(networks(facts).message(),
            "the destination can plug in all network cards (1), and no VM there has a MAC address "
            "of theirs");
  facts.machine.differences = {Differing("nic")};
  // It need not be for want of a bridge.
  EXPECT_THAT(networks(facts).fix(), HasSubstr("what the destination says"));
  EXPECT_THAT(networks(facts).fix(), HasSubstr("same MAC address"));
}

TEST(Preflight, EachDifferenceFailsTheCheckItBelongsTo) {
  const std::pair<const char*, const char*> rows[] = {
      {"backend", "vmm_version"},
      {"backend_version", "vmm_version"},
      {"accelerator", "accelerator"},
      {"machine_type", "machine_type"},
      {"cpu_model", "cpu_model"},
      {"cpu_features", "cpu_features"},
      {"kernel", "guest_image"},
      {"initrd", "guest_image"},
      {"disk data", "disks"},
      {"nic", "networks"},
      {"nic eth0", "networks"},
      {"device 0", "devices"},
      {"cpus", "devices"},
      {"memory_mb", "devices"},
      {"kernel_cmd_line", "devices"},
      {"guest_link", "devices"},
      {"something newer", "devices"},
  };
  for (const auto& [field, check] : rows) {
    DestinationFacts facts = GoodDestination();
    facts.machine.differences = {Differing(field)};
    ExpectOnly(CheckDestination(facts), check, v1::PREFLIGHT_RESULT_FAIL,
               std::string(field) + ": source this, destination that");
  }
}

TEST(Preflight, VersionsAreCompared) {
  PeerFacts facts;
  facts.destination = "b:1";
  facts.here.set_version("0.2.0");
  (*facts.here.mutable_format_versions())["bridge"] = 4;
  v1::Host there = facts.here;
  facts.there = there;
  EXPECT_EQ(Find(CheckPeer(facts), "versions").result(), v1::PREFLIGHT_RESULT_PASS);
  (*there.mutable_format_versions())["bridge"] = 3;
  facts.there = there;
  EXPECT_EQ(Find(CheckPeer(facts), "versions").result(), v1::PREFLIGHT_RESULT_WARN);
  EXPECT_THAT(Find(CheckPeer(facts), "versions").message(), HasSubstr("bridge 4 here, 3 there"));
  facts.there = absl::UnimplementedError("no such call");
  EXPECT_EQ(Find(CheckPeer(facts), "versions").result(), v1::PREFLIGHT_RESULT_WARN);
}

TEST(Preflight, NoAnswerIsExplainedByItsKind) {
  EXPECT_EQ(ExplainNoAnswer("b", absl::UnavailableError("refused")).name(), "reachability");
  EXPECT_EQ(ExplainNoAnswer("b", absl::PermissionDeniedError("no")).name(), "authorization");
  EXPECT_THAT(ExplainNoAnswer("b", absl::UnimplementedError("?")).fix(), HasSubstr("older"));
  for (const absl::Status& status : {absl::UnavailableError("x"), absl::UnauthenticatedError("x"),
                                     absl::UnimplementedError("x"), absl::InternalError("x")}) {
    EXPECT_EQ(ExplainNoAnswer("b", status).result(), v1::PREFLIGHT_RESULT_FAIL);
  }
}

TEST(Preflight, AFenceThatTheHostsDoNotShareIsToldOnlyWhereTheyMeantTo) {
  DestinationFacts facts = GoodDestination();
  facts.fence = {vm::kHostLock, vm::FenceSight::kFree};
  ExpectOnly(CheckDestination(facts), "destination_fence", v1::PREFLIGHT_RESULT_PASS, "host_lock");
  facts.fence.level = vm::kImageLock;
  ExpectOnly(CheckDestination(facts), "destination_fence", v1::PREFLIGHT_RESULT_WARN,
             "in the destination's folder");
  facts.fence.sight = vm::FenceSight::kHeld;
  ExpectOnly(CheckDestination(facts), "destination_fence", v1::PREFLIGHT_RESULT_PASS, "image_lock");
  facts.fence.sight = absl::FailedPreconditionError("process 7 holds it");
  ExpectOnly(CheckDestination(facts), "destination_fence", v1::PREFLIGHT_RESULT_FAIL, "process 7");
}

TEST(Preflight, AVmThatStaysIsTold) {
  SourceFacts facts = GoodSource();
  for (const v1::PreflightCheck& check : CheckSource(facts)) EXPECT_NE(check.name(), "stays");
  facts.stays = rpc::ErrorWithReason(absl::StatusCode::kFailedPrecondition, "it stays", "vm_stays",
                                     "use another one");
  bool told = false;
  for (const v1::PreflightCheck& check : CheckSource(facts)) {
    if (check.name() != "stays") continue;
    told = true;
    EXPECT_EQ(check.result(), v1::PREFLIGHT_RESULT_FAIL);
    EXPECT_EQ(check.message(), "it stays");
  }
  EXPECT_TRUE(told);
}

}  // namespace
}  // namespace ferry::migration
