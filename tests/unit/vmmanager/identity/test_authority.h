#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "vmmanager/identity/authority.h"
#include "vmmanager/identity/certificate_files.h"

namespace ferry::identity {

// A certificate authority of one test, with its files in a folder that goes away with it.
class TestAuthority {
 public:
  TestAuthority() {
    std::string pattern = std::filesystem::temp_directory_path() / "ferry-pki-XXXXXX";
    if (::mkdtemp(pattern.data()) == nullptr) std::abort();
    folder_ = pattern;
    authority_ = *MakeAuthority("test authority", 1000 * 86'400);
    Write("ca.pem", authority_.certificate);
  }
  ~TestAuthority() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  TestAuthority(const TestAuthority&) = delete;
  TestAuthority& operator=(const TestAuthority&) = delete;

  // Files NAME.pem and NAME.key for whoever is reached as localhost or 127.0.0.1; they replace
  // those of the same name.
  TlsFiles Issue(const std::string& name, Roles roles, int64_t lifetime = 86'400) {
    CertificateOrder order;
    order.name = name;
    order.roles = roles;
    order.addresses = {"DNS:localhost", "IP:127.0.0.1"};
    order.lifetime = lifetime;
    return Issue(order);
  }

  TlsFiles Issue(const CertificateOrder& order) {
    auto issued = identity::Issue(authority_, order);
    EXPECT_TRUE(issued.ok()) << issued.status();
    TlsFiles files{folder_ / "ca.pem", folder_ / (order.name + ".pem"),
                   folder_ / (order.name + ".key")};
    Write(order.name + ".pem", issued->certificate);
    Write(order.name + ".key", issued->key);
    return files;
  }

  const KeyAndCertificate& authority() const { return authority_; }
  std::string operator/(const std::string& name) const { return folder_ / name; }

  // Replaced as a whole, as an administrator would.
  void Write(const std::string& name, const std::string& text) {
    const std::filesystem::path draft = folder_ / (name + ".new");
    std::ofstream(draft) << text;
    std::filesystem::rename(draft, folder_ / name);
  }

 private:
  std::filesystem::path folder_;
  KeyAndCertificate authority_;
};

}  // namespace ferry::identity
