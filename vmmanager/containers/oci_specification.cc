#include "vmmanager/containers/oci_specification.h"

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <csignal>
#include <cstring>
#include <map>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/containers/container_limits.h"
#include "vmmanager/containers/container_names.h"
#include "vmmanager/rpc/printable.h"

namespace ferry::vm {
namespace json = boost::json;
namespace {

constexpr char kOciVersion[] = "1.0.2";
constexpr char kDefaultPath[] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
// A message to the agent has 64 KiB, and quotes inside it are written as four bytes.
constexpr size_t kMaxTexts = 24 * 1024;
constexpr size_t kMaxSent = 62 * 1024;  // of the same, with what else such a message says
constexpr size_t kMaxUser = 256;
constexpr size_t kMaxDirectory = 4096;
constexpr size_t kShown = 64;
constexpr uint32_t kMaxTerminal = 4096;

// Docker's, so that images find what they were made for.
constexpr const char* kCapabilities[] = {
    "CAP_CHOWN",   "CAP_DAC_OVERRIDE", "CAP_FSETID",           "CAP_FOWNER",
    "CAP_MKNOD",   "CAP_NET_RAW",      "CAP_SETGID",           "CAP_SETUID",
    "CAP_SETFCAP", "CAP_SETPCAP",      "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT",
    "CAP_KILL",    "CAP_AUDIT_WRITE"};
constexpr const char* kMaskedPaths[] = {"/proc/asound",
                                        "/proc/acpi",
                                        "/proc/kcore",
                                        "/proc/keys",
                                        "/proc/latency_stats",
                                        "/proc/timer_list",
                                        "/proc/timer_stats",
                                        "/proc/sched_debug",
                                        "/proc/scsi",
                                        "/sys/firmware",
                                        "/sys/devices/virtual/powercap"};
constexpr const char* kReadonlyPaths[] = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys",
                                          "/proc/sysrq-trigger"};

struct MountRow {
  const char* destination;
  const char* type;
  const char* source;
  const char* options;
};
constexpr MountRow kMounts[] = {
    {"/proc", "proc", "proc", "nosuid,noexec,nodev"},
    {"/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"},
    {"/dev/pts", "devpts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"},
    {"/sys", "sysfs", "sysfs", "nosuid,noexec,nodev,ro"},
    {"/sys/fs/cgroup", "cgroup", "cgroup", "nosuid,noexec,nodev,ro"},
    {"/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"},
    {"/dev/shm", "tmpfs", "shm", "nosuid,noexec,nodev,mode=1777,size=65536k"}};

// Of all devices these may be used; any may be made, as a name that leads nowhere.
struct DeviceRow {
  char type;
  int major;
  int minor;  // -1: any
};
constexpr DeviceRow kDevices[] = {{'c', 1, 3}, {'c', 1, 5}, {'c', 1, 7}, {'c', 1, 8},   {'c', 1, 9},
                                  {'c', 5, 0}, {'c', 5, 1}, {'c', 5, 2}, {'c', 136, -1}};

template <typename Texts>
json::array ToArray(const Texts& texts) {
  json::array array;
  for (const auto& text : texts) array.emplace_back(text);
  return array;
}

json::object BindOf(const SharedMount& mount) {
  // With an option of its own it loses those of the mount that it comes from, which follows no
  // symbolic links; what is mounted below it on the host is as writable as it is.
  json::array options{"rbind", "rprivate", "nodev"};
  if (mount.read_only) options.emplace_back("rro");
  return {{"destination", mount.path},
          {"type", "bind"},
          {"source", mount.source},
          {"options", std::move(options)}};
}

json::array Mounts(const std::vector<SharedMount>& shared) {
  json::array mounts;
  for (const MountRow& row : kMounts) {
    const std::vector<std::string> options = absl::StrSplit(row.options, ',');
    mounts.push_back(json::object{{"destination", row.destination},
                                  {"type", row.type},
                                  {"source", row.source},
                                  {"options", ToArray(options)}});
  }
  for (const SharedMount& mount : shared) mounts.push_back(BindOf(mount));
  return mounts;
}

json::array DeviceRules() {
  json::array rules;
  rules.push_back(json::object{{"allow", false}, {"access", "rwm"}});
  for (const char* type : {"c", "b"}) {
    rules.push_back(json::object{{"allow", true}, {"type", type}, {"access", "m"}});
  }
  for (const DeviceRow& row : kDevices) {
    json::object rule{{"allow", true},
                      {"type", std::string(1, row.type)},
                      {"major", row.major},
                      {"access", "rwm"}};
    if (row.minor >= 0) rule["minor"] = row.minor;
    rules.push_back(std::move(rule));
  }
  return rules;
}

// "uid" or "uid:gid" as numbers; the agent looks everything else up in the container's own files.
json::object User(const std::string& user) {
  const std::vector<absl::string_view> parts = absl::StrSplit(user, ':');
  uint32_t uid = 0;
  uint32_t gid = 0;
  if (user.empty()) return {{"uid", 0}, {"gid", 0}};
  if (parts.size() == 2 && absl::SimpleAtoi(parts[0], &uid) && absl::SimpleAtoi(parts[1], &gid)) {
    return {{"uid", uid}, {"gid", gid}};
  }
  return {{"uid", 0}, {"gid", 0}, {"username", user}};
}

bool IsRoot(const std::string& user) {
  const std::string name = user.substr(0, user.find(':'));
  uint32_t uid = 0;
  return name.empty() || name == "root" || (absl::SimpleAtoi(name, &uid) && uid == 0);
}

// Another user than root keeps what it may become, as after an execve. The agent finds out which
// other names are root's.
json::object Capabilities(const std::string& user) {
  json::object sets{{"bounding", ToArray(kCapabilities)}};
  if (IsRoot(user)) {
    sets["effective"] = ToArray(kCapabilities);
    sets["permitted"] = ToArray(kCapabilities);
  }
  return sets;
}

absl::Status CheckDirectory(const std::string& directory) {
  if (directory.size() > kMaxDirectory) {
    return absl::InvalidArgumentError(absl::StrCat("the container's working directory has ",
                                                   directory.size(), " bytes; it may have ",
                                                   kMaxDirectory));
  }
  if (directory[0] == '/' && directory.find('\0') == std::string::npos) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the container's working directory is \"",
                                                 rpc::Printable(directory, kShown),
                                                 "\"; use an absolute path"));
}

