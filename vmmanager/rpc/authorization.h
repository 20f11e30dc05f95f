#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "vmmanager/identity/identity.h"
#include "vmmanager/rpc/caller.h"

namespace google::protobuf {
class Message;
}  // namespace google::protobuf

// Who may call what. A method that is not in the table is refused to everybody who comes with a
// certificate.
namespace ferry::rpc {

struct Rule {
  absl::string_view method;  // "/ferry.v1.VmService/StartVm"
  identity::Roles roles;     // any of them permits the call
  bool changes = false;      // state; such calls are written to the audit log
};

const std::vector<Rule>& Rules();
// nullptr if the method is not listed.
const Rule* RuleFor(absl::string_view method);

// Whether somebody with these roles may call the method at all. PERMISSION_DENIED names the roles
// that may.
absl::Status Authorize(const Caller& caller, absl::string_view method);

// What depends on the request: some methods do more, or less, by what is asked.
absl::Status AuthorizeRequest(const Caller& caller, const google::protobuf::Message& request);

// Whether environments are for this caller: passwords are handed to programs in them.
bool SeesSecrets(const Caller& caller);

// Whether this call changes state.
bool Changes(const Rule& rule, const google::protobuf::Message& request);

}  // namespace ferry::rpc
