#include "vmmanager/identity/identity.h"

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::identity {
namespace {

constexpr char kScheme[] = "ferry://";
constexpr size_t kMaxName = 200;

}  // namespace

std::vector<std::string> Roles::Names() const {
  std::vector<std::string> names;
  for (Role role : kAllRoles) {
    if (Has(role)) names.emplace_back(ToString(role));
  }
  return names;
}

absl::string_view ToString(Role role) {
  switch (role) {
    case Role::kViewer:
      return "viewer";
    case Role::kOperator:
      return "operator";
    case Role::kAdmin:
      return "admin";
    case Role::kPeer:
      return "peer";
  }
  return "";
}

absl::StatusOr<Role> ParseRole(absl::string_view text) {
  for (Role role : kAllRoles) {
    if (text == ToString(role)) return role;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("\"", text, "\" is no role; there are viewer, operator, admin and peer"));
}

absl::Status CheckName(absl::string_view name) {
  bool good = !name.empty() && name.size() <= kMaxName && name[0] != '.' && name[0] != '-';
  for (char c : name) good = good && (absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-');
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("\"", name.substr(0, kMaxName),
                   "\" cannot be a name; use letters, digits, '.', '_' and '-', and begin with a "
                   "letter or a digit"));
}

std::string RoleUri(absl::string_view name, Role role) {
  return absl::StrCat(kScheme, name, "/", ToString(role));
}

absl::StatusOr<Identity> IdentityFromUris(const std::vector<std::string>& uris) {
  Identity identity;
  for (const std::string& uri : uris) {
    absl::string_view rest = uri;
    if (!absl::ConsumePrefix(&rest, kScheme)) continue;
    const size_t slash = rest.find('/');
    const absl::string_view name = rest.substr(0, slash);
    if (slash == absl::string_view::npos || !CheckName(name).ok()) {
      return absl::UnauthenticatedError(
          "the certificate has a ferry:// name that is not of the form ferry://NAME/ROLE");
    }
    if (!identity.name.empty() && identity.name != name) {
      return absl::UnauthenticatedError(absl::StrCat("the certificate names both ", identity.name,
                                                     " and ", name, "; each needs one of its own"));
    }
    identity.name = std::string(name);
    if (absl::StatusOr<Role> role = ParseRole(rest.substr(slash + 1)); role.ok()) {
      identity.roles.Add(*role);
    }
  }
  return identity;
}

}  // namespace ferry::identity
