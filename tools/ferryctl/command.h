#pragma once

#include <CLI/CLI.hpp>
#include <cstdio>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>

#include "bridge/runtime/async.h"
#include "ferry/v1/checkpoint.grpc.pb.h"
#include "ferry/v1/container.grpc.pb.h"
#include "ferry/v1/disk.grpc.pb.h"
#include "ferry/v1/guest.grpc.pb.h"
#include "ferry/v1/host.grpc.pb.h"
#include "ferry/v1/image.grpc.pb.h"
#include "ferry/v1/job.grpc.pb.h"
#include "ferry/v1/migration.grpc.pb.h"
#include "ferry/v1/snapshot.grpc.pb.h"
#include "ferry/v1/vm.grpc.pb.h"
#include "tools/ferryctl/output.h"
#include "vmmanager/rpc/channel.h"
#include "vmmanager/rpc/client_call.h"

// What all of ferryctl's commands share.
namespace ferry::ctl {

struct GlobalOptions {
  std::string host;
  rpc::TlsFiles tls;
  std::string output = "table";

  OutputFormat format() const {
    return output == "json" ? OutputFormat::kJson : OutputFormat::kTable;
  }
};

// The connection to one daemon.
class Client {
 public:
  Client(Executor executor, const GlobalOptions& options);
  absl::Status Connect();

  const Executor executor;
  const GlobalOptions options;
  std::unique_ptr<v1::VmService::Stub> vms;
  std::unique_ptr<v1::GuestService::Stub> guests;
  std::unique_ptr<v1::HostService::Stub> hosts;
  std::unique_ptr<v1::MigrationService::Stub> migrations;
  std::unique_ptr<v1::ImageService::Stub> images;
  std::unique_ptr<v1::ContainerService::Stub> containers;
  std::unique_ptr<v1::JobService::Stub> jobs;
  std::unique_ptr<v1::SnapshotService::Stub> snapshots;
  std::unique_ptr<v1::CheckpointService::Stub> checkpoints;
  std::unique_ptr<v1::DiskService::Stub> disks;
};

// A parsed command line: what is to be done, and with which status it exits if that cannot even
// begin, be it for a wrong usage.
struct Command {
  GlobalOptions options;
  std::function<Task<int>(Client*)> action;
  std::function<int()> local;       // in place of it: what needs no daemon
  std::optional<int> failure_code;  // nullopt: by the error
};

inline constexpr milliseconds kCallTimeout(30000);
inline constexpr milliseconds kLongTimeout(300000);    // boot, orderly shutdown
inline constexpr milliseconds kCopyTimeout(86400000);  // a disk
inline constexpr milliseconds kSaveTimeout(3600000);   // a VM's whole memory to or from a disk

// Each adds its commands to `app`; parsing fills `command`.
void AddVmCommands(CLI::App* app, Command* command);
// `save`, of `app` and of `vm`.
void AddSave(CLI::App* app, Command* command);
// `vm set`.
void AddVmSet(CLI::App* vm, Command* command);
void AddSnapshotCommands(CLI::App* app, Command* command);
void AddDiskCommands(CLI::App* app, Command* command);
void AddCheckpointCommands(CLI::App* app, Command* command);
void AddProcessCommands(CLI::App* app, Command* command);
void AddLogsCommand(CLI::App* app, Command* command);
void AddMigrateCommand(CLI::App* app, Command* command);
void AddMigrationCommands(CLI::App* app, Command* command);
void AddEventsCommand(CLI::App* app, Command* command);
void AddHostCommand(CLI::App* app, Command* command);
void AddImageCommands(CLI::App* app, Command* command);
void AddJobCommands(CLI::App* app, Command* command);
void AddContainerCommands(CLI::App* app, Command* command);
void AddRunCommand(CLI::App* app, Command* command);
// `container create`.
void AddContainerCreate(CLI::App* container, Command* command);
void AddPkiCommands(CLI::App* app, Command* command);

// For a subcommand that ends with a process's status: from its word on a failure of ours, a wrong
// usage too, must not look like one.
void FailApart(CLI::App* sub, Command* command);

// Parses and runs one command line; returns the exit status.
int RunFerryctl(int argc, const char* const* argv);

// Tells the person on stderr and returns the exit status.
int Fail(const Client& client, const std::string& doing, const absl::Status& status);

// A random id that makes a repeated request harmless.
std::string NewRequestId();

// On stderr, behind what was printed, what a changed VM's answer warns of.
void PrintWarnings(const v1::Vm& vm);

// A unary call whose answer is printed: as JSON, or as `table` makes of it.
template <typename Async, typename Request, typename Response>
Task<int> CallAndPrint(Client* client, std::type_identity_t<Async>* async,
                       void (Async::*method)(grpc::ClientContext*, const Request*, Response*,
                                             std::function<void(grpc::Status)>),
                       std::type_identity_t<Request> request, milliseconds timeout,
                       std::string doing,
                       std::type_identity_t<std::function<std::string(const Response&)>> table) {
  absl::StatusOr<Response> response =
      co_await rpc::CallUnary<Async>(async, method, std::move(request), timeout);
  if (!response.ok()) co_return Fail(*client, doing, response.status());
  const std::string text =
      client->options.format() == OutputFormat::kJson ? ToJson(*response, true) : table(*response);
  std::fputs(text.c_str(), stdout);
  if constexpr (std::is_same_v<Response, v1::Vm>) PrintWarnings(*response);
  co_return 0;
}

}  // namespace ferry::ctl
