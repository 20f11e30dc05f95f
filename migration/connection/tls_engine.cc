#include "migration/connection/tls_engine.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/identity/certificate.h"

namespace ferry::migration {
namespace {

// Room for input: for one record of the greatest size until the other side is known, then for some
// 16. What is left of them when more is needed is a part of one.
constexpr size_t kInputBefore = 32 * 1024;
constexpr size_t kInputAfter = 288 * 1024;

}  // namespace

struct TlsEngine::Wire {
  static TlsEngine& EngineOf(BIO* bio) { return *static_cast<TlsEngine*>(BIO_get_data(bio)); }

  static int Read(BIO* bio, char* to, int size) {
    TlsEngine& engine = EngineOf(bio);
    BIO_clear_retry_flags(bio);
    const size_t there = std::min(engine.end_ - engine.begin_, static_cast<size_t>(size));
    if (there == 0) {
      BIO_set_retry_read(bio);
      return -1;
    }
    std::memcpy(to, engine.input_.data() + engine.begin_, there);
    engine.begin_ += there;
    return static_cast<int>(there);
  }

  static int Write(BIO* bio, const char* from, int size) {
    BIO_clear_retry_flags(bio);
    EngineOf(bio).output_.append(from, static_cast<size_t>(size));
    return size;
  }

  static long Control(BIO* /*bio*/, int command, long /*number*/, void* /*pointer*/) {
    return command == BIO_CTRL_FLUSH ? 1 : 0;
  }

  static const BIO_METHOD* Method() {
    struct Methods {
      Methods() : method(BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "ferry wire")) {
        BIO_meth_set_read(method, Read);
        BIO_meth_set_write(method, Write);
        BIO_meth_set_ctrl(method, Control);
      }
      ~Methods() { BIO_meth_free(method); }
      BIO_METHOD* const method;
    };
    static const Methods methods;
    return methods.method;
  }
};

TlsEngine::TlsEngine() : input_(kInputBefore) {}

absl::StatusOr<std::unique_ptr<TlsEngine>> TlsEngine::Make(SSL_CTX* context) {
  std::unique_ptr<TlsEngine> engine(new TlsEngine);
  engine->ssl_.reset(SSL_new(context));
  BIO* wire = engine->ssl_ ? BIO_new(Wire::Method()) : nullptr;
  if (wire == nullptr) {
    return absl::InternalError(absl::StrCat("TLS set-up: ", identity::OpenSslError()));
  }
  BIO_set_data(wire, engine.get());
  BIO_set_init(wire, 1);
  SSL_set_bio(engine->ssl_.get(), wire, wire);  // owns it from here on
  return engine;
}

absl::StatusOr<std::unique_ptr<TlsEngine>> TlsEngine::MakeClient(SSL_CTX* context,
                                                                 const std::string& expected) {
  // OpenSSL would take any name.
  if (expected.empty()) return absl::InvalidArgumentError("TLS: no name to expect");
  ASSIGN_OR_RETURN(std::unique_ptr<TlsEngine> engine, Make(context));
  X509_VERIFY_PARAM* wanted = SSL_get0_param(engine->ssl_.get());
  // Certificates know no zones ("fe80::1%eth0").
  const std::string address = expected.substr(0, expected.find('%'));
  const bool is_address = X509_VERIFY_PARAM_set1_ip_asc(wanted, address.c_str()) == 1;
  if (!is_address && X509_VERIFY_PARAM_set1_host(wanted, expected.data(), expected.size()) != 1) {
    return absl::InternalError(absl::StrCat("TLS set-up: ", identity::OpenSslError()));
  }
  SSL_set_connect_state(engine->ssl_.get());
  return engine;
}

absl::StatusOr<std::unique_ptr<TlsEngine>> TlsEngine::MakeServer(SSL_CTX* context) {
  ASSIGN_OR_RETURN(std::unique_ptr<TlsEngine> engine, Make(context));
  SSL_set_accept_state(engine->ssl_.get());
  return engine;
}

std::span<char> TlsEngine::Space() {
  std::memmove(input_.data(), input_.data() + begin_, end_ - begin_);
  end_ -= begin_;
  begin_ = 0;
  return {input_.data() + end_, input_.size() - end_};
}

void TlsEngine::TakeOutput(std::string& spare) {
  spare.clear();
  std::swap(spare, output_);
}

absl::Status TlsEngine::Failure() const {
  const long verified = SSL_get_verify_result(ssl_.get());
  std::string why = identity::OpenSslError();
  if (verified != X509_V_OK) absl::StrAppend(&why, ": ", X509_verify_cert_error_string(verified));
  return absl::UnavailableError(why);
}

absl::StatusOr<bool> TlsEngine::Handshake() {
  ERR_clear_error();
  const int result = SSL_do_handshake(ssl_.get());
  if (result == 1) {
    input_.resize(kInputAfter);
    return true;
  }
  if (SSL_get_error(ssl_.get(), result) == SSL_ERROR_WANT_READ) return false;
  return Failure();
}

absl::Status TlsEngine::Encrypt(std::string_view plain) {
  while (!plain.empty()) {
    size_t written = 0;
    ERR_clear_error();
    if (SSL_write_ex(ssl_.get(), plain.data(), plain.size(), &written) != 1) return Failure();
    plain.remove_prefix(written);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::optional<size_t>> TlsEngine::Decrypt(std::span<char> to) {
  if (!failed_.ok()) return failed_;
  size_t filled = 0;
  while (filled < to.size()) {
    size_t read = 0;
    ERR_clear_error();
    if (SSL_read_ex(ssl_.get(), to.data() + filled, to.size() - filled, &read) == 1) {
      filled += read;
      continue;
    }
    const int error = SSL_get_error(ssl_.get(), 0);
    if (error == SSL_ERROR_WANT_READ) break;
    if (error != SSL_ERROR_ZERO_RETURN) failed_ = Failure();
    // What was read before an end or an error is given first.
    if (filled > 0) break;
    if (error == SSL_ERROR_ZERO_RETURN) return std::optional<size_t>(0);
    return failed_;
  }
  return filled == 0 ? std::optional<size_t>() : std::optional<size_t>(filled);
}

}  // namespace ferry::migration
