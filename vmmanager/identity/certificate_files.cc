#include "vmmanager/identity/certificate_files.h"

#include <spdlog/spdlog.h>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/identity/certificate.h"

namespace ferry::identity {
namespace {

int64_t Nanoseconds(const timespec& time) {
  return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

absl::Status About(const std::string& path, const absl::Status& status) {
  return absl::InvalidArgumentError(absl::StrCat("\"", path, "\": ", status.message()));
}

}  // namespace

absl::StatusOr<Credentials> ReadCredentials(const TlsFiles& files) {
  if (files.ca.empty() || files.cert.empty() || files.key.empty()) {
    return absl::InvalidArgumentError(
        "TLS needs all three of CA, certificate and key; name them all or none");
  }
  Credentials read;
  ASSIGN_OR_RETURN(read.ca, ReadPemFile(files.ca));
  ASSIGN_OR_RETURN(read.cert, ReadPemFile(files.cert));
  ASSIGN_OR_RETURN(read.key, ReadPemFile(files.key));
  if (auto ca = ParseCertificate(read.ca); !ca.ok()) return About(files.ca, ca.status());
  auto certificate = ParseCertificate(read.cert);
  if (!certificate.ok()) return About(files.cert, certificate.status());
  auto key = ParsePrivateKey(read.key);
  if (!key.ok()) return About(files.key, key.status());
  if (X509_check_private_key(certificate->get(), key->get()) != 1) {
    (void)OpenSslError();
    return absl::InvalidArgumentError(absl::StrCat("\"", files.key, "\" is not the key of the ",
                                                   "certificate in \"", files.cert, "\""));
  }
  return read;
}

absl::StatusOr<std::shared_ptr<CertificateFiles>> CertificateFiles::Open(TlsFiles files) {
  std::shared_ptr<CertificateFiles> opened(new CertificateFiles(std::move(files)));
  opened->seen_ = opened->Look();
  ASSIGN_OR_RETURN(Credentials read, ReadCredentials(opened->files_));
  opened->current_ = std::make_shared<const Credentials>(std::move(read));
  return opened;
}

std::shared_ptr<const Credentials> CertificateFiles::Current() {
  std::lock_guard<std::mutex> lock(mutex_);
  // Looked at before reading: what is replaced meanwhile is seen as changed next time.
  const Stamps now = Look();
  if (now == seen_) return current_;
  seen_ = now;
  absl::StatusOr<Credentials> read = ReadCredentials(files_);
  if (!read.ok()) {
    spdlog::warn("the replaced certificate files cannot be used, those before them stay: {}",
                 std::string(read.status().message()));
    return current_;
  }
  current_ = std::make_shared<const Credentials>(*std::move(read));
  spdlog::info("new connections use the replaced certificate {}", files_.cert);
  return current_;
}

CertificateFiles::Stamps CertificateFiles::Look() const {
  Stamps stamps;
  const std::array<const std::string*, 3> paths = {&files_.ca, &files_.cert, &files_.key};
  for (size_t i = 0; i < paths.size(); ++i) {
    struct stat info {};
    if (::stat(paths[i]->c_str(), &info) != 0) continue;
    stamps[i] = {info.st_dev, info.st_ino, info.st_size, Nanoseconds(info.st_mtim),
                 Nanoseconds(info.st_ctim)};
  }
  return stamps;
}

}  // namespace ferry::identity
