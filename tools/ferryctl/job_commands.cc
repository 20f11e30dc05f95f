#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tools/ferryctl/command.h"
#include "tools/ferryctl/exit_codes.h"
#include "tools/ferryctl/job_view.h"
#include "tools/ferryctl/job_watch.h"

// `ferryctl job list | inspect | watch | cancel | dismiss`.
namespace ferry::ctl {
namespace {

using JobAsync = v1::JobService::StubInterface::async_interface;

constexpr char kIdHelp[] = "The job's id, or its first 8 or more characters";

v1::JobRef JobRefTo(const std::string& id) {
  v1::JobRef ref;
  ref.set_id(id);
  return ref;
}

std::string CancelRequested(const v1::Job& job) {
  return absl::StrCat("Cancel requested; see how it ends with: ferryctl job watch ",
                      Printable(job.id()), "\n");
}

// All kinds that there are, by their words.
std::map<std::string, v1::JobKind> JobKinds() {
  std::map<std::string, v1::JobKind> kinds;
  for (int value = v1::JobKind_MIN + 1; value <= v1::JobKind_MAX; ++value) {
    const auto kind = static_cast<v1::JobKind>(value);
    if (v1::JobKind_IsValid(value)) kinds[JobKindName(kind)] = kind;
  }
  return kinds;
}

void AddJobList(CLI::App* job, Command* command) {
  struct Arguments {
    std::string vm, kind;
    bool all = false;
  };
  auto arguments = std::make_shared<Arguments>();
  const std::map<std::string, v1::JobKind> kinds = JobKinds();
  std::vector<std::string> words;
  for (const auto& [word, kind] : kinds) words.push_back(word);
  CLI::App* list = job->add_subcommand("list", "List the jobs that are under way");
  list->add_option("--vm", arguments->vm, "Only of this VM; name or id");
  list->add_option("--kind", arguments->kind, "Only of this kind")->check(CLI::IsMember(words));
  list->add_flag("-a,--all", arguments->all, "Also those that have ended");
  list->callback([arguments, command, kinds] {
    v1::ListJobsRequest request;
    request.set_vm(arguments->vm);
    if (!arguments->kind.empty()) request.set_kind(kinds.at(arguments->kind));
    request.set_include_ended(arguments->all);
    command->action = [request](Client* client) {
      return CallAndPrint(client, client->jobs->async(), &JobAsync::ListJobs, request, kCallTimeout,
                          "listing jobs", &JobTable);
    };
  });
}

void AddJobInspect(CLI::App* job, Command* command) {
  auto id = std::make_shared<std::string>();
  CLI::App* inspect = job->add_subcommand("inspect", "Show one job");
  inspect->add_option("id", *id, kIdHelp)->required();
  inspect->callback([id, command] {
    command->action = [id](Client* client) {
      return CallAndPrint(client, client->jobs->async(), &JobAsync::GetJob, JobRefTo(*id),
                          kCallTimeout, absl::StrCat("inspecting job ", *id), &JobDetails);
    };
  });
}

void AddJobWatch(CLI::App* job, Command* command) {
  auto id = std::make_shared<std::string>();
  CLI::App* watch = job->add_subcommand("watch", "Follow a job to its end, and exit as it ends");
  watch->add_option("id", *id, kIdHelp)->required();
  watch->callback([id, command] {
    command->action = [id](Client* client) { return RunJobWatch(client, *id); };
  });
}

void AddJobCancel(CLI::App* job, Command* command) {
  auto id = std::make_shared<std::string>();
  CLI::App* cancel = job->add_subcommand("cancel", "Ask a job to end; does not wait for that");
  cancel->add_option("id", *id, kIdHelp)->required();
  cancel->callback([id, command] {
    command->action = [id](Client* client) {
      return CallAndPrint(client, client->jobs->async(), &JobAsync::CancelJob, JobRefTo(*id),
                          kCallTimeout, absl::StrCat("cancelling job ", *id), &CancelRequested);
    };
  });
}

Task<int> DismissJobs(Client* client, std::vector<std::string> ids) {
  int code = kOk;
  for (const std::string& id : ids) {
    const absl::StatusOr<v1::DismissJobResponse> dismissed = co_await rpc::CallUnary(
        client->jobs->async(), &JobAsync::DismissJob, JobRefTo(id), kCallTimeout);
    if (dismissed.ok()) continue;
    const int failed = Fail(*client, absl::StrCat("dismissing job ", id), dismissed.status());
    if (code == kOk) code = failed;
  }
  co_return code;
}

void AddJobDismiss(CLI::App* job, Command* command) {
  auto ids = std::make_shared<std::vector<std::string>>();
  CLI::App* dismiss = job->add_subcommand("dismiss", "Forget jobs that have ended");
  dismiss->add_option("ids", *ids, "Their ids, or the first 8 or more characters")->required();
  dismiss->callback([ids, command] {
    command->action = [ids](Client* client) { return DismissJobs(client, *ids); };
  });
}

}  // namespace

void AddJobCommands(CLI::App* app, Command* command) {
  CLI::App* job = app->add_subcommand("job", "Look at what takes long on a host, and cancel it");
  job->require_subcommand(1);
  job->fallthrough();
  AddJobList(job, command);
  AddJobInspect(job, command);
  AddJobWatch(job, command);
  AddJobCancel(job, command);
  AddJobDismiss(job, command);
}

}  // namespace ferry::ctl
