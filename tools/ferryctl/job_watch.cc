#include "tools/ferryctl/job_watch.h"

#include <chrono>
#include <optional>

#include "absl/strings/str_cat.h"
#include "tools/ferryctl/errors.h"
#include "tools/ferryctl/exit_codes.h"
#include "tools/ferryctl/terminal.h"
#include "vmmanager/rpc/client_stream.h"

namespace ferry::ctl {
namespace {

using JobAsync = v1::JobService::StubInterface::async_interface;
using std::chrono::steady_clock;

constexpr milliseconds kWatchRetryDelay(250);

// Shows what one connection brings; `last` is the newest that came.
Task<absl::Status> ShowJob(Client* client, std::string id, JobProgressView* view,
                           std::optional<v1::Job>* last) {
  v1::JobRef ref;
  ref.set_id(id);
  auto stream = rpc::OpenRead(client->executor, client->jobs->async(), &JobAsync::WatchJob, ref);
  while (std::optional<v1::Job> job = co_await stream->Read()) {
    view->Show(*job);
    *last = *std::move(job);
  }
  co_return co_await stream->Finish();
}

// Also if it says itself that it stops, or is about to start.
bool DaemonIsAway(const absl::Status& status) { return absl::IsUnavailable(status); }

JobViewMode ModeOf(const GlobalOptions& options) {
  if (options.format() == OutputFormat::kJson) return JobViewMode::kJson;
  return IsTerminal(1) ? JobViewMode::kTerminal : JobViewMode::kPipe;
}

}  // namespace

Task<absl::StatusOr<v1::Job>> WatchJob(Client* client, std::string id, JobProgressView* view,
                                       milliseconds patience) {
  auto answered = steady_clock::now();
  while (true) {
    std::optional<v1::Job> last;
    absl::Status status = co_await ShowJob(client, id, view, &last);
    if (last) {
      answered = steady_clock::now();
      id = last->id();
      if (last->ended_unix_ms() != 0) co_return *std::move(last);
    }
    if (!status.ok() && !DaemonIsAway(status)) co_return status;
    if (steady_clock::now() - answered > patience) {
      co_return status.ok() ? absl::DeadlineExceededError("nothing more is told of the job")
                            : status;
    }
    co_await Delay(kWatchRetryDelay);
  }
}

Task<int> RunJobWatch(Client* client, std::string id) {
  JobProgressView view(ModeOf(client->options), stdout);
  const absl::StatusOr<v1::Job> job = co_await WatchJob(client, id, &view);
  view.Clear();
  std::fflush(stdout);
  if (!job.ok()) co_return Fail(*client, absl::StrCat("watching job ", id), job.status());
  const int code = ExitCodeFor(*job);
  if (client->options.format() == OutputFormat::kTable) {
    std::fputs(JobEndText(*job, client->options.host).c_str(), code == kOk ? stdout : stderr);
  }
  co_return code;
}

}  // namespace ferry::ctl
