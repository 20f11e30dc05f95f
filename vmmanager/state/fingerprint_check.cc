#include "vmmanager/state/fingerprint_check.h"

#include <algorithm>
#include <iterator>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "vmmanager/state/envelope.h"

namespace ferry::vm {
namespace {

constexpr char kNone[] = "none";
// Of a digest, so much tells two images apart for a person.
constexpr size_t kDigestDigits = 16;

class Differences {
 public:
  void Compare(const std::string& field, const std::string& source,
               const std::string& destination) {
    if (source != destination) Add(field, source, destination);
  }
  void Compare(const std::string& field, uint64_t source, uint64_t destination) {
    Compare(field, absl::StrCat(source), absl::StrCat(destination));
  }
  // Images are told apart by their whole digest, and shown by its beginning.
  void CompareDigest(const std::string& field, const std::string& source,
                     const std::string& destination) {
    if (source == destination) return;
    // If they begin alike, all of them is needed to see the difference.
    const bool alike =
        source.substr(0, kDigestDigits / 2) == destination.substr(0, kDigestDigits / 2);
    const size_t digits = alike ? std::string::npos : kDigestDigits;
    Add(field, Shown(source, digits), Shown(destination, digits));
  }
  std::vector<v1::Difference> Take() { return std::move(list_); }

 private:
  void Add(const std::string& field, const std::string& source, const std::string& destination) {
    v1::Difference difference;
    difference.set_field(field);
    difference.set_source(source.empty() ? kNone : source);
    difference.set_destination(destination.empty() ? kNone : destination);
    list_.push_back(std::move(difference));
  }
  static std::string Shown(const std::string& digest, size_t digits) {
    return digest.empty() ? "" : absl::StrCat("sha256 ", ToHex(digest).substr(0, digits));
  }
  std::vector<v1::Difference> list_;
};

std::string Device(const state::v1::Fingerprint& fingerprint, int index) {
  return index < fingerprint.devices_size() ? fingerprint.devices(index) : "";
}

// Of `wanted`, what `there` lacks.
std::vector<std::string> Missing(const state::v1::Fingerprint& wanted,
                                 const state::v1::Fingerprint& there) {
  const std::set<std::string> all(wanted.cpu_features().begin(), wanted.cpu_features().end());
  const std::set<std::string> has(there.cpu_features().begin(), there.cpu_features().end());
  std::vector<std::string> missing;
  std::set_difference(all.begin(), all.end(), has.begin(), has.end(), std::back_inserter(missing));
  return missing;
}

}  // namespace

std::vector<v1::Difference> CompareFingerprints(const state::v1::Fingerprint& source,
                                                const state::v1::Fingerprint& destination) {
  Differences differences;
  differences.Compare("backend", source.backend(), destination.backend());
  differences.Compare("backend_version", source.backend_version(), destination.backend_version());
  differences.Compare("accelerator", source.accelerator(), destination.accelerator());
  differences.Compare("machine_type", source.machine_type(), destination.machine_type());
  differences.Compare("cpu_model", source.cpu_model(), destination.cpu_model());
  const std::vector<std::string> missing = Missing(source, destination);
  differences.Compare("cpu_features", absl::StrJoin(missing, ", "), "");
  differences.Compare("cpus", source.cpus(), destination.cpus());
  differences.Compare("memory_mb", source.memory_mb(), destination.memory_mb());
  differences.CompareDigest("firmware", source.firmware_sha256(), destination.firmware_sha256());
  differences.CompareDigest("kernel", source.kernel_sha256(), destination.kernel_sha256());
  differences.CompareDigest("initrd", source.initrd_sha256(), destination.initrd_sha256());
  differences.Compare("kernel_cmd_line", source.kernel_cmd_line(), destination.kernel_cmd_line());
  const int count = std::max(source.devices_size(), destination.devices_size());
  for (int i = 0; i < count; ++i) {
    differences.Compare(absl::StrCat("device ", i), Device(source, i), Device(destination, i));
  }
  differences.Compare("guest_link", source.guest_link(), destination.guest_link());
  return differences.Take();
}

std::string ToText(const std::vector<v1::Difference>& differences, absl::string_view source,
                   absl::string_view destination) {
  const auto append = [&](std::string* text, const v1::Difference& difference) {
    absl::StrAppend(text, difference.field(), ": ", source, " ", difference.source(), ", ",
                    destination, " ", difference.destination());
  };
  return absl::StrJoin(differences, "; ", append);
}

}  // namespace ferry::vm
