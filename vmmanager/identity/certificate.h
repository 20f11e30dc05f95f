#pragma once

#include <openssl/x509v3.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "vmmanager/identity/identity.h"

// OpenSSL's objects with their owners, and what Ferry reads from a certificate.
namespace ferry::identity {

struct OpenSslDeleter {
  void operator()(X509* x) const { X509_free(x); }
  void operator()(EVP_PKEY* x) const { EVP_PKEY_free(x); }
  void operator()(BIO* x) const { BIO_free_all(x); }
  void operator()(BIGNUM* x) const { BN_free(x); }
  void operator()(X509_EXTENSION* x) const { X509_EXTENSION_free(x); }
  void operator()(GENERAL_NAMES* x) const { GENERAL_NAMES_free(x); }
};
template <typename T>
using OpenSslPtr = std::unique_ptr<T, OpenSslDeleter>;

// What OpenSSL last complained about in this thread; its queue is empty afterwards.
std::string OpenSslError();

struct CertificateInfo {
  std::string common_name;
  std::string issuer;              // its common name
  std::string serial;              // hexadecimal
  bool is_authority = false;       // may sign others
  std::vector<std::string> names;  // subject alternative names: "DNS:x", "IP:1.2.3.4", "URI:x"
  std::vector<std::string> uris;
  int64_t not_before = 0;  // seconds since 1970
  int64_t not_after = 0;
};

enum class Validity { kValid, kNotYetValid, kExpired };
// At a time in seconds since 1970.
Validity ValidityAt(const CertificateInfo& certificate, int64_t now);

// Reads a whole PEM file. INVALID_ARGUMENT if it cannot be read or is none.
absl::StatusOr<std::string> ReadPemFile(const std::string& path);

// The first certificate of a PEM text.
absl::StatusOr<OpenSslPtr<X509>> ParseCertificate(absl::string_view pem);
absl::StatusOr<OpenSslPtr<EVP_PKEY>> ParsePrivateKey(absl::string_view pem);

CertificateInfo Describe(X509* certificate);
// The first certificate of a PEM file. INVALID_ARGUMENT names the file.
absl::StatusOr<CertificateInfo> DescribeFile(const std::string& path);

// Whom the certificate names; see IdentityFromUris.
absl::StatusOr<Identity> IdentityOf(X509* certificate);

}  // namespace ferry::identity
