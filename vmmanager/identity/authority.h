#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "vmmanager/identity/identity.h"

// A fleet's own certificate authority: makes keys (ECDSA, P-256) and certificates. Nothing here
// touches a file.
namespace ferry::identity {

// Both as PEM.
struct KeyAndCertificate {
  std::string key;
  std::string certificate;
};

struct CertificateOrder {
  std::string name;
  Roles roles;
  // What it is dialled as: "DNS:host-a.example.net" or "IP:192.0.2.1".
  std::vector<std::string> addresses;
  // Seconds from now until it ends; negative ones make an expired certificate.
  int64_t lifetime = 365 * 86'400;
};

// A self-signed certificate that may sign others, but no further authorities.
absl::StatusOr<KeyAndCertificate> MakeAuthority(const std::string& name, int64_t lifetime);

// INVALID_ARGUMENT says what about the order is wrong, such as a certificate that would outlive its
// authority. Without roles the certificate permits nothing.
absl::StatusOr<KeyAndCertificate> Issue(const KeyAndCertificate& authority,
                                        const CertificateOrder& order);

}  // namespace ferry::identity
