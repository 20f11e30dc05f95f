#include "tools/ferryctl/container_options.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "bridge/runtime/status_macros.h"
#include "tools/ferryctl/nic_spec.h"
#include "tools/ferryctl/units.h"

namespace ferry::ctl {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;
// What the guest's kernel, its root file system and its agent take.
constexpr uint64_t kGuestRoom = 128 * kMiB;
// The kernel's account of each page takes about a sixtieth of the memory.
constexpr uint64_t kAccountShare = 32;
constexpr uint64_t kLeastVm = 256 * kMiB;
constexpr size_t kCpuDecimals = 3;

bool AllDigits(absl::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return absl::ascii_isdigit(c); });
}

absl::Status NotTogether(absl::string_view one, absl::string_view other) {
  return absl::InvalidArgumentError(absl::StrCat(one, " and ", other, " exclude each other"));
}

absl::Status Check(const RunOptions& options) {
  const bool own_vm = options.vm.empty() && options.pod.empty();
  if (options.stays && !own_vm) {
    return absl::InvalidArgumentError(
        "--stays is for a VM that is made for the container; of another one it is said when that "
        "is "
        "made (ferryctl vm create --stays)");
  }
  if (!options.volumes.empty() && own_vm && !options.stays) {
    return absl::InvalidArgumentError(
        "-v needs --stays: a folder of the host could not move with the container, so its VM has "
        "to "
        "stay on this host. Otherwise put the files into the image, or copy them in once it runs: "
        "tar c FOLDER | ferryctl exec -i --container NAME -- tar x");
  }
  if (!options.ports.empty()) {
    return absl::InvalidArgumentError(
        "-p is not possible: a port of this host would stay here when the container moves, and its "
        "connections with it. Give its VM an address, which moves with it: --nic "
        "bridge=BRIDGE,address=ADDRESS/LENGTH (of another VM: vm create --nic, and --network vm)");
  }
  if (options.read_only && (options.scratch_size || !options.scratch_folder.empty())) {
    return NotTogether("--read-only", "a scratch disk");
  }
  return absl::OkStatus();
}

absl::Status FillScratch(const RunOptions& options, v1::ContainerSpec* spec) {
  if (options.scratch_size) {
    ASSIGN_OR_RETURN(const uint64_t size, ParseContainerSize(*options.scratch_size));
    if (size == 0) return absl::InvalidArgumentError("--scratch-size must be more than 0");
    spec->mutable_scratch()->set_size_bytes(size);
  }
  if (!options.scratch_folder.empty()) {
    spec->mutable_scratch()->set_folder(options.scratch_folder);
  }
  return absl::OkStatus();
}

absl::Status AddNics(const std::vector<std::string>& nics, v1::VmSpec* vm) {
  for (const std::string& text : nics) {
    ASSIGN_OR_RETURN(*vm->add_nics(), ParseNic(text));
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> HasVmNetwork(const RunOptions& options) {
  const bool own_vm = options.vm.empty() && options.pod.empty();
  if (!options.nics.empty() && !own_vm) {
    return absl::InvalidArgumentError(
        "--nic is for the VM that is made for the container; of another VM it is: vm create --nic");
  }
  if (!options.network) return !options.nics.empty();
  if (*options.network != "vm" && *options.network != "none") {
    return absl::InvalidArgumentError(
        absl::StrCat("--network is \"", *options.network, "\"; it may be vm or none"));
  }
  if (!options.pod.empty()) {
    return absl::InvalidArgumentError(
        "a container in a pod has the pod's network; leave --network "
        "to the pod's first container");
  }
  return *options.network == "vm";
}

// The folders that a VM needs for these mounts: each once, and only those to be read that nobody
// writes to.
void AddShares(const v1::ContainerSpec& spec, v1::VmSpec* vm) {
  for (const v1::ContainerMount& mount : spec.mounts()) {
    auto& shares = *vm->mutable_shares();
    const auto known = std::find_if(shares.begin(), shares.end(), [&](const v1::ShareSpec& share) {
      return share.host_path() == mount.host_path();
    });
    if (known != shares.end()) {
      known->set_read_only(known->read_only() && mount.read_only());
      continue;
    }
    v1::ShareSpec& share = *vm->add_shares();
    share.set_host_path(mount.host_path());
    share.set_read_only(mount.read_only());
  }
}

}  // namespace

absl::StatusOr<v1::ContainerMount> ParseMount(absl::string_view text) {
  const std::vector<std::string> parts = absl::StrSplit(text, ':');
  const bool known_mode = parts.size() == 2 || parts.back() == "ro" || parts.back() == "rw";
  if (parts.size() < 2 || parts.size() > 3 || !known_mode || parts[0].empty() ||
      parts[0][0] != '/' || parts[1].empty() || parts[1][0] != '/') {
    return absl::InvalidArgumentError(absl::StrCat(
        "-v \"", text, "\" is not of the form HOSTDIR:DIR[:ro], both absolute and without colons"));
  }
  v1::ContainerMount mount;
  mount.set_host_path(parts[0]);
  mount.set_path(parts[1]);
  mount.set_read_only(parts.size() == 3 && parts[2] == "ro");
  return mount;
}

absl::StatusOr<std::pair<std::string, std::string>> ParseAssignment(absl::string_view text) {
  const size_t equals = text.find('=');
  if (equals == absl::string_view::npos || equals == 0) {
    return absl::InvalidArgumentError(absl::StrCat("\"", text, "\" is not of the form KEY=VALUE"));
  }
  return std::make_pair(std::string(text.substr(0, equals)), std::string(text.substr(equals + 1)));
}

absl::StatusOr<uint32_t> ParseCpus(absl::string_view text) {
  const std::pair<absl::string_view, absl::string_view> parts =
      absl::StrSplit(text, absl::MaxSplits('.', 1));
  const bool has_point = text.find('.') != absl::string_view::npos;
  std::string thousandths(parts.second);
  uint32_t value = 0;
  if (!AllDigits(parts.first) || !AllDigits(parts.second) || parts.first.empty() ||
      parts.first.size() > 5 || (has_point && thousandths.empty()) ||
      thousandths.size() > kCpuDecimals) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", text, "\" is not a number of CPUs; write for example 2 or 0.5"));
  }
  thousandths.append(kCpuDecimals - thousandths.size(), '0');
  if (!absl::SimpleAtoi(absl::StrCat(parts.first, thousandths), &value) || value == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", text, "\" is not a number of CPUs; it must be more than 0"));
  }
  return value;
}

