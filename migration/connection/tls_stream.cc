#include "migration/connection/tls_stream.h"

#include <openssl/err.h>
#include <sys/socket.h>

#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/asio/write.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/async.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/identity/certificate.h"

namespace ferry::migration {

class TlsContext {
 public:
  explicit TlsContext(std::shared_ptr<identity::CertificateFiles> files)
      : files_(std::move(files)) {}

  // For one handshake; connections keep the one that they were made with.
  absl::StatusOr<std::shared_ptr<asio::ssl::context>> Current() {
    const std::shared_ptr<const identity::Credentials> now = files_->Current();
    if (now == loaded_) return context_;
    ASSIGN_OR_RETURN(context_, Make(*now));
    loaded_ = now;
    return context_;
  }

 private:
  static absl::StatusOr<std::shared_ptr<asio::ssl::context>> Make(const identity::Credentials& pem);

  const std::shared_ptr<identity::CertificateFiles> files_;
  std::shared_ptr<const identity::Credentials> loaded_;
  std::shared_ptr<asio::ssl::context> context_;
};

absl::StatusOr<std::shared_ptr<asio::ssl::context>> TlsContext::Make(
    const identity::Credentials& pem) {
  auto context = std::make_shared<asio::ssl::context>(asio::ssl::context::tlsv13);
  boost::system::error_code ec;
  const auto failed = [&ec](const char* what) {
    return absl::InvalidArgumentError(absl::StrCat("TLS: cannot use ", what, ": ", ec.message()));
  };
  context->set_verify_mode(asio::ssl::verify_peer | asio::ssl::verify_fail_if_no_peer_cert, ec);
  if (ec) return failed("certificate verification");
  context->use_certificate_chain(asio::buffer(pem.cert), ec);
  if (ec) return failed("the certificate");
  context->use_private_key(asio::buffer(pem.key), asio::ssl::context::pem, ec);
  if (ec) return failed("the private key");
  context->add_certificate_authority(asio::buffer(pem.ca), ec);
  if (ec) return failed("the CA's certificate");
  return context;
}

namespace {

using Socket = asio::generic::stream_protocol::socket;
using SslStream = asio::ssl::stream<Socket>;

class TlsStream final : public ByteStream {
 public:
  TlsStream(Socket socket, std::shared_ptr<asio::ssl::context> context, std::string peer)
      : context_(std::move(context)),
        stream_(std::move(socket), *context_),
        peer_(std::move(peer)) {}

  // Checked against the certificate during the client's handshake.
  absl::Status ExpectPeer(const std::string& name) {
    boost::system::error_code ec;
    stream_.set_verify_callback(asio::ssl::host_name_verification(name), ec);
    if (ec) return absl::InternalError(absl::StrCat("TLS set-up: ", ec.message()));
    return absl::OkStatus();
  }

  static Task<absl::Status> Handshake(TlsStream* self,
                                      asio::ssl::stream_base::handshake_type side) {
    boost::system::error_code ec;
    co_await self->stream_.async_handshake(side, asio::redirect_error(asio::use_awaitable, ec));
    if (ec) {
      co_return absl::UnauthenticatedError(
          absl::StrCat("TLS with ", self->peer_, ": ", ec.message(),
                       "; both hosts need certificates that the other one's CA file covers"));
    }
    co_return self->LearnPeer();
  }

  Task<absl::StatusOr<size_t>> ReadSome(std::span<char> buffer) override {
    boost::system::error_code ec;
    const auto target = asio::buffer(buffer.data(), buffer.size());
    const size_t size =
        co_await stream_.async_read_some(target, asio::redirect_error(asio::use_awaitable, ec));
    // A stream that was cut is told from one that ended by the connection's own goodbye.
    if (ec == asio::error::eof || ec == asio::ssl::error::stream_truncated) co_return size_t{0};
    if (ec)
      co_return absl::UnavailableError(absl::StrCat("reading from ", peer_, ": ", ec.message()));
    co_return size;
  }

