#include "tools/ferryctl/command.h"

#include <grpcpp/channel.h>

#include <boost/asio/io_context.hpp>
#include <cstdlib>
#include <random>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "tools/ferryctl/errors.h"
#include "tools/ferryctl/exit_codes.h"

namespace ferry::ctl {
namespace {

constexpr char kVersion[] = "0.1.0";

Task<void> RunAction(const Command* command, Client* client, int* exit_code) {
  *exit_code = co_await command->action(client);
}

void AddGlobalOptions(CLI::App* app, GlobalOptions* options) {
  options->host = absl::StrCat("unix:", rpc::kDefaultSocket);
  app->add_option("--host", options->host, "The daemon: unix:/path, host:port or [v6]:port")
      ->envname("FERRY_HOST")
      ->capture_default_str();
  app->add_option("--output,-o", options->output, "How to print")
      ->check(CLI::IsMember({"table", "json"}))
      ->capture_default_str();
  app->add_option("--tls-ca", options->tls.ca, "PEM file of the CA")->envname("FERRY_TLS_CA");
  app->add_option("--tls-cert", options->tls.cert, "PEM file of this client's certificate")
      ->envname("FERRY_TLS_CERT");
  app->add_option("--tls-key", options->tls.key, "PEM file of its key")->envname("FERRY_TLS_KEY");
}

int RunCommand(const Command& command) {
  asio::io_context io(1);
  Client client(io.get_executor(), command.options);
  const absl::Status connected = client.Connect();
  if (!connected.ok()) {
    const int code = Fail(client, "connecting", connected);
    return command.failure_code.value_or(code);
  }
  int exit_code = kInternal;
  Spawn(io.get_executor(), RunAction(&command, &client, &exit_code));
  io.run();
  return exit_code;
}

}  // namespace

Client::Client(Executor e, const GlobalOptions& o) : executor(std::move(e)), options(o) {}

absl::Status Client::Connect() {
  ASSIGN_OR_RETURN(const std::shared_ptr<grpc::Channel> channel,
                   rpc::MakeChannel(options.host, options.tls));
  vms = v1::VmService::NewStub(channel);
  guests = v1::GuestService::NewStub(channel);
  hosts = v1::HostService::NewStub(channel);
  migrations = v1::MigrationService::NewStub(channel);
  images = v1::ImageService::NewStub(channel);
  snapshots = v1::SnapshotService::NewStub(channel);
  checkpoints = v1::CheckpointService::NewStub(channel);
  disks = v1::DiskService::NewStub(channel);
  containers = v1::ContainerService::NewStub(channel);
  jobs = v1::JobService::NewStub(channel);
  return absl::OkStatus();
}

void FailApart(CLI::App* sub, Command* command) {
  sub->preparse_callback([command](size_t) { command->failure_code = kExecFailed; });
}

int Fail(const Client& client, const std::string& doing, const absl::Status& status) {
  std::fputs(ErrorText(doing, status, client.options.host).c_str(), stderr);
  return ExitCodeFor(status);
}

void PrintWarnings(const v1::Vm& vm) {
  std::fflush(stdout);
  for (const std::string& warning : vm.warnings()) {
    std::fprintf(stderr, "Warning: %s\n", PrintableLines(warning).c_str());
  }
}

std::string NewRequestId() {
  std::random_device random;
  std::string id;
  for (int i = 0; i < 4; ++i) absl::StrAppend(&id, absl::Hex(random(), absl::kZeroPad8));
  return id;
}

int RunFerryctl(int argc, const char* const* argv) {
  Command command;
  CLI::App app("Runs containers and utility VMs on Ferry hosts and moves VMs between hosts.",
               "ferryctl");
  app.require_subcommand(1);
  app.fallthrough();
  AddGlobalOptions(&app, &command.options);
  AddVmCommands(&app, &command);
  AddRunCommand(&app, &command);
  AddContainerCommands(&app, &command);
  AddDiskCommands(&app, &command);
  AddSnapshotCommands(&app, &command);
  AddCheckpointCommands(&app, &command);
  AddProcessCommands(&app, &command);
  AddLogsCommand(&app, &command);
  AddMigrateCommand(&app, &command);
  AddMigrationCommands(&app, &command);
  AddEventsCommand(&app, &command);
  AddHostCommand(&app, &command);
  AddImageCommands(&app, &command);
  AddJobCommands(&app, &command);
  AddPkiCommands(&app, &command);
  bool version = false;
  app.add_subcommand("version", "Print ferryctl's version")->callback([&version] {
    version = true;
  });
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kOk : command.failure_code.value_or(kUsage);
  }
  if (version) {
    std::printf("ferryctl %s\n", kVersion);
    return kOk;
  }
  if (command.local) return command.local();
  return RunCommand(command);
}

}  // namespace ferry::ctl
