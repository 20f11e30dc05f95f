#include <boost/asio/signal_set.hpp>
#include <csignal>
#include <string>

#include "absl/strings/str_cat.h"
#include "tools/ferryctl/command.h"
#include "tools/ferryctl/exit_codes.h"
#include "tools/ferryctl/migration_watch.h"
#include "tools/ferryctl/units.h"

// `ferryctl migrate`: starts a migration in the source's daemon and stays with it to its end.
namespace ferry::ctl {
namespace {

using MigrationAsync = v1::MigrationService::StubInterface::async_interface;

struct MigrateArguments {
  std::string vm, destination, downtime_limit, max_bandwidth;
  bool json = false;
  v1::MigrateRequest request;
};

Task<void> CancelOnInterrupt(Client* client, std::string session_id, ProgressView* view) {
  asio::signal_set signals(client->executor, SIGINT, SIGTERM);
  while (true) {
    boost::system::error_code ec;
    co_await signals.async_wait(asio::redirect_error(asio::use_awaitable, ec));
    if (ec) co_return;
    view->Say("Cancelling; waiting for the outcome. The migration may already be past that.");
    v1::CancelRequest request;
    request.set_session_id(session_id);
    absl::StatusOr<v1::CancelResponse> response = co_await rpc::CallUnary(
        client->migrations->async(), &MigrationAsync::Cancel, request, kCallTimeout);
    if (!response.ok()) {
      view->Say(absl::StrCat("It cannot be cancelled: ", response.status().message()));
    }
  }
}

// The whole migration may have begun before its answer was lost: the request's id makes asking
// again harmless.
Task<absl::StatusOr<v1::Session>> Begin(Client* client, v1::MigrateRequest request) {
  absl::StatusOr<v1::Session> session = co_await rpc::CallUnary(
      client->migrations->async(), &MigrationAsync::Migrate, request, kLongTimeout);
  if (session.status().code() == absl::StatusCode::kUnavailable) {
    session = co_await rpc::CallUnary(client->migrations->async(), &MigrationAsync::Migrate,
                                      request, kLongTimeout);
  }
  co_return session;
}

Task<int> Migrate(Client* client, std::shared_ptr<MigrateArguments> arguments) {
  const std::string doing = absl::StrCat("migrating VM ", arguments->vm);
  const bool json = arguments->json || client->options.format() == OutputFormat::kJson;
  absl::StatusOr<v1::Session> begun = co_await Begin(client, arguments->request);
  if (!begun.ok()) co_return Fail(*client, doing, begun.status());
  ProgressView view = MakeProgressView(json);
  view.Say(absl::StrCat("Migration ", begun->session_id(), ": ", begun->vm_name(), " to ",
                        begun->destination()));
  TaskScope scope(client->executor);
  scope.Spawn(CancelOnInterrupt(client, begun->session_id(), &view));
  absl::StatusOr<v1::Session> ended = co_await WatchSession(client, begun->session_id(), &view);
  co_await scope.CancelAndJoin();
  co_return Conclude(*client, doing, ended, &view, json);
}

void CheckMigrate(MigrateArguments* arguments) {
  v1::MigrateRequest& request = arguments->request;
  request.set_vm(arguments->vm);
  request.set_destination(arguments->destination);
  request.set_request_id(NewRequestId());
  if (absl::StatusOr<rpc::Address> to = rpc::ParseAddress(arguments->destination); !to.ok()) {
    throw CLI::ValidationError("--to", std::string(to.status().message()));
  }
  const absl::StatusOr<uint32_t> downtime = ParseDurationMs(arguments->downtime_limit);
  if (!downtime.ok()) {
    throw CLI::ValidationError("--downtime-limit", std::string(downtime.status().message()));
  }
  const absl::StatusOr<uint64_t> bandwidth = ParseSize(arguments->max_bandwidth);
  if (!bandwidth.ok()) {
    throw CLI::ValidationError("--max-bandwidth", std::string(bandwidth.status().message()));
  }
  v1::InitializeOptions* options = request.mutable_options();
  options->mutable_memory_transfer_throttle_params()->set_target_blackout_transfer_time(*downtime);
  options->set_max_bandwidth(*bandwidth);
}

}  // namespace

void AddMigrateCommand(CLI::App* app, Command* command) {
  auto arguments = std::make_shared<MigrateArguments>();
  arguments->downtime_limit = "10ms";
  arguments->max_bandwidth = "0";
  CLI::App* sub = app->add_subcommand("migrate", "Move a running VM to another host");
  sub->add_option("vm", arguments->vm, "Name or id")->required();
  sub->add_option("--to", arguments->destination, "The destination's daemon")->required();
  sub->add_option("--downtime-limit", arguments->downtime_limit, "How long the switch may take")
      ->capture_default_str();
  sub->add_option("--max-bandwidth", arguments->max_bandwidth, "Bytes per second; 0: no limit")
      ->capture_default_str();
  sub->add_flag("--json", arguments->json, "A JSON object per line, the session last");
  sub->callback([=] {
    CheckMigrate(arguments.get());
    command->action = [=](Client* client) { return Migrate(client, arguments); };
  });
}

}  // namespace ferry::ctl
