#include "vmmanager/identity/tls_version.h"

#include <openssl/conf.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

#include <cstdlib>
#include <mutex>

#include "vmmanager/identity/certificate.h"

namespace ferry::identity {
namespace {

// OpenSSL applies its section "system_default" to every context that is made. gRPC sets the lowest
// version of its own contexts to 1.2 afterwards, but leaves alone which versions are switched off.
constexpr char kConfiguration[] =
    "openssl_conf = ferry\n"
    "[ferry]\n"
    "ssl_conf = ferry_ssl\n"
    "[ferry_ssl]\n"
    "system_default = tls13\n"
    "[tls13]\n"
    "Protocol = -ALL,TLSv1.3\n";

bool Load() {
  // The system's own configuration first, so that it does not replace this one later.
  if (OPENSSL_init_ssl(OPENSSL_INIT_LOAD_CONFIG, nullptr) != 1) return false;
  OpenSslPtr<BIO> text(BIO_new_mem_buf(kConfiguration, -1));
  CONF* configuration = NCONF_new(nullptr);
  long line = 0;
  const bool loaded = NCONF_load_bio(configuration, text.get(), &line) == 1 &&
                      CONF_modules_load(configuration, nullptr, 0) == 1;
  NCONF_free(configuration);
  if (!loaded) return false;
  // Whether it took effect, as gRPC would see it.
  SSL_CTX* context = SSL_CTX_new(TLS_method());
  const bool effective =
      context != nullptr && (SSL_CTX_get_options(context) & SSL_OP_NO_TLSv1_2) != 0;
  SSL_CTX_free(context);
  return effective;
}

}  // namespace

void RequireTls13() {
  static std::once_flag once;
  std::call_once(once, [] {
    // Weaker connections than promised are worse than none.
    if (!Load()) std::abort();
  });
}

}  // namespace ferry::identity
