#include "tools/ferryctl/container_stats.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "tools/ferryctl/container_attach.h"
#include "tools/ferryctl/container_view.h"
#include "tools/ferryctl/exit_codes.h"
#include "tools/ferryctl/terminal.h"

namespace ferry::ctl {
namespace {

using ContainerAsync = v1::ContainerService::StubInterface::async_interface;

constexpr milliseconds kEvery(1000);

// Those that there is something to say of, in the order of their names on the command line.
Task<absl::StatusOr<std::vector<v1::Container>>> Choose(Client* client, StatsArguments arguments) {
  std::vector<v1::Container> chosen;
  if (arguments.names.empty()) {
    v1::ListContainersRequest request;
    request.set_vm(arguments.vm);
    absl::StatusOr<v1::ListContainersResponse> list =
        co_await rpc::CallUnary(client->containers->async(), &ContainerAsync::ListContainers,
                                std::move(request), kCallTimeout);
    if (!list.ok()) co_return list.status();
    for (const v1::Container& container : list->containers()) {
      const bool lives = container.state() == v1::CONTAINER_STATE_RUNNING ||
                         container.state() == v1::CONTAINER_STATE_PAUSED;
      if (lives) chosen.push_back(container);
    }
    co_return chosen;
  }
  for (const std::string& name : arguments.names) {
    v1::ContainerRef ref = RefTo(name, arguments.vm);
    absl::StatusOr<v1::Container> found = co_await FindContainer(client, std::move(ref));
    if (!found.ok()) co_return found.status();
    chosen.push_back(*std::move(found));
  }
  co_return chosen;
}

// A number of each. One that has ended meanwhile is left out, unless it was asked for by name and
// this is the first look.
Task<absl::StatusOr<std::vector<StatsSample>>> Measure(Client* client,
                                                       std::vector<v1::Container> containers,
                                                       std::vector<StatsSample> before,
                                                       bool strict) {
  std::vector<StatsSample> samples;
  for (const v1::Container& container : containers) {
    v1::ContainerRef ref = RefTo(container.id(), "");
    absl::StatusOr<v1::ContainerStats> stats =
        co_await rpc::CallUnary(client->containers->async(), &ContainerAsync::GetContainerStats,
                                std::move(ref), kCallTimeout);
    if (!stats.ok()) {
      const bool ended =
          absl::IsNotFound(stats.status()) || absl::IsFailedPrecondition(stats.status());
      if (ended && !strict) continue;
      co_return stats.status();
    }
    StatsSample sample;
    sample.name = container.spec().name();
    sample.vm = container.vm_name();
    sample.now = *std::move(stats);
    const auto known = std::find_if(before.begin(), before.end(), [&](const StatsSample& other) {
      return other.now.container_id() == sample.now.container_id();
    });
    if (known != before.end()) sample.before = known->now;
    samples.push_back(std::move(sample));
  }
  co_return samples;
}

// Draws over what it drew before.
class StatsScreen {
 public:
  // False when nobody reads any more.
  bool Draw(const std::string& text) {
    // Up a line and erase it, for each that is there.
    for (; lines_ > 0; --lines_) std::fputs("\x1b[1A\x1b[2K", stdout);
    lines_ = std::count(text.begin(), text.end(), '\n');
    return std::fputs(text.c_str(), stdout) >= 0 && std::fflush(stdout) == 0;
  }

 private:
  std::ptrdiff_t lines_ = 0;
};

bool PrintJson(const std::vector<StatsSample>& samples) {
  for (const StatsSample& sample : samples) {
    if (std::fputs(ToJson(sample.now, false).c_str(), stdout) < 0) return false;
  }
  return std::fflush(stdout) == 0;
}

}  // namespace

Task<int> ShowStats(Client* client, StatsArguments arguments) {
  const bool json = client->options.format() == OutputFormat::kJson;
  const bool goes_on = !arguments.once && (json || IsTerminal(STDOUT_FILENO));
  const bool named = !arguments.names.empty();
  std::vector<StatsSample> before;
  StatsScreen screen;
  for (int round = 0;; ++round) {
    absl::StatusOr<std::vector<v1::Container>> containers = co_await Choose(client, arguments);
    absl::Status status = containers.status();
    if (status.ok()) {
      absl::StatusOr<std::vector<StatsSample>> measured =
          co_await Measure(client, *containers, before, named && round == 0);
      status = measured.status();
      if (measured.ok()) before = *std::move(measured);
    }
    // One that was named, and has gone since.
    if (round > 0 && named && absl::IsNotFound(status)) co_return kOk;
    if (!status.ok()) co_return Fail(*client, "measuring containers", status);
    if (named && before.empty()) co_return kOk;
    // What share of a CPU is used shows only between two looks.
    const bool last = !goes_on && (json || round > 0);
    if (json && !PrintJson(before)) co_return kOk;
    if (!json && (goes_on || last) && !screen.Draw(StatsTable(before))) co_return kOk;
    if (last) co_return kOk;
    co_await Delay(kEvery);
  }
}

}  // namespace ferry::ctl
