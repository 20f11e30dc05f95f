#include "vmmanager/identity/authority.h"

#include <arpa/inet.h>
#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/rand.h>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/identity/certificate.h"

namespace ferry::identity {
namespace {

// A host whose clock is a little behind must not refuse what was just made.
constexpr int64_t kBackdate = 3600;
// Of a common name; X.520 allows no more.
constexpr size_t kMaxSubject = 64;
constexpr int64_t kMaxLifetime = int64_t{100} * 366 * 86'400;

absl::Status Failed(absl::string_view doing) {
  return absl::InternalError(absl::StrCat(doing, " failed: ", OpenSslError()));
}

template <typename Write>
absl::StatusOr<std::string> ToPem(Write write) {
  OpenSslPtr<BIO> bio(BIO_new(BIO_s_mem()));
  if (bio == nullptr || write(bio.get()) != 1) return Failed("writing PEM");
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &data);
  return std::string(data, static_cast<size_t>(size));
}

absl::StatusOr<KeyAndCertificate> ToPem(EVP_PKEY* key, X509* certificate) {
  KeyAndCertificate pem;
  ASSIGN_OR_RETURN(pem.key, ToPem([&](BIO* bio) {
                     return PEM_write_bio_PKCS8PrivateKey(bio, key, nullptr, nullptr, 0, nullptr,
                                                          nullptr);
                   }));
  ASSIGN_OR_RETURN(pem.certificate,
                   ToPem([&](BIO* bio) { return PEM_write_bio_X509(bio, certificate); }));
  return pem;
}

absl::Status SetSerial(X509* certificate) {
  unsigned char random[16];
  if (RAND_bytes(random, sizeof random) != 1) return Failed("drawing a serial number");
  random[0] &= 0x7f;
  OpenSslPtr<BIGNUM> number(BN_bin2bn(random, sizeof random, nullptr));
  if (number == nullptr ||
      BN_to_ASN1_INTEGER(number.get(), X509_get_serialNumber(certificate)) == nullptr) {
    return Failed("setting the serial number");
  }
  return absl::OkStatus();
}

absl::Status SetSubject(X509* certificate, const std::string& name) {
  if (name.size() > kMaxSubject) {
    return absl::InvalidArgumentError(absl::StrCat("a certificate's name holds at most ",
                                                   kMaxSubject, " bytes, and this one has ",
                                                   name.size()));
  }
  const auto* text = reinterpret_cast<const unsigned char*>(name.c_str());
  const int size = static_cast<int>(name.size());
  if (X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), "CN", MBSTRING_UTF8, text,
                                 size, -1, 0) != 1) {
    return Failed("setting the subject");
  }
  return absl::OkStatus();
}

// `issuer` may be the certificate itself.
absl::Status AddExtension(X509* certificate, X509* issuer, int kind, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  OpenSslPtr<X509_EXTENSION> extension(X509V3_EXT_conf_nid(nullptr, &context, kind, value.c_str()));
  if (extension == nullptr || X509_add_ext(certificate, extension.get(), -1) != 1) {
    return Failed(absl::StrCat("adding ", OBJ_nid2sn(kind)));
  }
  return absl::OkStatus();
}

// A certificate with everything but its extensions, issuer and signature.
absl::StatusOr<OpenSslPtr<X509>> Draft(const std::string& name, int64_t lifetime, EVP_PKEY* key) {
  if (lifetime > kMaxLifetime) {
    return absl::InvalidArgumentError("a certificate cannot be valid for more than 100 years");
  }
  OpenSslPtr<X509> certificate(X509_new());
  if (certificate == nullptr || X509_set_version(certificate.get(), 2) != 1 ||
      X509_set_pubkey(certificate.get(), key) != 1 ||
      X509_gmtime_adj(X509_getm_notBefore(certificate.get()),
                      std::min<int64_t>(-kBackdate, lifetime - kBackdate)) == nullptr ||
      X509_gmtime_adj(X509_getm_notAfter(certificate.get()), lifetime) == nullptr) {
    return Failed("drafting a certificate");
  }
  RETURN_IF_ERROR(SetSerial(certificate.get()));
  RETURN_IF_ERROR(SetSubject(certificate.get(), name));
  return certificate;
}

