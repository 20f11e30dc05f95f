#include "tools/ferryctl/command.h"
#include "tools/ferryctl/exit_codes.h"
#include "vmmanager/rpc/client_stream.h"

// `ferryctl events` and `ferryctl host`.
namespace ferry::ctl {
namespace {

using HostAsync = v1::HostService::StubInterface::async_interface;

constexpr milliseconds kResubscribeDelay(500);

// Prints events; with `follow` it outlives the daemon's restarts, for nobody watches the watcher.
Task<int> Events(Client* client, uint64_t since, bool follow) {
  bool answered = false;
  while (true) {
    v1::WatchEventsRequest request;
    request.set_since(since);
    request.set_follow(follow);
    auto stream =
        rpc::OpenRead(client->executor, client->hosts->async(), &HostAsync::WatchEvents, request);
    while (std::optional<v1::Event> event = co_await stream->Read()) {
      answered = true;
      since = event->id();
      const std::string text = client->options.format() == OutputFormat::kJson
                                   ? ToJson(*event, false)
                                   : EventLine(*event);
      if (std::fputs(text.c_str(), stdout) < 0 || std::fflush(stdout) != 0) co_return kOk;
    }
    const absl::Status status = co_await stream->Finish();
    if (status.ok()) co_return kOk;
    const bool away = status.code() == absl::StatusCode::kUnavailable;
    if (!follow || !answered || !away) co_return Fail(*client, "watching events", status);
    co_await Delay(kResubscribeDelay);
  }
}

}  // namespace

void AddEventsCommand(CLI::App* app, Command* command) {
  auto since = std::make_shared<uint64_t>(0);
  auto follow = std::make_shared<bool>(false);
  CLI::App* sub = app->add_subcommand("events", "Print what happened on the host");
  sub->add_option("--since", *since, "Only events after this id");
  sub->add_flag("-f,--follow", *follow, "Go on with what happens from now on");
  sub->callback(
      [=] { command->action = [=](Client* client) { return Events(client, *since, *follow); }; });
}

void AddHostCommand(CLI::App* app, Command* command) {
  app->add_subcommand("host", "Show the host")->callback([command] {
    command->action = [](Client* client) {
      return CallAndPrint(client, client->hosts->async(), &HostAsync::GetHost, v1::GetHostRequest(),
                          kCallTimeout, "asking the host", &HostDetails);
    };
  });
}

}  // namespace ferry::ctl
