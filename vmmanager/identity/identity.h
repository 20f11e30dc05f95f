#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// Who somebody is, as a certificate says it: URIs among its subject alternative names of the form
// ferry://NAME/ROLE, one for each role, all with the same name.
namespace ferry::identity {

enum class Role : uint8_t {
  kViewer = 0,    // looks, and changes nothing
  kOperator = 1,  // runs VMs and processes, and moves VMs
  kAdmin = 2,     // everything
  kPeer = 3,      // another host's daemon, for the migrations between the two
};

inline constexpr std::initializer_list<Role> kAllRoles = {Role::kViewer, Role::kOperator,
                                                          Role::kAdmin, Role::kPeer};

class Roles {
 public:
  constexpr Roles() = default;
  constexpr Roles(std::initializer_list<Role> roles) {
    for (Role role : roles) Add(role);
  }

  constexpr void Add(Role role) { bits_ |= Bit(role); }
  constexpr bool Has(Role role) const { return (bits_ & Bit(role)) != 0; }
  constexpr bool HasAnyOf(Roles others) const { return (bits_ & others.bits_) != 0; }
  constexpr bool empty() const { return bits_ == 0; }
  constexpr bool operator==(const Roles&) const = default;

  // Their names, the least powerful first.
  std::vector<std::string> Names() const;

 private:
  static constexpr uint8_t Bit(Role role) { return uint8_t(1u << static_cast<unsigned>(role)); }
  uint8_t bits_ = 0;
};

struct Identity {
  std::string name;  // of a host or a person; empty if the certificate names none
  Roles roles;
};

absl::string_view ToString(Role role);
// INVALID_ARGUMENT names the roles there are.
absl::StatusOr<Role> ParseRole(absl::string_view text);

// Names go into URIs and file names: letters, digits, '.', '_' and '-', at most 200 of them.
absl::Status CheckName(absl::string_view name);

std::string RoleUri(absl::string_view name, Role role);

// Other URIs are ignored, and so are roles that this version does not know: they permit nothing.
// UNAUTHENTICATED if a ferry URI is malformed or two of them differ in the name.
absl::StatusOr<Identity> IdentityFromUris(const std::vector<std::string>& uris);

}  // namespace ferry::identity
