#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vmmanager/identity/authority.h"
#include "vmmanager/identity/certificate.h"

namespace ferry::ctl {

// A certificate authority on disk: ca.pem and ca.key in a folder that only its owner enters, beside
// what it issued (NAME.pem, NAME.key). All files have mode 0600, and none is ever overwritten.
class PkiFolder {
 public:
  struct Files {
    std::string certificate;
    std::string key;
  };

  explicit PkiFolder(std::string path) : path_(std::move(path)) {}

  // Makes the folder, if it is not there, and the authority. ALREADY_EXISTS if it has one.
  absl::Status Init(const std::string& name, int64_t lifetime) const;

  // Writes key and certificate into `out` (empty: this folder), which is made if it is not there.
  // ALREADY_EXISTS if either file is there. INVALID_ARGUMENT if nobody can have such a certificate.
  absl::StatusOr<Files> Issue(const identity::CertificateOrder& order,
                              const std::string& out) const;

 private:
  const std::string path_;
};

// One object, for --output json.
std::string CertificateJson(const identity::CertificateInfo& info, const std::string& name,
                            const std::vector<std::string>& roles, const std::string& validity);

}  // namespace ferry::ctl
