#include "migration/connection/tls_stream.h"

#include <sys/socket.h>

#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/write.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/async.h"
#include "bridge/runtime/status_macros.h"
#include "migration/connection/tls_engine.h"
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

constexpr size_t kRecord = 16 * 1024;  // a TLS record's greatest payload

class TlsStream final : public ByteStream {
 public:
  TlsStream(Socket socket, std::shared_ptr<asio::ssl::context> context,
            std::unique_ptr<TlsEngine> engine, std::string peer)
      : context_(std::move(context)),
        engine_(std::move(engine)),
        socket_(std::move(socket)),
        peer_(std::move(peer)) {}

  static Task<absl::Status> Handshake(TlsStream* self) {
    while (true) {
      const absl::StatusOr<bool> over = self->engine_->Handshake();
      // Also a failure is to be told to the other side.
      const absl::Status sent = co_await self->Flush();
      if (!over.ok()) co_return self->NotKnown(over.status());
      if (!sent.ok()) co_return self->NotKnown(sent);
      if (*over) co_return self->LearnPeer();
      const absl::StatusOr<size_t> received = co_await self->Receive();
      if (!received.ok()) co_return self->NotKnown(received.status());
      if (*received == 0) {
        co_return self->NotKnown(absl::UnavailableError("the other side ended the connection"));
      }
    }
  }

  Task<absl::StatusOr<size_t>> ReadSome(std::span<char> buffer) override {
    while (true) {
      const absl::StatusOr<std::optional<size_t>> size = engine_->Decrypt(buffer);
      if (!size.ok()) co_return Failed("reading from", size.status());
      if (size->has_value()) co_return **size;
      const absl::StatusOr<size_t> received = co_await Receive();
      if (!received.ok()) co_return Failed("reading from", received.status());
      // A stream that was cut is told from one that ended by the connection's own goodbye.
      if (*received == 0) co_return size_t{0};
    }
  }

  Task<absl::Status> Write(std::string_view header, std::string_view payload) override {
    absl::Status status;
    if (header.size() + payload.size() <= kRecord) {
      std::string both(header);
      both.append(payload);
      status = engine_->Encrypt(both);
    } else {
      status = engine_->Encrypt(header);
      if (status.ok()) status = engine_->Encrypt(payload);
    }
    if (status.ok()) status = co_await Flush();
    if (!status.ok()) co_return Failed("writing to", status);
    co_return absl::OkStatus();
  }

  void ShutdownWrite() override {
    boost::system::error_code ignored;
    socket_.shutdown(Socket::shutdown_send, ignored);
  }

  void Close() override {
    boost::system::error_code ignored;
    socket_.close(ignored);
  }

  std::string peer() const override { return peer_; }
  std::string peer_name() const override { return identity_.name; }
  const identity::Identity& identity() const { return identity_; }

 private:
  absl::Status NotKnown(const absl::Status& why) const {
    return absl::UnauthenticatedError(
        absl::StrCat("TLS with ", peer_, ": ", why.message(),
                     "; both hosts need certificates that the other one's CA file covers"));
  }

  absl::Status Failed(const char* what, const absl::Status& why) const {
    return absl::UnavailableError(absl::StrCat(what, " ", peer_, ": ", why.message()));
  }

  // Takes from the wire what there is; 0 at its end.
  Task<absl::StatusOr<size_t>> Receive() {
    const std::span<char> space = engine_->Space();
    const auto target = asio::buffer(space.data(), space.size());
    boost::system::error_code ec;
    const size_t size =
        co_await socket_.async_read_some(target, asio::redirect_error(asio::use_awaitable, ec));
    if (ec == asio::error::eof) co_return size_t{0};
    if (ec) co_return absl::UnavailableError(ec.message());
    engine_->Received(size);
    co_return size;
  }

  // Only one at a time: from the handshake, and then from the stream's one writer.
  Task<absl::Status> Flush() {
    engine_->TakeOutput(sending_);
    boost::system::error_code ec;
    const auto source = asio::buffer(sending_);
    co_await asio::async_write(socket_, source, asio::redirect_error(asio::use_awaitable, ec));
    if (ec) co_return absl::UnavailableError(ec.message());
    co_return absl::OkStatus();
  }

  // Whom the verified certificate names.
  absl::Status LearnPeer() {
    X509* certificate = engine_->peer_certificate();
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
  std::unique_ptr<TlsEngine> engine_;
  Socket socket_;
  std::string peer_;
  std::string sending_;
  identity::Identity identity_;  // of the peer, once the handshake has ended
};

// A client if it expects somebody.
absl::StatusOr<std::unique_ptr<TlsStream>> MakeStream(Executor executor, UniqueFd fd,
                                                      const std::shared_ptr<TlsContext>& context,
                                                      const std::string* expected) {
  RETURN_IF_ERROR(CheckConnectedStream(fd.get()));
  ASSIGN_OR_RETURN(std::shared_ptr<asio::ssl::context> current, context->Current());
  SSL_CTX* settings = current->native_handle();
  ASSIGN_OR_RETURN(std::unique_ptr<TlsEngine> engine,
                   expected == nullptr ? TlsEngine::MakeServer(settings)
                                       : TlsEngine::MakeClient(settings, *expected));
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
  return std::make_unique<TlsStream>(std::move(socket), std::move(current), std::move(engine),
                                     std::move(peer));
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
                      MakeStream(executor, std::move(socket), context, &peer_name));
  CO_RETURN_IF_ERROR(co_await WithDeadline(deadline, "the destination's TLS handshake",
                                           TlsStream::Handshake(stream.get())));
  co_return stream;
}

Task<absl::StatusOr<std::unique_ptr<ByteStream>>> MakeTlsServerStream(
    UniqueFd socket, std::shared_ptr<TlsContext> context, std::chrono::milliseconds deadline,
    identity::Identity* peer) {
  const Executor executor = co_await asio::this_coro::executor;
  CO_ASSIGN_OR_RETURN(std::unique_ptr<TlsStream> stream,
                      MakeStream(executor, std::move(socket), context, nullptr));
  const absl::Status shaken = co_await WithDeadline(deadline, "the source's TLS handshake",
                                                    TlsStream::Handshake(stream.get()));
  if (peer != nullptr) *peer = stream->identity();
  CO_RETURN_IF_ERROR(shaken);
  co_return stream;
}

}  // namespace ferry::migration