absl::StatusOr<uint64_t> ParseContainerSize(absl::string_view text) {
  return ParseSize(absl::AsciiStrToUpper(text));
}

absl::StatusOr<v1::ContainerLimits> LimitOptions::Parse() const {
  v1::ContainerLimits limits;
  if (memory) {
    ASSIGN_OR_RETURN(const uint64_t bytes, ParseContainerSize(*memory));
    limits.set_memory_bytes(bytes);
  }
  if (cpus) {
    ASSIGN_OR_RETURN(const uint32_t millis, ParseCpus(*cpus));
    limits.set_cpu_millis(millis);
  }
  if (pids) limits.set_pids(*pids);
  return limits;
}

v1::VmSpec VmForLimits(const v1::ContainerLimits& limits) {
  v1::VmSpec vm;
  if (limits.has_memory_bytes()) {
    // A limit beyond all reason is for the daemon to refuse; the sum must not wrap around.
    const uint64_t memory = std::min<uint64_t>(limits.memory_bytes(), uint64_t{1} << 60);
    const uint64_t whole = std::max(memory + memory / kAccountShare + kGuestRoom, kLeastVm);
    vm.set_memory_mb((whole + kMiB - 1) / kMiB);
  }
  if (limits.has_cpu_millis()) vm.set_cpus((limits.cpu_millis() + 999) / 1000);
  return vm;
}

absl::StatusOr<v1::CreateContainerRequest> ToCreateRequest(const RunOptions& options) {
  RETURN_IF_ERROR(Check(options));
  v1::CreateContainerRequest request;
  v1::ContainerSpec* spec = request.mutable_spec();
  spec->set_name(options.name);
  spec->set_image(options.image);
  if (options.entrypoint) spec->add_entrypoint(*options.entrypoint);
  for (const std::string& word : options.command) spec->add_command(word);
  for (const std::string& pair : options.environment) {
    RETURN_IF_ERROR(ParseAssignment(pair).status());
    spec->add_environment(pair);
  }
  for (const std::string& pair : options.labels) {
    ASSIGN_OR_RETURN(const auto label, ParseAssignment(pair));
    (*spec->mutable_labels())[label.first] = label.second;
  }
  spec->set_working_directory(options.working_directory);
  spec->set_user(options.user);
  spec->set_hostname(options.hostname);
  spec->set_has_stdin(options.interactive);
  spec->set_terminal(options.terminal);
  spec->set_detached(options.detached);
  spec->set_read_only(options.read_only);
  spec->set_pod(options.pod);
  spec->set_remove_when_stopped(options.remove);
  ASSIGN_OR_RETURN(const bool vm_network, HasVmNetwork(options));
  spec->set_vm_network(vm_network);
  RETURN_IF_ERROR(FillScratch(options, spec));
  ASSIGN_OR_RETURN(const v1::ContainerLimits limits, options.limits.Parse());
  if (limits.ByteSizeLong() > 0) *spec->mutable_limits() = limits;
  for (const std::string& volume : options.volumes) {
    ASSIGN_OR_RETURN(*spec->add_mounts(), ParseMount(volume));
  }
  if (!options.vm.empty()) {
    request.set_vm(options.vm);
  } else if (options.pod.empty()) {
    *request.mutable_new_vm() = VmForLimits(limits);
    request.mutable_new_vm()->set_stays(options.stays);
    AddShares(*spec, request.mutable_new_vm());
    RETURN_IF_ERROR(AddNics(options.nics, request.mutable_new_vm()));
  }
  return request;
}

ExecWords SplitExecWords(std::vector<std::string> words, bool in_container, bool marked) {
  ExecWords split;
  const auto is_mark = [&words](size_t at) { return words.size() > at && words[at] == "--"; };
  if (!in_container) {
    // The command's own options stay its own: all behind the VM is handed on.
    if (!words.empty()) {
      split.vm = words[0];
      words.erase(words.begin(), words.begin() + (is_mark(1) ? 2 : 1));
    }
  } else if (!marked && is_mark(1)) {
    split.vm = words[0];
    words.erase(words.begin(), words.begin() + 2);
  }
  split.command = std::move(words);
  return split;
}

}  // namespace ferry::ctl
