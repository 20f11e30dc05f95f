#include "tools/ferryctl/trace.h"

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "tools/ferryctl/exit_codes.h"

namespace ferry::ctl {
namespace {

namespace json = boost::json;
using MigrationAsync = v1::MigrationService::StubInterface::async_interface;

absl::StatusOr<json::object> ParseTrace(std::string_view text) {
  boost::system::error_code error;
  const json::value document = json::parse(text, error);
  const json::object* object = error ? nullptr : document.if_object();
  const json::value* events = object == nullptr ? nullptr : object->if_contains("traceEvents");
  if (events == nullptr || !events->is_array()) {
    return absl::DataLossError("the daemon's trace is not in Trace Event Format");
  }
  return *object;
}

Task<absl::StatusOr<std::string>> GetTrace(Client* client, std::string session_id) {
  v1::GetTraceRequest request;
  request.set_session_id(session_id);
  absl::StatusOr<v1::GetTraceResponse> response = co_await rpc::CallUnary(
      client->migrations->async(), &MigrationAsync::GetTrace, request, kCallTimeout);
  if (!response.ok()) co_return response.status();
  co_return std::move(*response->mutable_trace_json());
}

// The other host's half of the session.
Task<absl::StatusOr<std::string>> GetOthersTrace(Client* client, std::string session_id) {
  v1::GetSessionRequest request;
  request.set_session_id(session_id);
  absl::StatusOr<v1::Session> session = co_await rpc::CallUnary(
      client->migrations->async(), &MigrationAsync::GetSession, request, kCallTimeout);
  if (!session.ok()) co_return session.status();
  GlobalOptions options = client->options;
  options.host =
      session->origin() == v1::MIGRATION_ORIGIN_SOURCE ? session->destination() : session->source();
  if (options.host.empty())
    co_return absl::NotFoundError("it is not known where the other host is");
  Client other(client->executor, options);
  CO_RETURN_IF_ERROR(other.Connect());
  co_return co_await GetTrace(&other, std::move(session_id));
}

}  // namespace

absl::StatusOr<std::string> MergeTraces(std::string_view one, std::string_view other) {
  ASSIGN_OR_RETURN(json::object merged, ParseTrace(one));
  ASSIGN_OR_RETURN(const json::object more, ParseTrace(other));
  json::array& events = merged["traceEvents"].as_array();
  const json::array& others = more.at("traceEvents").as_array();
  events.insert(events.end(), others.begin(), others.end());
  return json::serialize(merged);
}

Task<int> PrintTrace(Client* client, std::string session_id, std::string file) {
  const std::string doing = absl::StrCat("getting the trace of migration ", session_id);
  absl::StatusOr<std::string> trace = co_await GetTrace(client, session_id);
  if (!trace.ok()) co_return Fail(*client, doing, trace.status());
  absl::StatusOr<std::string> others = co_await GetOthersTrace(client, session_id);
  absl::StatusOr<std::string> both =
      others.ok() ? MergeTraces(*trace, *others) : absl::StatusOr<std::string>(others.status());
  if (both.ok()) {
    trace = std::move(both);
  } else {
    std::fprintf(stderr, "Only this host's side: %s\n",
                 std::string(both.status().message()).c_str());
  }
  if (file.empty()) {
    std::fputs(trace->c_str(), stdout);
    co_return kOk;
  }
  std::ofstream out(file);
  out << *trace;
  out.close();
  if (!out) {
    co_return Fail(*client, doing, absl::InternalError(absl::StrCat("cannot write ", file)));
  }
  co_return kOk;
}

}  // namespace ferry::ctl
