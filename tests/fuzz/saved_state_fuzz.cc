// Throws bytes at the saved state's readers, as a damaged file or a hostile peer would. The first
// byte chooses the reader and whether the bytes come as they are, in an envelope that is whole (so
// that they get past its digest), or as changes to a good state.
#include <google/protobuf/stubs/logging.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "bridge/transport/transport.h"
#include "tests/fuzz/fuzz_target.h"
#include "vmmanager/schema/compute_system.h"
#include "vmmanager/state/envelope.h"
#include "vmmanager/state/saved_state.h"

namespace {

using namespace ferry::vm;  // NOLINT: the whole program is about it
using ferry::guest::GuestState;

GuestState SampleGuest() {
  GuestState state;
  state.next_port = ferry::bridge::kFirstStdioPort + 10;
  state.next_message_id = 20;
  ferry::guest::ProcessState process;
  process.pid = 7;
  process.spec.command = {"cat", "-v"};
  process.spec.environment = {{"A", "b"}};
  process.spec.detached = true;
  process.stdout_port = ferry::bridge::kFirstStdioPort + 1;
  process.stderr_port = ferry::bridge::kFirstStdioPort + 2;
  process.wait_call_id = 5;
  process.std_out = {{2, 1000}, true, 998, "ab"};
  state.processes.push_back(process);
  return state;
}

std::string SamplePlan() {
  PlanState plan;
  plan.session_id = "session";
  plan.source_address = "host-a:1";
  plan.vm.set_schema_version(kStateSchemaVersion);
  plan.vm.set_vm_id("vm");
  plan.vm.set_hcs_document_json(ToJson(ferry::schema::ComputeSystem{}));
  plan.vm.mutable_fingerprint()->set_cpus(1);
  plan.vm.mutable_fingerprint()->set_memory_mb(256);
  plan.vm.mutable_fingerprint()->add_devices("disk0");
  auto sealed = EncodePlan(plan);
  if (!sealed.ok()) std::abort();
  return *sealed;
}

std::string SampleCut(const std::string& plan) {
  CutState cut;
  cut.session_id = "session";
  cut.vm_id = "vm";
  cut.plan_sha256 = PlanDigest(plan);
  cut.guest = SampleGuest();
  auto sealed = EncodeCut(cut);
  if (!sealed.ok()) std::abort();
  return *sealed;
}

// Pairs of position and change.
std::string Change(std::string bytes, std::string_view changes) {
  for (size_t i = 0; i + 2 < changes.size() && !bytes.empty(); i += 3) {
    const size_t at =
        (static_cast<uint8_t>(changes[i]) << 8 | static_cast<uint8_t>(changes[i + 1]));
    bytes[at % bytes.size()] ^= changes[i + 2];
  }
  return bytes;
}

// The three ways to refuse, and no other.
void CheckRefusal(const absl::Status& status) {
  if (absl::IsInvalidArgument(status) || absl::IsFailedPrecondition(status) ||
      absl::IsDataLoss(status)) {
    return;
  }
  std::abort();
}

void TryPlan(const std::string& bytes) {
  auto plan = DecodePlan(bytes);
  if (!plan.ok()) return CheckRefusal(plan.status());
  // What was understood can be said again.
  auto again = EncodePlan(*plan);
  if (!again.ok() || !DecodePlan(*again).ok()) std::abort();
}

void TryCut(const std::string& bytes, const std::string& plan) {
  auto cut = DecodeCut(bytes, plan);
  if (!cut.ok()) return CheckRefusal(cut.status());
  auto again = EncodeCut(*cut);
  if (!again.ok() || !DecodeCut(*again, plan).ok()) std::abort();
}

// An envelope's digest sees every change.
void TryChanged(const std::string& plan, const std::string& cut, std::string_view changes) {
  const std::string changed_plan = Change(plan, changes);
  if (changed_plan != plan && DecodePlan(changed_plan).ok()) std::abort();
  const std::string changed_cut = Change(cut, changes);
  if (changed_cut != cut && DecodeCut(changed_cut, plan).ok()) std::abort();
}

void TryGuest(std::string_view bytes) {
  auto guest = DecodeGuest(bytes);
  if (!guest.ok()) return CheckRefusal(guest.status());
  auto again = EncodeGuest(*guest);
  if (!again.ok() || !DecodeGuest(*again).ok()) std::abort();
}

std::string MessageOf(StateKind kind, const std::string& sealed) {
  auto opened = Open(kind, sealed);
  if (!opened.ok()) std::abort();
  return opened->message;
}

}  // namespace

namespace ferry::fuzz {

std::vector<std::string> Seeds() {
  const std::string plan = SamplePlan();
  const std::string cut = SampleCut(plan);
  const std::string no_changes(6, '\0');
  return {"\x01" + MessageOf(StateKind::kPlan, plan),
          "\x02" + MessageOf(StateKind::kCut, cut),
          "\x03" + *EncodeGuest(SampleGuest()),
          std::string(1, '\0') + plan,
          std::string(1, '\0') + cut,
          "\x04" + no_changes,
          "\x05" + no_changes,
          "\x06" + no_changes,
          "\x07" + no_changes};
}

}  // namespace ferry::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1) return 0;
  // It complains about each malformed text.
  static const auto quiet = google::protobuf::SetLogHandler(nullptr);
  (void)quiet;
  static const std::string plan = SamplePlan();
  static const std::string cut = SampleCut(plan);
  const std::string bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 8) {
    case 0:
      TryPlan(bytes);
      TryCut(bytes, plan);
      break;
    case 1:
      TryPlan(Seal(StateKind::kPlan, bytes));
      break;
    case 2:
      TryCut(Seal(StateKind::kCut, bytes), plan);
      break;
    case 3:
      TryGuest(bytes);
      break;
    case 4:
      TryGuest(Change(*EncodeGuest(SampleGuest()), bytes));
      break;
    case 5:
      TryChanged(plan, cut, bytes);
      break;
    case 6:
      TryPlan(Seal(StateKind::kPlan, Change(MessageOf(StateKind::kPlan, plan), bytes)));
      break;
    default:
      TryCut(Seal(StateKind::kCut, Change(MessageOf(StateKind::kCut, cut), bytes)), plan);
  }
  return 0;
}
