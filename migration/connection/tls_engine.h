#pragma once

#include <openssl/ssl.h>

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace ferry::migration {

// One end of a TLS connection without I/O: takes what came over the wire and gives plain bytes,
// takes plain bytes and gives what goes over the wire. As much goes through at once as there is, so
// that a frame costs one system call, however many TLS records it becomes. (asio::ssl::stream makes
// a system call for each record of 16 KiB.)
class TlsEngine {
 public:
  enum class Side { kClient, kServer };

  // With the settings of `context`. The client checks that the certificate names `expected`, a DNS
  // name or an IP address.
  static absl::StatusOr<std::unique_ptr<TlsEngine>> MakeClient(SSL_CTX* context,
                                                               const std::string& expected);
  static absl::StatusOr<std::unique_ptr<TlsEngine>> MakeServer(SSL_CTX* context);
  TlsEngine(const TlsEngine&) = delete;
  TlsEngine& operator=(const TlsEngine&) = delete;

  // Where bytes from the wire are to be put, and how many were. Never empty once Handshake() or
  // Decrypt() has asked for more.
  std::span<char> Space();
  void Received(size_t size) { end_ += size; }

  // Hands over what is to go over the wire; `spare` is emptied and used for what comes next.
  void TakeOutput(std::string& spare);

  // Goes on with the handshake. False: more from the wire is needed. An error says why there will
  // be no connection; there may be output that tells the other side.
  absl::StatusOr<bool> Handshake();

  absl::Status Encrypt(std::string_view plain);

  // Fills `to` as far as there is something; nullopt: more from the wire is needed; 0: the other
  // side has closed.
  absl::StatusOr<std::optional<size_t>> Decrypt(std::span<char> to);

  // Verified; nullptr before the end of the handshake.
  X509* peer_certificate() const { return SSL_get0_peer_certificate(ssl_.get()); }

 private:
  struct Free {
    void operator()(SSL* ssl) const { SSL_free(ssl); }
  };
  // What OpenSSL reads from and writes to.
  struct Wire;

  TlsEngine();
  static absl::StatusOr<std::unique_ptr<TlsEngine>> Make(SSL_CTX* context);
  absl::Status Failure() const;

  std::vector<char> input_;
  size_t begin_ = 0;  // of what is in input_
  size_t end_ = 0;
  std::string output_;
  absl::Status failed_;  // to decrypt
  std::unique_ptr<SSL, Free> ssl_;
};

}  // namespace ferry::migration