absl::Status CheckAddress(absl::string_view address) {
  absl::string_view rest = address;
  if (absl::ConsumePrefix(&rest, "IP:")) {
    in6_addr ignored;
    const std::string number(rest);
    if (::inet_pton(AF_INET, number.c_str(), &ignored) == 1 ||
        ::inet_pton(AF_INET6, number.c_str(), &ignored) == 1) {
      return absl::OkStatus();
    }
  } else if (absl::ConsumePrefix(&rest, "DNS:")) {
    // A wildcard would let one host stand for others.
    if (CheckName(rest).ok()) return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "\"", address, "\" is no address; write DNS:host-a.example.net or IP:192.0.2.1"));
}

}  // namespace

absl::StatusOr<KeyAndCertificate> MakeAuthority(const std::string& name, int64_t lifetime) {
  OpenSslPtr<EVP_PKEY> key(EVP_EC_gen("P-256"));
  if (key == nullptr) return Failed("making a key");
  ASSIGN_OR_RETURN(OpenSslPtr<X509> certificate, Draft(name, lifetime, key.get()));
  X509* raw = certificate.get();
  if (X509_set_issuer_name(raw, X509_get_subject_name(raw)) != 1) return Failed("naming itself");
  RETURN_IF_ERROR(AddExtension(raw, raw, NID_basic_constraints, "critical,CA:TRUE,pathlen:0"));
  RETURN_IF_ERROR(AddExtension(raw, raw, NID_key_usage, "critical,keyCertSign,cRLSign"));
  RETURN_IF_ERROR(AddExtension(raw, raw, NID_subject_key_identifier, "hash"));
  if (X509_sign(raw, key.get(), EVP_sha256()) == 0) return Failed("signing");
  return ToPem(key.get(), raw);
}

absl::StatusOr<KeyAndCertificate> Issue(const KeyAndCertificate& authority,
                                        const CertificateOrder& order) {
  RETURN_IF_ERROR(CheckName(order.name));
  std::vector<std::string> names = order.addresses;
  for (const std::string& address : names) RETURN_IF_ERROR(CheckAddress(address));
  for (Role role : kAllRoles) {
    if (order.roles.Has(role)) names.push_back("URI:" + RoleUri(order.name, role));
  }
  ASSIGN_OR_RETURN(OpenSslPtr<X509> issuer, ParseCertificate(authority.certificate));
  ASSIGN_OR_RETURN(OpenSslPtr<EVP_PKEY> issuer_key, ParsePrivateKey(authority.key));
  if (X509_check_private_key(issuer.get(), issuer_key.get()) != 1) {
    (void)OpenSslError();
    return absl::InvalidArgumentError("the authority's key is not that of its certificate");
  }
  OpenSslPtr<EVP_PKEY> key(EVP_EC_gen("P-256"));
  if (key == nullptr) return Failed("making a key");
  ASSIGN_OR_RETURN(OpenSslPtr<X509> certificate, Draft(order.name, order.lifetime, key.get()));
  X509* raw = certificate.get();
  if (ASN1_TIME_compare(X509_get0_notAfter(raw), X509_get0_notAfter(issuer.get())) > 0) {
    return absl::InvalidArgumentError(
        "the certificate would outlive its authority; give it fewer days, or make a new authority");
  }
  if (X509_set_issuer_name(raw, X509_get_subject_name(issuer.get())) != 1) {
    return Failed("naming the issuer");
  }
  const auto add = [&](int kind, const std::string& value) {
    return AddExtension(raw, issuer.get(), kind, value);
  };
  RETURN_IF_ERROR(add(NID_basic_constraints, "critical,CA:FALSE"));
  RETURN_IF_ERROR(add(NID_key_usage, "critical,digitalSignature"));
  // A daemon is server and client at once, everybody else only a client.
  RETURN_IF_ERROR(add(NID_ext_key_usage,
                      order.roles.Has(Role::kPeer) ? "serverAuth,clientAuth" : "clientAuth"));
  RETURN_IF_ERROR(add(NID_subject_key_identifier, "hash"));
  RETURN_IF_ERROR(add(NID_authority_key_identifier, "keyid"));
  if (!names.empty()) RETURN_IF_ERROR(add(NID_subject_alt_name, absl::StrJoin(names, ",")));
  if (X509_sign(raw, issuer_key.get(), EVP_sha256()) == 0) return Failed("signing");
  return ToPem(key.get(), raw);
}

}  // namespace ferry::identity
