#include "migration/preflight/certificate.h"

#include <openssl/bio.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <ctime>
#include <memory>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace ferry::migration {

absl::StatusOr<int64_t> CertificateExpiry(const std::string& path) {
  const std::unique_ptr<BIO, decltype(&BIO_free)> file(BIO_new_file(path.c_str(), "r"), &BIO_free);
  if (file == nullptr) return absl::NotFoundError(absl::StrCat("cannot read certificate ", path));
  const std::unique_ptr<X509, decltype(&X509_free)> certificate(
      PEM_read_bio_X509(file.get(), nullptr, nullptr, nullptr), &X509_free);
  std::tm time{};
  if (certificate == nullptr ||
      ASN1_TIME_to_tm(X509_get0_notAfter(certificate.get()), &time) != 1) {
    return absl::FailedPreconditionError(absl::StrCat(path, " holds no certificate"));
  }
  constexpr int64_t kMsInSecond = 1000;
  return int64_t{::timegm(&time)} * kMsInSecond;
}

}  // namespace ferry::migration