// As the agent takes it.
absl::Status CheckUser(const std::string& user) {
  const bool printable = std::all_of(user.begin(), user.end(), absl::ascii_isgraph);
  if (printable && user.size() <= kMaxUser) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the container's user is \"", rpc::Printable(user, kShown),
                   "\"; use names or numbers without spaces, at most ", kMaxUser, " bytes"));
}

absl::Status CheckArguments(const std::vector<std::string>& arguments) {
  for (const std::string& argument : arguments) {
    if (argument.find('\0') == std::string::npos) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("the container's command has \"", rpc::Printable(argument, kShown),
                     "\", with a byte 0 in it, at which a program would see it end"));
  }
  return absl::OkStatus();
}

// The agent is sent such a text inside another one, where quotes and controls take more room.
absl::Status CheckLength(const std::string& text) {
  const size_t size = json::serialize(json::string(text)).size();
  if (size <= kMaxSent) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("what the container's runtime is told has ", size, " bytes, and may have ",
                   kMaxSent, "; shorten the command or the environment, the image's included"));
}

absl::Status CheckSize(const std::vector<std::string>& arguments,
                       const std::vector<std::string>& environment) {
  size_t size = 0;
  for (const auto* list : {&arguments, &environment}) {
    for (const std::string& text : *list) size += text.size() + 1;
  }
  if (size <= kMaxTexts) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the container's command and environment have ", size,
                   " bytes, the image's included; together they may have ", kMaxTexts));
}

absl::Status CheckTerminal(const v1::TerminalSize& size) {
  if (size.rows() <= kMaxTerminal && size.columns() <= kMaxTerminal) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the terminal size must be at most ", kMaxTerminal, " x ", kMaxTerminal));
}

// Entries of which the last of each name counts, in the order in which the names came.
class Environment {
 public:
  void Set(const std::string& entry) {
    const auto [place, is_new] = places_.emplace(entry.substr(0, entry.find('=')), entries_.size());
    if (is_new) {
      entries_.push_back(entry);
    } else {
      entries_[place->second] = entry;
    }
  }
  const std::vector<std::string>& entries() const { return entries_; }

 private:
  std::vector<std::string> entries_;
  std::map<std::string, size_t> places_;  // by name
};

absl::Status CheckEntry(const std::string& entry) {
  const size_t equals = entry.find('=');
  if (equals != 0 && equals != std::string::npos && entry.find('\0') == std::string::npos) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("the container's environment has \"",
                                                 rpc::Printable(entry, kShown),
                                                 "\"; each entry must be NAME=value"));
}