  Task<absl::Status> Write(std::string_view header, std::string_view payload) override {
    boost::system::error_code ec;
    const std::array<asio::const_buffer, 2> parts = {asio::buffer(header), asio::buffer(payload)};
    co_await asio::async_write(stream_, parts, asio::redirect_error(asio::use_awaitable, ec));
    if (ec)
      co_return absl::UnavailableError(absl::StrCat("writing to ", peer_, ": ", ec.message()));
    co_return absl::OkStatus();
  }

  void ShutdownWrite() override {
    boost::system::error_code ignored;
    stream_.next_layer().shutdown(Socket::shutdown_send, ignored);
  }

  void Close() override {
    boost::system::error_code ignored;
    stream_.next_layer().close(ignored);
  }

  std::string peer() const override { return peer_; }
  std::string peer_name() const override { return identity_.name; }
  const identity::Identity& identity() const { return identity_; }

 private:
  // Whom the verified certificate names.
  absl::Status LearnPeer() {
    X509* certificate = SSL_get0_peer_certificate(stream_.native_handle());
    if (certificate == nullptr) {
      return absl::UnauthenticatedError(absl::StrCat(peer_, " showed no certificate"));
    }
    ASSIGN_OR_RETURN(identity_, identity::IdentityOf(certificate));
    if (!identity_.roles.Has(identity::Role::kPeer)) {
      return absl::PermissionDeniedError(
          absl::StrCat("the certificate of ", peer_, " (", identity_.name,
                       ") has not the role peer; migrations are between hosts"));
    }
    return absl::OkStatus();
  }

  std::shared_ptr<asio::ssl::context> context_;
  SslStream stream_;
  std::string peer_;
  identity::Identity identity_;  // of the peer, once the handshake has ended
};

absl::StatusOr<std::unique_ptr<TlsStream>> MakeStream(Executor executor, UniqueFd fd,
                                                      std::shared_ptr<TlsContext> context) {
  RETURN_IF_ERROR(CheckConnectedStream(fd.get()));
  ASSIGN_OR_RETURN(std::shared_ptr<asio::ssl::context> current, context->Current());
  TuneSocket(fd.get());
  std::string peer = DescribePeer(fd.get());
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size);
  Socket socket(executor);
  boost::system::error_code ec;
  socket.assign(asio::generic::stream_protocol(address.ss_family, 0), fd.get(), ec);
  if (ec) return absl::InternalError(absl::StrCat("taking over a socket: ", ec.message()));
  fd.Release();
  return std::make_unique<TlsStream>(std::move(socket), std::move(current), std::move(peer));
}

}  // namespace

std::shared_ptr<TlsContext> MakeTlsContext(std::shared_ptr<identity::CertificateFiles> files) {
  return std::make_shared<TlsContext>(std::move(files));
}

Task<absl::StatusOr<std::unique_ptr<ByteStream>>> MakeTlsClientStream(
    UniqueFd socket, std::shared_ptr<TlsContext> context, std::string peer_name,
    std::chrono::milliseconds deadline) {
  const Executor executor = co_await asio::this_coro::executor;
  CO_ASSIGN_OR_RETURN(std::unique_ptr<TlsStream> stream,
                      MakeStream(executor, std::move(socket), std::move(context)));
  CO_RETURN_IF_ERROR(stream->ExpectPeer(peer_name));
  CO_RETURN_IF_ERROR(
      co_await WithDeadline(deadline, "the destination's TLS handshake",
                            TlsStream::Handshake(stream.get(), asio::ssl::stream_base::client)));
  co_return stream;
}

Task<absl::StatusOr<std::unique_ptr<ByteStream>>> MakeTlsServerStream(
    UniqueFd socket, std::shared_ptr<TlsContext> context, std::chrono::milliseconds deadline,
    identity::Identity* peer) {
  const Executor executor = co_await asio::this_coro::executor;
  CO_ASSIGN_OR_RETURN(std::unique_ptr<TlsStream> stream,
                      MakeStream(executor, std::move(socket), std::move(context)));
  const absl::Status shaken =
      co_await WithDeadline(deadline, "the source's TLS handshake",
                            TlsStream::Handshake(stream.get(), asio::ssl::stream_base::server));
  if (peer != nullptr) *peer = stream->identity();
  CO_RETURN_IF_ERROR(shaken);
  co_return stream;
}

}  // namespace ferry::migration
