#include "tools/ferryctl/preflight_view.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tools/ferryctl/command.h"
#include "tools/ferryctl/exit_codes.h"
#include "tools/ferryctl/output.h"

namespace ferry::ctl {
namespace {

using MigrationAsync = v1::MigrationService::StubInterface::async_interface;

// A failed one must catch the eye.
std::string ResultName(v1::PreflightResult result) {
  switch (result) {
    case v1::PREFLIGHT_RESULT_PASS:
      return "pass";
    case v1::PREFLIGHT_RESULT_WARN:
      return "warn";
    default:
      return "FAIL";
  }
}

}  // namespace

Task<int> DryRun(Client* client, v1::MigrateRequest request, bool json) {
  const std::string doing = absl::StrCat("checking a migration of VM ", request.vm());
  v1::PreflightRequest ask;
  ask.set_vm(request.vm());
  ask.set_destination(request.destination());
  *ask.mutable_options() = request.options();
  ask.set_profile(request.profile());
  const absl::StatusOr<v1::PreflightResponse> response = co_await rpc::CallUnary(
      client->migrations->async(), &MigrationAsync::Preflight, ask, kCallTimeout);
  if (!response.ok()) co_return Fail(*client, doing, response.status());
  const bool as_json = json || client->options.format() == OutputFormat::kJson;
  const std::string text = as_json ? ToJson(*response, true) : PreflightTable(*response);
  std::fputs(text.c_str(), stdout);
  co_return response->ok() ? kOk : kRefused;
}

std::string PreflightTable(const v1::PreflightResponse& response) {
  Table table({"CHECK", "RESULT", "FOUND"});
  for (const v1::PreflightCheck& check : response.checks()) {
    table.Add({Printable(check.name()), ResultName(check.result()), Printable(check.message())});
    if (!check.fix().empty()) table.Add({"", "", absl::StrCat("-> ", Printable(check.fix()))});
  }
  const auto failed =
      std::count_if(response.checks().begin(), response.checks().end(),
                    [](const auto& check) { return check.result() == v1::PREFLIGHT_RESULT_FAIL; });
  return absl::StrCat(table.ToString(), "\n",
                      response.ok()
                          ? "The migration would be accepted.\n"
                          : absl::StrCat("The migration would be refused: ", failed,
                                         failed == 1 ? " check" : " checks", " failed.\n"));
}

std::string DifferenceTable(const google::protobuf::RepeatedPtrField<v1::Difference>& differences) {
  if (differences.empty()) return "";
  Table table({"FIELD", "SOURCE", "DESTINATION"});
  for (const v1::Difference& difference : differences) {
    table.Add({Printable(difference.field()), Printable(difference.source()),
               Printable(difference.destination())});
  }
  std::string text;
  for (const auto line : absl::StrSplit(table.ToString(), '\n', absl::SkipEmpty())) {
    absl::StrAppend(&text, "    ", line, "\n");
  }
  return text;
}

}  // namespace ferry::ctl