absl::StatusOr<json::object> ParseProcess(const std::string& text) {
  json::error_code error;
  const json::value value = json::parse(text, error);
  if (!error && value.is_object()) return value.as_object();
  return absl::DataLossError("the record of the container's process cannot be read");
}

std::vector<std::string> TextsIn(const json::object& object, const char* name) {
  std::vector<std::string> texts;
  const json::value* list = object.if_contains(name);
  if (list == nullptr || !list->is_array()) return texts;
  for (const json::value& text : list->as_array()) {
    if (text.is_string()) texts.emplace_back(text.as_string());
  }
  return texts;
}

std::string HostnameOf(const OciInputs& inputs) {
  return inputs.spec->hostname().empty() ? ShortContainerId(inputs.id) : inputs.spec->hostname();
}

absl::StatusOr<json::object> Process(const OciInputs& inputs) {
  const v1::ContainerSpec& spec = *inputs.spec;
  const layers::ImageConfig& image = *inputs.image;
  ASSIGN_OR_RETURN(const std::vector<std::string> arguments, ContainerArguments(spec, image));
  ASSIGN_OR_RETURN(const std::vector<std::string> environment,
                   ContainerEnvironment(spec, image, HostnameOf(inputs)));
  RETURN_IF_ERROR(CheckSize(arguments, environment));
  RETURN_IF_ERROR(CheckArguments(arguments));
  RETURN_IF_ERROR(CheckTerminal(spec.terminal_size()));
  std::string directory = spec.working_directory();
  if (directory.empty()) directory = image.working_dir.empty() ? "/" : image.working_dir;
  RETURN_IF_ERROR(CheckDirectory(directory));
  const std::string& user = spec.user().empty() ? image.user : spec.user();
  RETURN_IF_ERROR(CheckUser(user));
  json::object process{
      {"terminal", spec.terminal()}, {"user", User(user)}, {"args", ToArray(arguments)},
      {"env", ToArray(environment)}, {"cwd", directory},   {"capabilities", Capabilities(user)}};
  if (spec.terminal() && spec.terminal_size().rows() != 0) {
    process["consoleSize"] = json::object{{"height", spec.terminal_size().rows()},
                                          {"width", spec.terminal_size().columns()}};
  }
  return process;
}

json::object LinuxPart(const v1::ContainerSpec& spec) {
  json::array namespaces;
  for (const char* type : {"pid", "mount", "ipc", "uts", "cgroup"}) {
    namespaces.push_back(json::object{{"type", type}});
  }
  if (!spec.vm_network()) namespaces.push_back(json::object{{"type", "network"}});
  json::object resources = LimitsToResources(spec.limits());
  resources["devices"] = DeviceRules();
  return {{"namespaces", std::move(namespaces)},
          {"resources", std::move(resources)},
          {"maskedPaths", ToArray(kMaskedPaths)},
          {"readonlyPaths", ToArray(kReadonlyPaths)}};
}

absl::Status CheckHostname(const std::string& name) {
  constexpr size_t kMaxHostname = 63;
  const bool fits =
      name.size() <= kMaxHostname && name.find_first_not_of(
                                         "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                         "0123456789-.") == std::string::npos;
  if (fits) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the container's host name is \"", rpc::Printable(name, kShown),
                   "\"; use letters, digits, '-' and '.', at most ", kMaxHostname));
}

}  // namespace

absl::StatusOr<std::vector<std::string>> ContainerArguments(const v1::ContainerSpec& spec,
                                                            const layers::ImageConfig& image) {
  std::vector<std::string> entrypoint = image.entrypoint;
  std::vector<std::string> command = image.cmd;
  if (spec.entrypoint_size() > 0) {
    entrypoint.assign(spec.entrypoint().begin(), spec.entrypoint().end());
    if (entrypoint.size() == 1 && entrypoint[0].empty()) entrypoint.clear();
    command.clear();
  }
  if (spec.command_size() > 0) command.assign(spec.command().begin(), spec.command().end());
  entrypoint.insert(entrypoint.end(), command.begin(), command.end());
  if (!entrypoint.empty() && !entrypoint[0].empty()) return entrypoint;
  return absl::InvalidArgumentError(
      absl::StrCat("image ", spec.image(), " says no command; give one after the image's name"));
}

