#include "bridge/container/oci_spec.h"

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bridge/protocol/container_messages.h"
#include "bridge/protocol/json_fields.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::bridge {
namespace json = boost::json;
namespace {

constexpr char kContainerType[] = "io.kubernetes.cri.container-type";
constexpr char kSandboxId[] = "io.kubernetes.cri.sandbox-id";

void ReadArguments(const FieldReader& process) {
  std::vector<std::string> arguments;
  process.TextList("args", &arguments);
  if (arguments.empty() || arguments[0].empty()) process.Complain("args", "must name a command");
}

// Relative to the bundle, or a path of the guest.
void ReadRoot(const FieldReader& root) {
  std::string path;
  root.Text("path", &path);
  const std::string whole = path.empty() || path[0] == '/' ? path : absl::StrCat("/", path);
  const absl::Status status = CheckGuestPath("path", whole);
  if (!status.ok()) root.Complain("path", std::string(status.message()));
}

void ReadAnnotations(const FieldReader& in, SpecFacts* facts) {
  std::string type;
  std::string sandbox;
  in.Text(kContainerType, &type);
  in.Text(kSandboxId, &sandbox);
  if (type.empty() || type == "sandbox") return;
  if (type != "container") return in.Complain(kContainerType, "is neither sandbox nor container");
  if (!IsContainerId(sandbox)) return in.Complain(kSandboxId, "is no container id");
  facts->sandbox_id = sandbox;
}

// The kind's entry in /proc/PID/ns, nullptr if a pod does not share it.
const char* SharedNamespace(const json::object& entry) {
  const json::value* type = entry.if_contains("type");
  if (type == nullptr || !type->is_string()) return nullptr;
  const json::string& name = type->get_string();
  if (name == "network") return "net";
  if (name == "ipc") return "ipc";
  if (name == "uts") return "uts";
  const json::value* path = entry.if_contains("path");
  const bool asked = path != nullptr && path->is_string() && !path->get_string().empty();
  if (name == "pid" && asked) return "pid";
  return nullptr;
}

json::object NamespaceOf(const std::string& type, const char* file, pid_t pid) {
  return {{"type", type}, {"path", absl::StrCat("/proc/", pid, "/ns/", file)}};
}

void JoinSandbox(json::object* specification, json::object* linux_part, pid_t pid) {
  json::array joined;
  if (const json::value* present = linux_part->if_contains("namespaces");
      present != nullptr && present->is_array()) {
    for (const json::value& entry : present->get_array()) {
      if (!entry.is_object()) continue;
      const char* file = SharedNamespace(entry.get_object());
      if (file == nullptr) {
        joined.push_back(entry);
      } else if (std::string(file) == "pid") {
        joined.push_back(NamespaceOf("pid", file, pid));
      }
    }
  }
  joined.push_back(NamespaceOf("network", "net", pid));
  joined.push_back(NamespaceOf("ipc", "ipc", pid));
  joined.push_back(NamespaceOf("uts", "uts", pid));
  (*linux_part)["namespaces"] = std::move(joined);
  // The name is the sandbox's.
  specification->erase("hostname");
  specification->erase("domainname");
}

// A member object of `object`, made if it is not there.
json::object* Member(json::object* object, const char* name) {
  json::value& value = (*object)[name];
  if (!value.is_object()) value = json::object();
  return &value.get_object();
}

void SetConsoleSize(json::object* process, uint32_t rows, uint32_t columns) {
  if (rows == 0 && columns == 0) return;
  (*process)["consoleSize"] = json::object{{"height", rows}, {"width", columns}};
}

}  // namespace

absl::StatusOr<SpecFacts> ReadSpec(const std::string& specification) {
  ASSIGN_OR_RETURN(const json::object object, ParseObject(specification));
  SpecFacts facts;
  absl::Status status;
  const FieldReader in(object, "OciSpecification", &status);
  in.Required("ociVersion");
  in.Required("process");
  in.Object("process", [&facts](const FieldReader& process) {
    process.Bool("terminal", &facts.terminal);
    ReadArguments(process);
  });
  in.Required("root");
  in.Object("root", [](const FieldReader& root) { ReadRoot(root); });
  in.Object("linux", [](const FieldReader&) {});
  in.Object("annotations",
            [&facts](const FieldReader& entries) { ReadAnnotations(entries, &facts); });
  RETURN_IF_ERROR(status);
  return facts;
}

absl::StatusOr<std::string> CompleteSpec(const std::string& specification, const std::string& id,
                                         std::optional<pid_t> sandbox_pid) {
  ASSIGN_OR_RETURN(json::object object, ParseObject(specification));
  object.erase("windows");
  json::object* linux_part = Member(&object, "linux");
  (*linux_part)["cgroupsPath"] = absl::StrCat(kContainersCgroup, "/", id);
  if (sandbox_pid.has_value()) JoinSandbox(&object, linux_part, *sandbox_pid);
  return json::serialize(object);
}

absl::StatusOr<std::string> CompleteProcess(const ProcessParameters& parameters) {
  ASSIGN_OR_RETURN(json::object process, ParseObject(parameters.oci_process));
  absl::Status status;
  ReadArguments(FieldReader(process, "OciProcess", &status));
  RETURN_IF_ERROR(status);
  process["terminal"] = parameters.emulate_console;
  if (!process.contains("cwd")) process["cwd"] = "/";
  if (!process.contains("user")) process["user"] = json::object{{"uid", 0}, {"gid", 0}};
  SetConsoleSize(&process, parameters.console_rows, parameters.console_columns);
  return json::serialize(process);
}

}  // namespace ferry::bridge
