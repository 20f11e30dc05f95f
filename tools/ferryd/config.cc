#include "tools/ferryd/config.h"

#include <CLI/CLI.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "bridge/network/address.h"
#include "bridge/runtime/host_port.h"
#include "bridge/runtime/status_macros.h"
#include "tools/ferryd/yaml_config.h"

namespace ferry::tools {
namespace {

// A socket's path has 107 bytes, and those of migrations and restores lie two folders below.
constexpr size_t kMaxStateDir = 80;

// `value` must outlive `app`.
void AddSeconds(CLI::App& app, const std::string& flag, milliseconds& value, double least,
                const std::string& help) {
  app.add_option_function<double>(
         flag,
         [&value](const double& seconds) {
           value = milliseconds(static_cast<int64_t>(seconds * 1000));
         },
         help)
      ->check(CLI::Range(least, 86'400.0))
      ->default_str(absl::StrCat(value.count() / 1000));
}

// "NAME=LOCALNAME". INVALID_ARGUMENT if one of them cannot name a bridge.
absl::StatusOr<std::pair<std::string, std::string>> ParseBridgeMapping(const std::string& text) {
  const size_t equals = text.find('=');
  std::pair<std::string, std::string> mapping(text.substr(0, equals), "");
  if (equals != std::string::npos) mapping.second = text.substr(equals + 1);
  if (net::IsInterfaceName(mapping.first) && net::IsInterfaceName(mapping.second)) return mapping;
  return absl::InvalidArgumentError(
      absl::StrCat(net::Quoted(text), " is not NAME=LOCALNAME, two names of bridges of at most ",
                   net::kMaxInterfaceName, " letters, digits, '-', '_' and '.'"));
}

void AddFlags(CLI::App& app, FerrydConfig& config) {
  app.config_formatter(MakeYamlConfig(app));
  app.set_config("--config", "", "Configuration file (YAML; names as the flags)");
  app.add_option("--state-dir", config.state_dir, "Folder for all state of this host")
      ->capture_default_str();
  app.add_option(
      "--fence-lock-dir", config.fence_lock_dir,
      "Folder that hosts share for the locks that keep a VM from running twice, on a file "
      "system that carries flock between them (default: this host's own, in --state-dir)");
  app.add_option("--socket", config.socket,
                 absl::StrCat("Unix socket of the API (default: ", rpc::kDefaultSocket,
                              ", or in a --state-dir of your own)"));
  app.add_option("--listen", config.listen, "TCP address of the API, HOST:PORT (repeatable)");
  app.add_flag("--insecure-tcp", config.insecure_tcp,
               "Serve TCP without certificates: whoever connects may do everything");
  app.add_option("--tls-ca", config.tls.ca,
                 "Certificates that peers and clients must be signed by");
  app.add_option("--tls-cert", config.tls.cert, "This host's certificate chain");
  app.add_option("--tls-key", config.tls.key, "This host's private key");
  app.add_option(
      "--advertise", config.advertise,
      "Address under which clients and peers reach this daemon (default: first --listen)");
  app.add_option(
      "--migration-listen", config.migration_listen,
      "Address where migrations arrive (default: any port of the first --listen's host)");
  app.add_option("--migration-advertise", config.migration_advertise,
                 "HOST or HOST:PORT that sources of migrations are told to dial (default: the host "
                 "of --migration-listen, or the advertised one if that is a wildcard)");
  app.add_option("--kernel", config.kernel, "Kernel of VMs that name none");
  app.add_option("--initrd", config.initrd, "Initial RAM disk of VMs that name none");
  app.add_option("--kernel-args", config.kernel_args, "Appended to every kernel command line")
      ->capture_default_str();
  app.add_option("--ovmf-code", config.ovmf_code, "Firmware of VMs made with --firmware ovmf")
      ->capture_default_str();
  app.add_option("--ovmf-vars", config.ovmf_variables,
                 "The empty variable store that belongs to it; each VM gets a copy")
      ->capture_default_str();
  AddSeconds(app, "--boot-timeout", config.boot_timeout, 0.1,
             "Seconds that a VM may take until its agent is ready");
  AddSeconds(app, "--answer-timeout", config.answer_timeout, 0.1,
             "Seconds that an agent may take to answer, also until a process runs");
  app.add_flag("--save-on-stop", config.save_on_stop,
               "Stopping a VM that does not say otherwise saves it");
  app.add_flag("--stop-vms", config.stop_vms,
               "Told to end (SIGTERM), stop all VMs first, as ferryctl stop does");
  AddSeconds(app, "--stop-vms-within", config.stop_vms_within, 1,
             "Seconds that this may take; what has not stopped by then runs on");
  app.add_option("--unattended-save", config.unattended_save,
                 "Of a VM that cannot be saved then, though it is to be: shutdown (shut it down "
                 "instead) or require (let it run on)")
      ->capture_default_str()
      ->check(CLI::IsMember({"require", "shutdown"}));
  AddSeconds(app, "--stall-timeout", config.stall_timeout, 0,
             "Seconds without a byte after which a migration is called off; 0: never");
  app.add_option("--memory-reserve", config.memory_reserve_mb,
                 "MiB of this host's memory that arriving VMs must leave free")
      ->capture_default_str();
  app.add_option("--qemu", config.qemu, "QEMU binary")->capture_default_str();
  app.add_option("--virtiofsd", config.virtiofsd, "Serves the folders that VMs share")
      ->capture_default_str();
  app.add_option_function<std::vector<std::string>>(
         "--bridge",
         [&config](const std::vector<std::string>& mappings) {
           for (const std::string& text : mappings) {
             const auto mapping = ParseBridgeMapping(text);
             if (!mapping.ok()) {
               throw CLI::ValidationError("--bridge", std::string(mapping.status().message()));
             }
             if (!config.bridges.insert(*mapping).second) {
               throw CLI::ValidationError("--bridge", mapping->first + " is given twice");
             }
           }
         },
         "NAME=LOCALNAME: cards on a bridge NAME are plugged into LOCALNAME here (repeatable)")
      ->allow_extra_args(false);
  app.add_option("--qemu-user", config.qemu_user, "Run QEMU as this user");
  app.add_option("--cgroup", config.cgroup,
                 "Where each QEMU gets a control group (v2) of its own: a path below the mount of "
                 "cgroup2, auto (beside ferryd's own, if that is possible) or none")
      ->capture_default_str();
  app.add_option("--nice", config.nice,
                 "ferryd's own niceness, so that a switchover does not wait for busy VMs; these "
                 "keep the one that ferryd was started with")
      ->capture_default_str()
      ->check(CLI::Range(-20, 19));
  app.add_flag("--no-kvm", config.no_kvm, "Use software emulation without measuring KVM");
  app.add_option("--guest-link", config.guest_link,
                 "How to reach agents: vsock, virtio-serial, or auto (vsock where the host has it)")
      ->capture_default_str()
      ->check(CLI::IsMember({"auto", "vsock", "virtio-serial"}));
#ifdef FERRY_FAILPOINTS
  app.add_option(
      "--failpoint", config.failpoint,
      "For tests: die at this point, such as COMMIT.before or COMMIT.after; with =stop "
      "behind it, stand still there once, until SIGCONT. Several are separated by commas");
#endif
  app.add_option("--log-level", config.log_level, "trace, debug, info, warn or error")
      ->capture_default_str()
      ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error"}));
}

absl::Status Check(const FerrydConfig& config) {
  if (!config.tls.empty() &&
      (config.tls.ca.empty() || config.tls.cert.empty() || config.tls.key.empty())) {
    return absl::InvalidArgumentError(
        "--tls-ca, --tls-cert and --tls-key go together; give all three or none");
  }
  if (!config.listen.empty() && config.tls.empty() && !config.insecure_tcp) {
    return absl::InvalidArgumentError(
        "--listen serves TCP, which needs certificates (--tls-ca, --tls-cert, --tls-key); on a "
        "network where everyone may do everything, --insecure-tcp does without");
  }
  if (!config.migration_listen.empty() && config.tls.empty() && !config.insecure_tcp) {
    return absl::InvalidArgumentError(
        "--migration-listen serves TCP, which needs certificates (--tls-ca, --tls-cert, --tls-key) "
        "or --insecure-tcp");
  }
  if (config.state_dir.empty() || config.state_dir[0] != '/') {
    return absl::InvalidArgumentError(
        absl::StrCat("--state-dir is \"", config.state_dir, "\"; give an absolute path"));
  }
  if (config.state_dir.size() > kMaxStateDir) {
    return absl::InvalidArgumentError(
        absl::StrCat("--state-dir is a path of ", config.state_dir.size(), " bytes; sockets lie ",
                     "in that folder, so it may have ", kMaxStateDir, " at most"));
  }
  if (!config.fence_lock_dir.empty() && config.fence_lock_dir[0] != '/') {
    return absl::InvalidArgumentError(
        absl::StrCat("--fence-lock-dir is \"", config.fence_lock_dir, "\"; give an absolute path"));
  }
  return absl::OkStatus();
}

// The host of "host:port", with its brackets if it has them; empty for a Unix socket.
std::string HostOf(const std::string& address) {
  const size_t colon = address.rfind(':');
  if (absl::StartsWith(address, "unix:") || colon == std::string::npos) return "";
  return address.substr(0, colon);
}

// What is listened on and what others are told are two things: a host's own name often stands for
// its loopback address, and a wildcard is no address at all.
void CompleteMigrationAddresses(FerrydConfig& config) {
  // Without certificates migrations arrive over handed-over sockets only.
  if (config.tls.empty() && !config.insecure_tcp) return;
  const std::string asked = HostOf(config.migration_listen);
  if (config.migration_listen.empty()) {
    const std::string host = config.listen.empty() ? "" : HostOf(config.listen.front());
    config.migration_listen = absl::StrCat(host.empty() ? "127.0.0.1" : host, ":0");
  }
  if (!config.migration_advertise.empty()) return;
  config.migration_advertise =
      asked.empty() || IsWildcard(asked) ? HostOf(config.advertise) : asked;
}

}  // namespace

absl::StatusOr<FerrydConfig> ParseCommandLine(int argc, char** argv, int* exit_code) {
  FerrydConfig config;
  CLI::App app("ferryd keeps the utility VMs of this host and moves them to others", "ferryd");
  app.set_version_flag("--version", FERRY_VERSION);
  AddFlags(app, config);
  try {
    app.parse(argc, argv);
  } catch (const CLI::FileError& error) {
    *exit_code = 2;
    return absl::InvalidArgumentError(error.what());
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    *exit_code = code == 0 ? 0 : 2;
    return absl::CancelledError("");
  }
  RETURN_IF_ERROR(Check(config));
  if (config.socket.empty()) {
    config.socket = config.state_dir == FerrydConfig().state_dir
                        ? std::string(rpc::kDefaultSocket)
                        : config.state_dir + "/ferryd.sock";
  }
  if (config.advertise.empty()) {
    config.advertise =
        config.listen.empty() ? absl::StrCat("unix:", config.socket) : config.listen.front();
  }
  CompleteMigrationAddresses(config);
  return config;
}

bool UsesVsock(const FerrydConfig& config, const std::function<bool()>& works) {
  return config.guest_link == "auto" ? works() : config.guest_link == "vsock";
}

}  // namespace ferry::tools
