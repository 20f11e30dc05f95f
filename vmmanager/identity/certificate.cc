#include "vmmanager/identity/certificate.h"

#include <arpa/inet.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>

#include <ctime>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::identity {
namespace {

// Keys and certificates are a few KiB; anything large is a mistaken path.
constexpr std::streamsize kMaxPemBytes = 1 << 20;

std::string CommonName(const X509_NAME* name) {
  const int index = X509_NAME_get_index_by_NID(name, NID_commonName, -1);
  if (index < 0) return "";
  unsigned char* text = nullptr;
  const int size =
      ASN1_STRING_to_UTF8(&text, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, index)));
  if (size < 0) return "";
  std::string result(reinterpret_cast<char*>(text), static_cast<size_t>(size));
  OPENSSL_free(text);
  return result;
}

std::string Text(const ASN1_STRING* text) {
  return std::string(reinterpret_cast<const char*>(ASN1_STRING_get0_data(text)),
                     static_cast<size_t>(ASN1_STRING_length(text)));
}

std::string IpText(const ASN1_STRING* address) {
  char text[INET6_ADDRSTRLEN] = "";
  const int family = ASN1_STRING_length(address) == 4 ? AF_INET : AF_INET6;
  if (family == AF_INET6 && ASN1_STRING_length(address) != 16) return "";
  ::inet_ntop(family, ASN1_STRING_get0_data(address), text, sizeof text);
  return text;
}

int64_t Seconds(const ASN1_TIME* time) {
  std::tm parts{};
  if (ASN1_TIME_to_tm(time, &parts) != 1) return 0;
  return ::timegm(&parts);
}

OpenSslPtr<BIO> MemoryBio(absl::string_view text) {
  return OpenSslPtr<BIO>(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

void ReadAlternativeNames(X509* certificate, CertificateInfo* info) {
  OpenSslPtr<GENERAL_NAMES> names(static_cast<GENERAL_NAMES*>(
      X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr)));
  for (int i = 0; names != nullptr && i < sk_GENERAL_NAME_num(names.get()); ++i) {
    const GENERAL_NAME* name = sk_GENERAL_NAME_value(names.get(), i);
    if (name->type == GEN_DNS) info->names.push_back("DNS:" + Text(name->d.dNSName));
    if (name->type == GEN_IPADD) info->names.push_back("IP:" + IpText(name->d.iPAddress));
    if (name->type != GEN_URI) continue;
    info->uris.push_back(Text(name->d.uniformResourceIdentifier));
    info->names.push_back("URI:" + info->uris.back());
  }
}

}  // namespace

std::string OpenSslError() {
  const unsigned long code = ERR_peek_last_error();
  ERR_clear_error();
  const char* reason = code == 0 ? nullptr : ERR_reason_error_string(code);
  return reason == nullptr ? "unknown error" : reason;
}

absl::StatusOr<std::string> ReadPemFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot read \"", path, "\"; check the path and its permissions"));
  }
  std::string text(kMaxPemBytes, '\0');
  file.read(text.data(), kMaxPemBytes);
  text.resize(static_cast<size_t>(file.gcount()));
  if (!absl::StrContains(text, "-----BEGIN ")) {
    return absl::InvalidArgumentError(absl::StrCat("\"", path, "\" is not a PEM file"));
  }
  return text;
}

absl::StatusOr<OpenSslPtr<X509>> ParseCertificate(absl::string_view pem) {
  OpenSslPtr<X509> certificate(PEM_read_bio_X509(MemoryBio(pem).get(), nullptr, nullptr, nullptr));
  if (certificate == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("no certificate: ", OpenSslError()));
  }
  return certificate;
}

absl::StatusOr<OpenSslPtr<EVP_PKEY>> ParsePrivateKey(absl::string_view pem) {
  // Without a pass phrase: a daemon has nobody to ask.
  auto no_phrase = [](char*, int, int, void*) { return -1; };
  OpenSslPtr<EVP_PKEY> key(
      PEM_read_bio_PrivateKey(MemoryBio(pem).get(), nullptr, no_phrase, nullptr));
  if (key == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("no usable private key: ", OpenSslError()));
  }
  return key;
}

CertificateInfo Describe(X509* certificate) {
  CertificateInfo info;
  info.common_name = CommonName(X509_get_subject_name(certificate));
  info.issuer = CommonName(X509_get_issuer_name(certificate));
  OpenSslPtr<BIGNUM> serial(ASN1_INTEGER_to_BN(X509_get0_serialNumber(certificate), nullptr));
  if (char* text = serial == nullptr ? nullptr : BN_bn2hex(serial.get()); text != nullptr) {
    info.serial = text;
    OPENSSL_free(text);
  }
  info.is_authority = X509_check_ca(certificate) == 1;
  ReadAlternativeNames(certificate, &info);
  info.not_before = Seconds(X509_get0_notBefore(certificate));
  info.not_after = Seconds(X509_get0_notAfter(certificate));
  ERR_clear_error();
  return info;
}

absl::StatusOr<CertificateInfo> DescribeFile(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string pem, ReadPemFile(path));
  auto certificate = ParseCertificate(pem);
  if (certificate.ok()) return Describe(certificate->get());
  return absl::InvalidArgumentError(
      absl::StrCat("\"", path, "\": ", certificate.status().message()));
}

Validity ValidityAt(const CertificateInfo& certificate, int64_t now) {
  if (now > certificate.not_after) return Validity::kExpired;
  return now < certificate.not_before ? Validity::kNotYetValid : Validity::kValid;
}

absl::StatusOr<Identity> IdentityOf(X509* certificate) {
  return IdentityFromUris(Describe(certificate).uris);
}

}  // namespace ferry::identity
