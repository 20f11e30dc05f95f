#include "vmmanager/containers/container_names.h"

#include <algorithm>
#include <array>
#include <random>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/rpc/printable.h"

namespace ferry::vm {
namespace {

constexpr size_t kMaxName = 64;
constexpr size_t kShortId = 12;
constexpr size_t kIdOfDisk = 16;
constexpr size_t kIdDigits = 64;
constexpr int kAttempts = 16;

constexpr std::array kFirstWords = {
    "able",  "amber",   "brave", "brisk", "calm",  "clear", "deep",  "early", "fair",
    "fleet", "fresh",   "glad",  "green", "handy", "keen",  "light", "lucky", "merry",
    "neat",  "patient", "plain", "prime", "quick", "quiet", "ready", "royal", "sober",
    "solid", "steady",  "sunny", "swift", "tidy",  "true",  "vivid", "warm",  "wise"};
constexpr std::array kSecondWords = {
    "anchor", "barge", "bay",     "beacon", "bell",   "bridge", "buoy",  "canal", "coast",
    "cove",   "crane", "current", "delta",  "dock",   "ebb",    "fjord", "gull",  "harbour",
    "heron",  "inlet", "island",  "jetty",  "keel",   "lagoon", "lock",  "mast",  "otter",
    "pier",   "pilot", "quay",    "river",  "rudder", "sail",   "seal",  "shore", "tide"};

bool IsHex(absl::string_view text) {
  return std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return absl::ascii_isdigit(c) || (c >= 'a' && c <= 'f');
  });
}

template <typename Words>
std::string AnyOf(const Words& words, std::random_device& random) {
  return words[std::uniform_int_distribution<size_t>(0, words.size() - 1)(random)];
}

std::string Shown(const std::string& wanted) { return rpc::Printable(wanted, 2 * kIdDigits); }

absl::Status NotFound(const std::string& wanted, const std::string& vm) {
  const std::string where = vm.empty() ? "on this host" : absl::StrCat("in VM ", Shown(vm));
  return rpc::ErrorWithReason(absl::StatusCode::kNotFound,
                              absl::StrCat("there is no container \"", Shown(wanted), "\" ", where),
                              "container_not_found",
                              "ferryctl container list --all shows those there are.");
}

absl::Status Ambiguous(const std::string& what, const std::string& next_step) {
  return rpc::ErrorWithReason(absl::StatusCode::kFailedPrecondition, what, "container_ambiguous",
                              next_step);
}

absl::Status SeveralNamed(const std::vector<ContainerKey>& all, const std::vector<size_t>& found,
                          const std::string& wanted) {
  std::vector<std::string> vms;
  for (const size_t index : found) vms.push_back(all[index].vm_name);
  std::sort(vms.begin(), vms.end());
  return Ambiguous(absl::StrCat("the VMs ", absl::StrJoin(vms, ", "), " have a container \"",
                                Shown(wanted), "\" each"),
                   "Say which VM's, with --vm, or give the id.");
}

}  // namespace

std::string NewContainerId() {
  constexpr char kDigits[] = "0123456789abcdef";
  std::random_device random;
  std::uniform_int_distribution<int> digit(0, 15);
  std::string id(kIdDigits, '0');
  for (char& c : id) c = kDigits[digit(random)];
  return id;
}

std::string ShortContainerId(const std::string& id) { return id.substr(0, kShortId); }

std::string ContainerIdOfDisk(const std::string& id) { return id.substr(0, kIdOfDisk); }

absl::Status CheckContainerName(absl::string_view name) {
  const auto fits = [](unsigned char c) {
    return absl::ascii_isalnum(c) || c == '_' || c == '.' || c == '-';
  };
  if (!name.empty() && name.size() <= kMaxName && absl::ascii_isalnum(name[0]) &&
      std::all_of(name.begin(), name.end(), fits)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "the container's name is \"", rpc::Printable(name, 2 * kMaxName),
      "\"; use letters, digits, '_', '.' and '-', at most 64, first a letter or digit"));
}

std::string MakeUpContainerName(const std::string& id,
                                const std::function<bool(const std::string&)>& taken) {
  std::random_device random;
  std::string name;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    name = absl::StrCat(AnyOf(kFirstWords, random), "-", AnyOf(kSecondWords, random));
    if (!taken(name)) return name;
  }
  return absl::StrCat(name, "-", ShortContainerId(id));
}

absl::StatusOr<size_t> FindContainer(const std::vector<ContainerKey>& all,
                                     const std::string& wanted, const std::string& vm) {
  // A name goes before what it could be the beginning of, a whole id before all.
  std::vector<size_t> named;
  std::vector<size_t> begun;
  std::vector<size_t> made_as;
  const bool may_be_id = wanted.size() >= kShortId && IsHex(wanted);
  for (size_t i = 0; i < all.size(); ++i) {
    if (!vm.empty() && vm != all[i].vm_id && vm != all[i].vm_name) continue;
    if (all[i].id == wanted) return i;
    if (!wanted.empty() && all[i].name == wanted) named.push_back(i);
    if (may_be_id && absl::StartsWith(all[i].id, wanted)) begun.push_back(i);
    if (may_be_id && all[i].guest_id == wanted) made_as.push_back(i);
  }
  if (named.size() > 1) return SeveralNamed(all, named, wanted);
  if (!named.empty()) return named.front();
  if (begun.size() > 1) {
    return Ambiguous(absl::StrCat(begun.size(), " containers have an id that begins with ", wanted),
                     "Give more digits of the id.");
  }
  if (!begun.empty()) return begun.front();
  if (made_as.size() > 1) {
    return Ambiguous(absl::StrCat(made_as.size(), " containers were made with the id ", wanted),
                     "Say which VM's, with --vm, or give the id that it has here.");
  }
  if (!made_as.empty()) return made_as.front();
  return NotFound(wanted, vm);
}

}  // namespace ferry::vm
