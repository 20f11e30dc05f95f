#include "migration/preflight/host_checks.h"

#include <algorithm>
#include <cstdlib>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "bridge/runtime/host_port.h"
#include "migration/preflight/verdict.h"
#include "vmmanager/state/fingerprint_check.h"

namespace ferry::migration {
namespace {

constexpr int64_t kMsInSecond = 1000;
constexpr int64_t kSecondsInDay = 24ll * 3600;
constexpr int64_t kSoonDays = 14;
constexpr int64_t kMaxSkewMs = 2000;
constexpr char kFenceFix[] =
    "end the copy that holds it, or look at the file system of --fence-lock-dir";

bool IsOnThisHost(const std::string& address) {
  return IsLoopback(address) || absl::StartsWith(address, "unix:");
}

// A part of the machine: which fields of the fingerprint belong to it.
struct Part {
  const char* name;
  std::vector<std::string> fields;  // empty: those of no other part
  const char* fix;
};

const std::vector<Part>& Parts() {
  static const auto& parts = *new std::vector<Part>{
      {"vmm_version",
       {"backend", "backend_version"},
       "install the same QEMU on both hosts, or choose a host that has it"},
      {"machine_type",
       {"machine_type"},
       "install a QEMU there that knows it, or make the VM anew with an older one"},
      {"accelerator", {"accelerator"}, "choose a host with the same one; see ferryctl host"},
      {"cpu_model",
       {"cpu_model"},
       "make the VM anew with a --cpu-model that both hosts have; see ferryctl host"},
      {"cpu_features",
       {"cpu_features"},
       "make the VM anew with a --cpu-model that both hosts have; see ferryctl host"},
      {"guest_image",
       {"kernel", "initrd", "firmware"},
       "put the same files there, at the source's path or as ferryd's --kernel, --initrd and "
       "--ovmf-code"},
      {"disks",
       {"disk"},
       "put the disk on storage that both hosts see under that path, and that shows them each "
       "other's locks (NFS: not mounted with nolock); or let it be copied (migrate without "
       "--copy-storage none)"},
      {"networks",
       {"nic"},
       "do there what the destination says of each card; of two VMs with the same MAC address a "
       "host can have only one"},
      {"devices", {}, "bring both hosts to the same release"}};
  return parts;
}

// "disk data", "nic eth0" and "device 0" belong to "disk", "nic" and "device".
std::string Kind(const v1::Difference& difference) {
  return difference.field().substr(0, difference.field().find(' '));
}

bool IsOthers(const std::string& kind) {
  return std::any_of(Parts().begin(), Parts().end(), [&kind](const Part& part) {
    return std::find(part.fields.begin(), part.fields.end(), kind) != part.fields.end();
  });
}

std::vector<v1::Difference> DifferencesOf(const Part& part,
                                          const std::vector<v1::Difference>& all) {
  std::vector<v1::Difference> own;
  for (const v1::Difference& difference : all) {
    const std::string kind = Kind(difference);
    const bool belongs = part.fields.empty() ? !IsOthers(kind)
                                             : std::find(part.fields.begin(), part.fields.end(),
                                                         kind) != part.fields.end();
    if (belongs) own.push_back(difference);
  }
  return own;
}

size_t CountDisks(const schema::ComputeSystem& document) {
  size_t count = 0;
  for (const auto& [controller, scsi] : document.virtual_machine.devices.scsi) {
    count += scsi.attachments.size();
  }
  return count;
}

std::string DescribeCopies(const std::vector<vm::ArrivingDisk>& copies) {
  constexpr uint64_t kMib = uint64_t{1} << 20;
  std::vector<std::string> parts;
  for (const vm::ArrivingDisk& disk : copies) {
    parts.push_back(absl::StrCat("disk ", disk.name, " (", (disk.used_bytes + kMib - 1) / kMib,
                                 " of ", disk.bytes / kMib, " MiB are used)"));
  }
  return absl::StrCat("these will be copied to the destination: ", absl::StrJoin(parts, ", "));
}

std::string Found(const Part& part, const DestinationFacts& facts) {
  const state::v1::Fingerprint& source = facts.vm.fingerprint();
  const std::string name = part.name;
  if (name == "vmm_version") return absl::StrCat(facts.vmm, " on both hosts");
  if (name == "machine_type") return absl::StrCat("the destination has ", source.machine_type());
  if (name == "accelerator") return absl::StrCat(source.accelerator(), " on both hosts");
  if (name == "cpu_model") {
    return absl::StrCat("the destination has ",
                        source.cpu_model().empty() ? "the default" : source.cpu_model());
  }
  if (name == "cpu_features") {
    return source.cpu_features().empty()
               ? "the model is the same everywhere"
               : absl::StrCat("the destination has all ", source.cpu_features_size());
  }
  if (name == "guest_image") return "what it boots has the same content there";
  if (name == "disks") {
    const size_t disks = CountDisks(facts.machine.document);
    if (!facts.machine.copies.empty()) return DescribeCopies(facts.machine.copies);
    return disks == 0 ? "the VM has no disks"
                      : absl::StrCat("the destination has the same disks (", disks, ")");
  }
  if (name == "networks") {
    const size_t cards = facts.machine.document.virtual_machine.devices.network_adapters.size();
    return cards == 0 ? "the VM has no network cards"
                      : absl::StrCat("the destination can plug in all network cards (", cards,
                                     "), and no VM there has a MAC address of theirs");
  }
  return absl::StrCat(source.cpus(), " CPUs, ", source.memory_mb(), " MiB, guest link ",
                      source.guest_link());
}

// CPU features that the guest does not expect; it found out at its boot what there is.
std::vector<std::string> NewFeatures(const DestinationFacts& facts) {
  const auto& source = facts.vm.fingerprint().cpu_features();
  const std::set<std::string> known(source.begin(), source.end());
  std::vector<std::string> added;
  if (known.empty()) return added;
  for (const std::string& feature : facts.machine.fingerprint.cpu_features()) {
    if (!known.contains(feature)) added.push_back(feature);
  }
  return added;
}

v1::PreflightCheck CheckPart(const Part& part, const DestinationFacts& facts) {
  const std::vector<v1::Difference> differences = DifferencesOf(part, facts.machine.differences);
  if (!differences.empty()) return Failed(part.name, vm::ToText(differences), part.fix);
  const std::string name = part.name;
  const size_t disks = CountDisks(facts.machine.document);
  if (name == "disks" && disks > 0 && !vm::DisksAreProved(facts.vm, facts.machine)) {
    return Warned(name,
                  absl::StrCat(disks,
                               " disks can be read at the destination under the same path and have "
                               "the same size; that they are the same disks is not proved"),
                  "make sure that they lie on storage that both hosts share");
  }
  if (const auto added = NewFeatures(facts); name == "cpu_features" && !added.empty()) {
    return Warned(name,
                  absl::StrCat("the destination has all, and more: ", absl::StrJoin(added, ", ")),
                  "pin VMs with --cpu-model to let them see the same CPU everywhere");
  }
  return Passed(name, Found(part, facts));
}

}  // namespace

v1::PreflightCheck CheckCertificate(const std::string& name, const CertificateFacts& facts,
                                    int64_t now_unix_ms) {
  if (!facts.used) {
    return Warned(name, "no certificate is used: whoever reaches the host may do everything",
                  "give ferryd --tls-ca, --tls-cert and --tls-key in place of --insecure-tcp");
  }
  if (!facts.certificate.ok()) {
    return Failed(name, std::string(facts.certificate.status().message()),
                  "put a readable certificate there");
  }
  const int64_t now = now_unix_ms / kMsInSecond;
  const std::string renew = "renew it";
  switch (identity::ValidityAt(*facts.certificate, now)) {
    case identity::Validity::kExpired:
      return Failed(name, "the host's certificate has expired", renew);
    case identity::Validity::kNotYetValid:
      return Failed(name, "the host's certificate is not valid yet",
                    "correct the host's clock, or make a new certificate");
    case identity::Validity::kValid:
      break;
  }
  const int64_t days = (facts.certificate->not_after - now) / kSecondsInDay;
  const std::string found =
      absl::StrCat("the host's certificate is valid for ", days, " more days");
  return days < kSoonDays ? Warned(name, found, renew) : Passed(name, found);
}

v1::PreflightCheck CheckFolder(const std::string& name, const FolderFacts& folder) {
  const std::string fix = absl::StrCat("free some space for ", folder.path);
  if (!folder.writable.ok()) {
    return Failed(name, std::string(folder.writable.message()), "let ferryd write there");
  }
  if (!folder.room.ok()) return Failed(name, std::string(folder.room.status().message()), fix);
  const std::string found = absl::StrCat(folder.room->available_mb, " MiB free in ", folder.path);
  if (folder.room->enough()) return Passed(name, found);
  return Failed(name, absl::StrCat(found, ", and ", folder.room->needed_mb, " MiB are needed"),
                fix);
}

v1::PreflightCheck CheckSourceFence(const FenceFacts& fence) {
  constexpr char kName[] = "source_fence";
  if (!fence.sight.ok()) {
    return Failed(kName, std::string(fence.sight.status().message()), kFenceFix);
  }
  if (*fence.sight == vm::FenceSight::kHeld) {
    return Passed(kName, absl::StrCat("the VM is this host's (", fence.level, ")"));
  }
  return Warned(kName, absl::StrCat("the VM is not claimed (", fence.level, ")"),
                "look who undid its claim; starting the VM again makes it anew");
}

v1::PreflightCheck CheckDestinationFence(const FenceFacts& fence) {
  constexpr char kName[] = "destination_fence";
  if (!fence.sight.ok()) {
    return Failed(kName, std::string(fence.sight.status().message()), kFenceFix);
  }
  if (*fence.sight == vm::FenceSight::kFree && fence.level == vm::kImageLock) {
    return Warned(
        kName, "the source does not hold the VM's lock in the destination's folder",
        "give ferryd the same --fence-lock-dir on both hosts, on storage that they share");
  }
  return Passed(kName, absl::StrCat("nobody but the source has the VM (", fence.level, ")"));
}

v1::PreflightCheck CheckMemory(const absl::StatusOr<vm::Capacity>& memory) {
  if (!memory.ok()) {
    return Warned("memory", std::string(memory.status().message()), "make sure that it suffices");
  }
  const std::string found =
      absl::StrCat("the VM needs ", memory->needed_mb, " MiB, and the destination has ",
                   memory->available_mb, " MiB available");
  if (!memory->enough()) {
    return Failed("memory", found, "free memory there, or choose another destination");
  }
  // Estimates of what is available are off by some percent.
  const uint64_t left = memory->available_mb - memory->needed_mb;
  if (left < memory->total_mb / 20) {
    return Warned("memory", found, "leave more memory free there: the host will be nearly full");
  }
  return Passed("memory", found);
}

v1::PreflightCheck CheckClock(int64_t source_unix_ms, int64_t now_unix_ms) {
  if (source_unix_ms == 0) return Warned("clock", "the source does not tell its time", "");
  const int64_t skew = now_unix_ms - source_unix_ms;
  if (std::llabs(skew) <= kMaxSkewMs) return Passed("clock", "the hosts' clocks agree");
  return Warned("clock",
                absl::StrCat("the destination's clock is ", std::llabs(skew) / 1000, " s ",
                             skew > 0 ? "ahead of" : "behind", " the source's"),
                "let both hosts keep time by the same source (NTP)");
}

v1::PreflightCheck CheckMigrationAddress(const std::string& told, const std::string& bound,
                                         const std::string& source) {
  const std::string fix = "set ferryd's --migration-listen and --migration-advertise there";
  if (IsWildcard(told)) {
    return Failed("migration_address",
                  absl::StrCat("sources are told to dial ", told, ", which is no host's address"),
                  fix);
  }
  if (IsLoopback(bound) && !IsOnThisHost(source)) {
    return Failed("migration_address",
                  absl::StrCat("migrations arrive at ", bound, ", which other hosts cannot reach"),
                  fix);
  }
  return Passed("migration_address", absl::StrCat("migrations arrive at ", told));
}

std::vector<v1::PreflightCheck> CheckMachine(const DestinationFacts& facts) {
  std::vector<v1::PreflightCheck> checks;
  for (const Part& part : Parts()) checks.push_back(CheckPart(part, facts));
  return checks;
}

}  // namespace ferry::migration
