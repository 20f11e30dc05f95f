#include "vmmanager/rpc/server_credentials.h"

#include <grpc/grpc.h>
#include <grpc/grpc_security.h>

#include <chrono>
#include <mutex>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "vmmanager/identity/tls_version.h"
#include "vmmanager/rpc/audit_interceptor.h"
#include "vmmanager/rpc/authorization.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/rpc/status_conversion.h"

namespace ferry::rpc {
namespace {

// What the credentials call back to; they own it.
struct Callbacks {
  const std::shared_ptr<identity::CertificateFiles> files;
  AuditLog* const audit;
  std::mutex mutex;
  std::shared_ptr<const identity::Credentials> given;
};

Caller CallerOf(grpc_auth_context* context) {
  std::vector<std::string> uris;
  grpc_auth_property_iterator properties =
      grpc_auth_context_find_properties_by_name(context, GRPC_PEER_URI_PROPERTY_NAME);
  while (const grpc_auth_property* uri = grpc_auth_property_iterator_next(&properties)) {
    uris.emplace_back(uri->value, uri->value_length);
  }
  return CallerWithCertificate(uris);
}

std::string MethodOf(const grpc_metadata* metadata, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    if (grpc_slice_str_cmp(metadata[i].key, ":path") != 0) continue;
    const grpc_slice& value = metadata[i].value;
    return std::string(reinterpret_cast<const char*>(GRPC_SLICE_START_PTR(value)),
                       GRPC_SLICE_LENGTH(value));
  }
  return "";  // which is no listed method
}

// Asked at each handshake, on any thread.
grpc_ssl_certificate_config_reload_status FetchConfig(void* state,
                                                      grpc_ssl_server_certificate_config** config) {
  auto* callbacks = static_cast<Callbacks*>(state);
  const std::shared_ptr<const identity::Credentials> current = callbacks->files->Current();
  std::lock_guard<std::mutex> lock(callbacks->mutex);
  if (current == callbacks->given) return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
  callbacks->given = current;
  const grpc_ssl_pem_key_cert_pair pair{current->key.c_str(), current->cert.c_str()};
  *config = grpc_ssl_server_certificate_config_create(current->ca.c_str(), &pair, 1);
  return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
}

// gRPC carries no details from here, so the next step stands in the text.
std::string MessageOf(const absl::Status& refused) {
  std::string message(refused.message());
  const v1::ErrorInfo info = GetErrorInfo(refused).value_or(v1::ErrorInfo());
  if (!info.next_step().empty()) absl::StrAppend(&message, "; ", info.next_step());
  return message;
}

// For every call, before its handler. Where it comes from cannot be found out here.
void CheckCall(void* callbacks, grpc_auth_context* context, const grpc_metadata* metadata,
               size_t count, grpc_process_auth_metadata_done_cb done, void* user_data) {
  AuditRecord record;
  record.time = std::chrono::system_clock::now();
  record.caller = CallerOf(context);
  const std::string method = MethodOf(metadata, count);
  const absl::Status allowed = Authorize(record.caller, method);
  AuditLog* const audit = static_cast<Callbacks*>(callbacks)->audit;
  if (audit != nullptr && !allowed.ok()) {
    record.method = LoggedMethod(method);
    record.outcome = absl::StatusCodeToString(allowed.code());
    record.reason = ReasonOf(allowed);
    audit->WriteRefusal(record);
  }
  const std::string message = MessageOf(allowed);
  done(user_data, nullptr, 0, nullptr, 0, static_cast<grpc_status_code>(allowed.code()),
       allowed.ok() ? nullptr : message.c_str());
}

void DestroyCallbacks(void* callbacks) {
  std::unique_ptr<Callbacks>(static_cast<Callbacks*>(callbacks)).reset();
}

// grpc::SslServerCredentials reads its certificates once; only gRPC's C interface asks again.
class TlsServerCredentials final : public grpc::ServerCredentials {
 public:
  explicit TlsServerCredentials(std::unique_ptr<Callbacks> callbacks)
      : credentials_(grpc_ssl_server_credentials_create_with_options(
            grpc_ssl_server_credentials_create_options_using_config_fetcher(
                GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY, &FetchConfig,
                callbacks.get()))) {
    const grpc_auth_metadata_processor processor{&CheckCall, &DestroyCallbacks,
                                                 callbacks.release()};
    grpc_server_credentials_set_auth_metadata_processor(credentials_, processor);
  }
  ~TlsServerCredentials() override { grpc_server_credentials_release(credentials_); }

  // The roles are what is checked; there is no second opinion.
  void SetAuthMetadataProcessor(const std::shared_ptr<grpc::AuthMetadataProcessor>&) override {}

 private:
  int AddPortToServer(const std::string& address, grpc_server* server) override {
    return grpc_server_add_http2_port(server, address.c_str(), credentials_);
  }

  grpc_server_credentials* const credentials_;
};

}  // namespace

std::shared_ptr<grpc::ServerCredentials> MakeTlsServerCredentials(
    std::shared_ptr<identity::CertificateFiles> files, AuditLog* audit) {
  identity::RequireTls13();
  std::unique_ptr<Callbacks> callbacks(new Callbacks{std::move(files), audit});
  return std::make_shared<TlsServerCredentials>(std::move(callbacks));
}

}  // namespace ferry::rpc
