#include "bridge/container/oci_spec.h"

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <string_view>
#include <vector>

#include "bridge/protocol/container_messages.h"
#include "bridge/protocol/json_fields.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/str_cat.h"

namespace ferry::bridge {
namespace json = boost::json;
namespace {

constexpr char kContainerType[] = "io.kubernetes.cri.container-type";
constexpr char kSandboxId[] = "io.kubernetes.cri.sandbox-id";
constexpr uint32_t kMaxConsoleSide = 65535;

void ReadArguments(const FieldReader& process) {
  std::vector<std::string> arguments;
  process.TextList("args", &arguments);
  if (arguments.empty() || arguments[0].empty()) process.Complain("args", "must name a command");
}

void ReadUserName(const FieldReader& process, std::string* name) {
  process.Object("user", [name](const FieldReader& user) { user.Text("username", name); });
}

// Relative to the bundle, or a path of the guest.
void ReadRoot(const FieldReader& root, SpecFacts* facts) {
  root.Text("path", &facts->root);
  root.Bool("readonly", &facts->read_only);
  const std::string& path = facts->root;
  const std::string whole = path.empty() || path[0] == '/' ? path : StrCat("/", path);
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

void ReadNamespaces(const FieldReader& part, SpecFacts* facts) {
  part.ObjectList("namespaces", [facts](const FieldReader& entry) {
    std::string type;
    entry.Text("type", &type);
    if (type == "network") facts->own_network = true;
  });
}

// A list of OCI's namespaces, which a container of a pod joins in place of its own.
class PodNamespaces {
 public:
  explicit PodNamespaces(const NamespacePaths& sandbox) : sandbox_(sandbox) {}

  // Takes over one that the specification has.
  void Take(const json::object& entry) {
    const json::value* type = entry.if_contains("type");
    const std::string name = type != nullptr && type->is_string() ? type->get_string().c_str() : "";
    if (name == "network" || name == "ipc" || name == "uts") return;
    const json::value* path = entry.if_contains("path");
    const bool asked = path != nullptr && path->is_string() && !path->get_string().empty();
    if (name == "pid" && asked) return Add("pid", sandbox_.pid);
    list_.push_back(entry);
  }

  json::array Finish() && {
    Add("network", sandbox_.network);
    Add("ipc", sandbox_.ipc);
    Add("uts", sandbox_.uts);
    return std::move(list_);
  }

 private:
  void Add(const char* type, const std::string& path) {
    list_.push_back(json::object{{"type", type}, {"path", path}});
  }

  const NamespacePaths& sandbox_;
  json::array list_;
};

void JoinSandbox(json::object* specification, json::object* linux_part,
                 const NamespacePaths& sandbox) {
  PodNamespaces joined(sandbox);
  if (const json::value* present = linux_part->if_contains("namespaces");
      present != nullptr && present->is_array()) {
    for (const json::value& entry : present->get_array()) {
      if (entry.is_object()) joined.Take(entry.get_object());
    }
  }
  (*linux_part)["namespaces"] = std::move(joined).Finish();
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

// A member list of `object`, made if it is not there.
json::array* List(json::object* object, const char* name) {
  json::value& value = (*object)[name];
  if (!value.is_array()) value = json::array();
  return &value.get_array();
}

bool HasHome(const json::array& environment) {
  for (const json::value& entry : environment) {
    if (entry.is_string() && entry.get_string().starts_with("HOME=")) return true;
  }
  return false;
}

// A host cannot know that a name is root's. It then says only what the user may become.
void GiveRootItsCapabilities(json::object* process) {
  json::value* sets = process->if_contains("capabilities");
  if (sets == nullptr || !sets->is_object()) return;
  json::object& all = sets->get_object();
  const json::value* bounding = all.if_contains("bounding");
  if (bounding == nullptr || all.contains("effective") || all.contains("permitted")) return;
  const json::value every = *bounding;
  all["effective"] = every;
  all["permitted"] = every;
}

void SetUser(json::object* process, const ResolvedUser& user) {
  if (user.uid == 0) GiveRootItsCapabilities(process);
  json::object* member = Member(process, "user");
  member->erase("username");
  (*member)["uid"] = user.uid;
  (*member)["gid"] = user.gid;
  json::array* groups = user.additional_gids.empty() ? nullptr : List(member, "additionalGids");
  for (const uint32_t gid : user.additional_gids) {
    const json::value value(gid);
    bool known = false;
    for (const json::value& entry : *groups) known = known || entry == value;
    if (!known) groups->push_back(value);
  }
  json::array* environment = List(process, "env");
  if (!HasHome(*environment)) environment->emplace_back(StrCat("HOME=", user.home));
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
    ReadUserName(process, &facts.user_name);
  });
  in.Text("hostname", &facts.hostname);
  in.Required("root");
  in.Object("root", [&facts](const FieldReader& root) { ReadRoot(root, &facts); });
  in.Object("linux", [&facts](const FieldReader& part) { ReadNamespaces(part, &facts); });
  in.Object("annotations",
            [&facts](const FieldReader& entries) { ReadAnnotations(entries, &facts); });
  RETURN_IF_ERROR(status);
  return facts;
}

std::string ContainerCgroup(std::string_view id) { return StrCat(kContainersCgroup, "/", id); }

absl::StatusOr<std::string> CompleteSpec(const std::string& specification, const std::string& id,
                                         const NamespacePaths* sandbox) {
  ASSIGN_OR_RETURN(json::object object, ParseObject(specification));
  object.erase("windows");
  json::object* linux_part = Member(&object, "linux");
  (*linux_part)["cgroupsPath"] = ContainerCgroup(id);
  if (sandbox != nullptr) JoinSandbox(&object, linux_part, *sandbox);
  return json::serialize(object);
}

absl::StatusOr<ExecProcess> CompleteProcess(const ProcessParameters& parameters) {
  ASSIGN_OR_RETURN(json::object process, ParseObject(parameters.oci_process));
  absl::Status status;
  const FieldReader in(process, "OciProcess", &status);
  ReadArguments(in);
  ExecProcess made;
  in.Bool("terminal", &made.terminal);
  ReadUserName(in, &made.user_name);
  RETURN_IF_ERROR(status);
  if (parameters.console_rows > kMaxConsoleSide || parameters.console_columns > kMaxConsoleSide) {
    return absl::InvalidArgumentError(StrCat("a console of ", parameters.console_rows, " rows and ",
                                             parameters.console_columns, " columns is too large"));
  }
  // hcsshim's hosts say it in the OCI process alone.
  made.terminal = made.terminal || parameters.emulate_console;
  process["terminal"] = made.terminal;
  if (!process.contains("cwd")) process["cwd"] = "/";
  if (!process.contains("user")) process["user"] = json::object{{"uid", 0}, {"gid", 0}};
  SetConsoleSize(&process, parameters.console_rows, parameters.console_columns);
  made.json = json::serialize(process);
  return made;
}

absl::StatusOr<std::string> SetSpecUser(const std::string& specification,
                                        const ResolvedUser& user) {
  ASSIGN_OR_RETURN(json::object object, ParseObject(specification));
  SetUser(Member(&object, "process"), user);
  return json::serialize(object);
}

absl::StatusOr<std::string> SetProcessUser(const std::string& process, const ResolvedUser& user) {
  ASSIGN_OR_RETURN(json::object object, ParseObject(process));
  SetUser(&object, user);
  return json::serialize(object);
}

}  // namespace ferry::bridge
