#include <boost/json/array.hpp>
#include <boost/json/serialize.hpp>
#include <utility>

#include "bridge/runtime/status_macros.h"
#include "vmmanager/schema/json.h"
#include "vmmanager/state/saved_state.h"

namespace ferry::vm {

namespace json = boost::json;

std::string ProcessSpecToJson(const guest::ProcessSpec& spec) {
  json::array command;
  for (const std::string& word : spec.command) command.emplace_back(word);
  json::object object;
  object["command"] = std::move(command);
  if (!spec.environment.empty()) {
    json::object environment;
    for (const auto& [name, value] : spec.environment) environment[name] = value;
    object["environment"] = std::move(environment);
  }
  schema::PutUnlessDefault(object, "working_directory", spec.working_directory);
  schema::PutUnlessDefault(object, "has_stdin", spec.has_stdin);
  schema::PutUnlessDefault(object, "terminal", spec.terminal);
  schema::PutUnlessDefault(object, "rows", spec.rows);
  schema::PutUnlessDefault(object, "columns", spec.columns);
  schema::PutUnlessDefault(object, "detached", spec.detached);
  schema::PutUnlessDefault(object, "user", spec.user);
  return json::serialize(object);
}

absl::StatusOr<guest::ProcessSpec> ProcessSpecFromJson(std::string_view text) {
  ASSIGN_OR_RETURN(const json::object object,
                   schema::ParseJsonObject(text, "the process's description"));
  guest::ProcessSpec spec;
  schema::JsonReader reader(object, "");
  reader.Read("command", spec.command);
  reader.Read("environment", spec.environment);
  reader.Read("working_directory", spec.working_directory);
  reader.Read("has_stdin", spec.has_stdin);
  reader.Read("terminal", spec.terminal);
  reader.Read("rows", spec.rows);
  reader.Read("columns", spec.columns);
  reader.Read("detached", spec.detached);
  reader.Read("user", spec.user);
  RETURN_IF_ERROR(reader.Finish());
  return spec;
}

}  // namespace ferry::vm
