#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tools/ferryctl/command.h"
#include "tools/ferryctl/migration_watch.h"
#include "tools/ferryctl/recover_command.h"
#include "tools/ferryctl/trace.h"

// `ferryctl migration list | show | watch | trace | cancel | cleanup | recover`.
namespace ferry::ctl {
namespace {

using MigrationAsync = v1::MigrationService::StubInterface::async_interface;

std::string Requested(const v1::CancelResponse&) {
  return "Cancel requested; see how it ends with: ferryctl migration watch ID\n";
}

std::string CleanedUp(const v1::CleanupResponse&) { return ""; }

std::string ShowText(const v1::Session& session) {
  return session.statistics().total_ms() > 0
             ? absl::StrCat(SessionDetails(session), "\n", MigrationSummary(session))
             : SessionDetails(session);
}

Task<int> Watch(Client* client, std::string id) {
  const bool json = client->options.format() == OutputFormat::kJson;
  ProgressView view = MakeProgressView(json);
  absl::StatusOr<v1::Session> session = co_await WatchSession(client, id, &view);
  co_return Conclude(*client, absl::StrCat("watching migration ", id), session, &view, json);
}

void AddMigrationList(CLI::App* migration, Command* command) {
  auto vm = std::make_shared<std::string>();
  CLI::App* list = migration->add_subcommand("list", "List migrations");
  list->add_option("--vm", *vm, "Only of this VM");
  list->callback([=] {
    command->action = [=](Client* client) {
      v1::ListSessionsRequest request;
      request.set_vm(*vm);
      return CallAndPrint(client, client->migrations->async(), &MigrationAsync::ListSessions,
                          std::move(request), kCallTimeout, "listing migrations", &SessionTable);
    };
  });
}

void AddMigrationShow(CLI::App* migration, Command* command) {
  auto id = std::make_shared<std::string>();
  CLI::App* show = migration->add_subcommand("show", "Show one migration");
  show->add_option("id", *id, "The session's id")->required();
  show->callback([=] {
    command->action = [=](Client* client) {
      v1::GetSessionRequest request;
      request.set_session_id(*id);
      return CallAndPrint(client, client->migrations->async(), &MigrationAsync::GetSession,
                          std::move(request), kCallTimeout, absl::StrCat("showing migration ", *id),
                          &ShowText);
    };
  });
}

void AddMigrationWatch(CLI::App* migration, Command* command) {
  auto id = std::make_shared<std::string>();
  CLI::App* watch = migration->add_subcommand("watch", "Follow a migration to its end");
  watch->add_option("id", *id, "The session's id")->required();
  watch->callback([=] { command->action = [=](Client* client) { return Watch(client, *id); }; });
}

void AddMigrationTrace(CLI::App* migration, Command* command) {
  auto id = std::make_shared<std::string>();
  auto file = std::make_shared<std::string>();
  CLI::App* trace = migration->add_subcommand("trace", "Get the timeline of a traced migration");
  trace->add_option("id", *id, "The session's id")->required();
  trace->add_option("-o,--to-file", *file, "Where to write it; default: stdout");
  trace->callback(
      [=] { command->action = [=](Client* client) { return PrintTrace(client, *id, *file); }; });
}

void AddMigrationCancel(CLI::App* migration, Command* command) {
  auto id = std::make_shared<std::string>();
  CLI::App* cancel = migration->add_subcommand("cancel", "Call a migration off");
  cancel->add_option("id", *id, "The session's id")->required();
  cancel->callback([=] {
    command->action = [=](Client* client) {
      v1::CancelRequest request;
      request.set_session_id(*id);
      return CallAndPrint(client, client->migrations->async(), &MigrationAsync::Cancel,
                          std::move(request), kCallTimeout,
                          absl::StrCat("cancelling migration ", *id), &Requested);
    };
  });
}

void AddMigrationCleanup(CLI::App* migration, Command* command) {
  auto id = std::make_shared<std::string>();
  CLI::App* cleanup = migration->add_subcommand(
      "cleanup", "End what is left to do for a migration that is over; its record stays");
  cleanup->add_option("id", *id, "The session's id")->required();
  cleanup->callback([=] {
    command->action = [=](Client* client) {
      v1::CleanupRequest request;
      request.set_session_id(*id);
      return CallAndPrint(client, client->migrations->async(), &MigrationAsync::Cleanup,
                          std::move(request), kCallTimeout,
                          absl::StrCat("cleaning up migration ", *id), &CleanedUp);
    };
  });
}

}  // namespace

void AddMigrationCommands(CLI::App* app, Command* command) {
  CLI::App* migration = app->add_subcommand("migration", "Look at migrations, and cancel them");
  migration->require_subcommand(1);
  migration->fallthrough();

  AddMigrationList(migration, command);
  AddMigrationShow(migration, command);
  AddMigrationWatch(migration, command);
  AddMigrationTrace(migration, command);
  AddMigrationCancel(migration, command);
  AddMigrationCleanup(migration, command);
  AddRecoverCommand(migration, command);
}

}  // namespace ferry::ctl