absl::StatusOr<std::vector<std::string>> ContainerEnvironment(const v1::ContainerSpec& spec,
                                                              const layers::ImageConfig& image,
                                                              const std::string& hostname) {
  Environment environment;
  environment.Set(kDefaultPath);
  environment.Set(absl::StrCat("HOSTNAME=", hostname));
  if (spec.terminal()) environment.Set("TERM=xterm");
  // Nobody who runs an image can mend what it has there.
  for (const std::string& entry : image.env) {
    if (CheckEntry(entry).ok()) environment.Set(entry);
  }
  for (const std::string& entry : spec.environment()) {
    RETURN_IF_ERROR(CheckEntry(entry));
    environment.Set(entry);
  }
  return environment.entries();
}

absl::StatusOr<OciTexts> MakeOciSpecification(const OciInputs& inputs) {
  RETURN_IF_ERROR(CheckLimits(inputs.spec->limits()));
  RETURN_IF_ERROR(CheckHostname(inputs.spec->hostname()));
  RETURN_IF_ERROR(CheckMounts(*inputs.spec));
  ASSIGN_OR_RETURN(json::object process, Process(inputs));
  OciTexts texts;
  texts.process = json::serialize(process);
  json::object specification{
      {"ociVersion", kOciVersion},
      {"process", std::move(process)},
      {"root", json::object{{"path", inputs.root_path}, {"readonly", inputs.spec->read_only()}}},
      {"hostname", HostnameOf(inputs)},
      {"mounts", Mounts(inputs.mounts)},
      {"linux", LinuxPart(*inputs.spec)}};
  if (!inputs.sandbox_id.empty()) {
    specification["annotations"] =
        json::object{{"io.kubernetes.cri.container-type", "container"},
                     {"io.kubernetes.cri.sandbox-id", inputs.sandbox_id}};
  }
  texts.specification = json::serialize(specification);
  RETURN_IF_ERROR(CheckLength(texts.specification));
  return texts;
}

absl::StatusOr<std::string> MakeExecProcess(const std::string& init_process,
                                            const v1::ProcessSpec& spec) {
  ASSIGN_OR_RETURN(json::object process, ParseProcess(init_process));
  if (spec.command_size() == 0) return absl::InvalidArgumentError("no command was given");
  RETURN_IF_ERROR(CheckArguments({spec.command().begin(), spec.command().end()}));
  process["args"] = ToArray(spec.command());
  process["terminal"] = spec.terminal();
  process.erase("consoleSize");
  if (!spec.working_directory().empty()) {
    RETURN_IF_ERROR(CheckDirectory(spec.working_directory()));
    process["cwd"] = spec.working_directory();
  }
  if (!spec.user().empty()) {
    RETURN_IF_ERROR(CheckUser(spec.user()));
    process["user"] = User(spec.user());
    process["capabilities"] = Capabilities(spec.user());
  }
  Environment environment;
  for (const std::string& entry : TextsIn(process, "env")) environment.Set(entry);
  if (spec.terminal()) environment.Set("TERM=xterm");
  for (const auto& [name, value] : spec.environment()) {
    const std::string entry = absl::StrCat(name, "=", value);
    RETURN_IF_ERROR(CheckEntry(entry));
    environment.Set(entry);
  }
  RETURN_IF_ERROR(CheckSize({spec.command().begin(), spec.command().end()}, environment.entries()));
  process["env"] = ToArray(environment.entries());
  std::string text = json::serialize(process);
  RETURN_IF_ERROR(CheckLength(text));
  return text;
}

std::vector<std::string> ArgumentsOf(const std::string& oci_process) {
  const absl::StatusOr<json::object> process = ParseProcess(oci_process);
  return process.ok() ? TextsIn(*process, "args") : std::vector<std::string>();
}

uint32_t StopSignal(const std::string& name) {
  uint32_t number = 0;
  if (absl::SimpleAtoi(name, &number)) return number >= 1 && number <= 64 ? number : SIGTERM;
  const std::string bare = name.rfind("SIG", 0) == 0 ? name.substr(3) : name;
  for (uint32_t signal = 1; signal <= SIGSYS; ++signal) {
    const char* known = ::sigabbrev_np(static_cast<int>(signal));
    if (known != nullptr && bare == known) return signal;
  }
  const bool real_time = bare.rfind("RTMIN+", 0) == 0;
  // glibc and musl agree on what is usable: 34 is the first.
  constexpr uint32_t kFirstRealTime = 34;
  if (real_time && absl::SimpleAtoi(bare.substr(6), &number) && number <= 30) {
    return kFirstRealTime + number;
  }
  return SIGTERM;
}

}  // namespace ferry::vm
