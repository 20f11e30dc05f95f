#pragma once

#include <sys/stat.h>

#include <array>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/statusor.h"

namespace ferry::identity {

// PEM files for mutual TLS. All three or none.
struct TlsFiles {
  std::string ca;    // whom to believe
  std::string cert;  // one's own chain, the leaf first
  std::string key;

  bool empty() const { return ca.empty() && cert.empty() && key.empty(); }
};

// What the files hold, as PEM.
struct Credentials {
  std::string ca;
  std::string cert;
  std::string key;
};

// The files of a daemon, which may be replaced while it runs. All methods may be called from any
// thread.
class CertificateFiles {
 public:
  // Reads and checks them. INVALID_ARGUMENT names the file that is missing, no PEM, or does not go
  // with the others.
  static absl::StatusOr<std::shared_ptr<CertificateFiles>> Open(TlsFiles files);

  // What they hold now: the same object as before unless a file changed. Files that cannot be used
  // (half replaced, or key and certificate of different pairs) are logged once, and what was good
  // before stays in use.
  std::shared_ptr<const Credentials> Current();

 private:
  // Enough of a file's state to see that it was replaced or rewritten.
  struct Stamp {
    dev_t device = 0;
    ino_t inode = 0;
    off_t size = 0;
    int64_t modified_ns = 0;
    int64_t changed_ns = 0;
    bool operator==(const Stamp&) const = default;
  };
  using Stamps = std::array<Stamp, 3>;

  explicit CertificateFiles(TlsFiles files) : files_(std::move(files)) {}
  Stamps Look() const;

  const TlsFiles files_;
  std::mutex mutex_;
  Stamps seen_ = {};  // of the files that were read last, good or not
  std::shared_ptr<const Credentials> current_;
};

// Reads the files and checks that key and certificate belong together.
absl::StatusOr<Credentials> ReadCredentials(const TlsFiles& files);

}  // namespace ferry::identity
