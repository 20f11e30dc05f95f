#include <boost/asio/signal_set.hpp>
#include <csignal>
#include <string>

#include "absl/strings/str_cat.h"
#include "tools/ferryctl/command.h"
#include "tools/ferryctl/exit_codes.h"
#include "tools/ferryctl/migrate_options.h"
#include "tools/ferryctl/migration_watch.h"
#include "tools/ferryctl/preflight_view.h"
#include "vmmanager/rpc/error_info.h"

// `ferryctl migrate`: starts a migration in the source's daemon and stays with it to its end.
namespace ferry::ctl {
namespace {

using MigrationAsync = v1::MigrationService::StubInterface::async_interface;

struct MigrateArguments {
  std::string vm, destination;
  MigrateOptions options;
  bool json = false;
  bool dry_run = false;
  v1::MigrateRequest request;
  std::string session_id;  // once it has begun
};

// What the person wants who presses Ctrl-C, from before the migration has begun to its end.
class Interrupts {
 public:
  explicit Interrupts(Client* client)
      : client_(client),
        signals_(client->executor, SIGINT, SIGTERM, SIGHUP),
        session_known_(client->executor),
        left_(client->executor),
        scope_(client->executor) {}

  void Start() { scope_.Spawn(Listen()); }
  Task<void> Stop() { return scope_.CancelAndJoin(); }

  // From now on there is something to call off.
  void OnBegun(const v1::Session& session, ProgressView* view) {
    session_id_ = session.session_id();
    view_ = view;
    session_known_.Set();
  }

  // Returns when the client is to leave the migration to itself, with the signal that said so.
  Task<int> WaitLeft() {
    co_await left_.Wait();
    co_return left_by_;
  }

 private:
  Task<void> Listen() {
    bool asked = false;
    while (true) {
      boost::system::error_code ec;
      const int signal =
          co_await signals_.async_wait(asio::redirect_error(asio::use_awaitable, ec));
      if (ec) co_return;
      if (signal != SIGINT || asked) {
        left_by_ = signal;
        left_.Set();
        co_return;
      }
      asked = true;
      scope_.Spawn(Cancel());
    }
  }

  Task<void> Cancel() {
    co_await session_known_.Wait();
    view_->Warn(
        "Cancelling; waiting for the outcome. Press Ctrl-C again to leave it to the daemon.");
    v1::CancelRequest request;
    request.set_session_id(session_id_);
    absl::StatusOr<v1::CancelResponse> response = co_await rpc::CallUnary(
        client_->migrations->async(), &MigrationAsync::Cancel, request, kCallTimeout);
    if (response.ok()) co_return;
    const auto info = rpc::GetErrorInfo(response.status());
    if (info && info->reason() == "past_point_of_no_return") {
      view_->Warn(
          "Too late to cancel: the migration is past its point of no return, and the VM goes on at "
          "the destination. Waiting for the outcome.");
      co_return;
    }
    view_->Warn(absl::StrCat("It could not be cancelled: ", response.status().message(),
                             ". Waiting for the outcome."));
  }

  Client* const client_;
  asio::signal_set signals_;
  AsyncEvent session_known_;
  AsyncEvent left_;
  int left_by_ = 0;
  std::string session_id_;
  ProgressView* view_ = nullptr;
  TaskScope scope_;
};

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

Task<int> BeginAndWatch(Client* client, std::shared_ptr<MigrateArguments> arguments,
                        ProgressView* view, Interrupts* interrupts) {
  const std::string doing = absl::StrCat("migrating VM ", arguments->vm);
  absl::StatusOr<v1::Session> begun = co_await Begin(client, arguments->request);
  if (!begun.ok()) co_return Fail(*client, doing, begun.status());
  arguments->session_id = begun->session_id();
  view->Say(absl::StrCat("Migration ", begun->session_id(), ": ", begun->vm_name(), " to ",
                         begun->destination()));
  interrupts->OnBegun(*begun, view);
  absl::StatusOr<v1::Session> ended = co_await WatchSession(client, begun->session_id(), view);
  co_return Conclude(*client, doing, ended, view, arguments->json);
}

std::string LeftText(const Client& client, const MigrateArguments& arguments) {
  if (arguments.session_id.empty()) {
    return absl::StrCat("Left; ", client.options.host,
                        " may have begun the migration. Look with: ferryctl --host ",
                        client.options.host, " migration list --vm ", arguments.vm);
  }
  return absl::StrCat(
      "Left; the migration goes on in the daemon. See how it ends with: ferryctl "
      "--host ",
      client.options.host, " migration watch ", arguments.session_id);
}

Task<int> Migrate(Client* client, std::shared_ptr<MigrateArguments> arguments) {
  using asio::experimental::awaitable_operators::operator||;
  arguments->json = arguments->json || client->options.format() == OutputFormat::kJson;
  ProgressView view = MakeProgressView(arguments->json);
  Interrupts interrupts(client);
  interrupts.Start();
  const auto first =
      co_await (BeginAndWatch(client, arguments, &view, &interrupts) || interrupts.WaitLeft());
  co_await interrupts.Stop();
  if (first.index() == 0) co_return std::get<0>(first);
  view.Warn(LeftText(*client, *arguments));
  co_return 128 + std::get<1>(first);
}

void CheckMigrate(MigrateArguments* arguments) {
  v1::MigrateRequest& request = arguments->request;
  request.set_vm(arguments->vm);
  request.set_destination(arguments->destination);
  request.set_request_id(NewRequestId());
  if (absl::StatusOr<rpc::Address> to = rpc::ParseAddress(arguments->destination); !to.ok()) {
    throw CLI::ValidationError("--to", std::string(to.status().message()));
  }
  arguments->options.Fill(&request);
}

}  // namespace

void AddMigrateCommand(CLI::App* app, Command* command) {
  auto arguments = std::make_shared<MigrateArguments>();
  CLI::App* sub = app->add_subcommand("migrate", "Move a running VM to another host");
  sub->add_option("vm", arguments->vm, "Name or id")->required();
  sub->add_option("--to", arguments->destination, "The destination's daemon")->required();
  arguments->options.AddTo(sub);
  sub->add_flag("--json", arguments->json, "A JSON object per line, the session last");
  sub->add_flag("--dry-run", arguments->dry_run,
                "Only check whether it would be accepted; exits with 4 if not");
  sub->callback([=] {
    CheckMigrate(arguments.get());
    command->action = [=](Client* client) {
      return arguments->dry_run ? DryRun(client, arguments->request, arguments->json)
                                : Migrate(client, arguments);
    };
  });
}

}  // namespace ferry::ctl
