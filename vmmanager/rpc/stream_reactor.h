#pragma once

#include <grpcpp/support/server_callback.h>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "vmmanager/rpc/handler_error.h"
#include "vmmanager/rpc/status_conversion.h"
#include "vmmanager/rpc/stream_core.h"
#include "vmmanager/rpc/unary_reactor.h"

// Serves streaming calls with a coroutine on the io thread. The handler gets the stream, and what
// it returns ends the call after everything written has been sent.
namespace ferry::rpc {

// A server's side of one streaming call; `Reactor` is gRPC's base class for its kind.
template <typename In, typename Out, typename Reactor>
class BasicServerStream : public StreamCore<In, Out>,
                          public std::enable_shared_from_this<BasicServerStream<In, Out, Reactor>> {
 public:
  using Handler = std::function<Task<absl::Status>(std::shared_ptr<BasicServerStream>)>;

  BasicServerStream(const Executor& executor, grpc::CallbackServerContext* context,
                    OnCallerGone policy)
      : StreamCore<In, Out>(executor), deadline_(context->deadline()), policy_(policy) {}

  // When the caller stops waiting; time_point::max() if never.
  std::chrono::system_clock::time_point deadline() const { return deadline_; }

  // Used by the Serve functions: makes the reactor and starts the handler.
  static Reactor* Serve(std::shared_ptr<BasicServerStream> stream, Handler handler) {
    auto* bridge = new Bridge(stream, std::move(handler));
    stream->reactor_ = bridge;
    asio::post(stream->executor_, [bridge] { bridge->Run(); });
    return bridge;
  }

 private:
  // Lives until gRPC is done with the call, and so does the handler object.
  class Bridge final : public Reactor {
   public:
    Bridge(std::shared_ptr<BasicServerStream> stream, Handler handler)
        : stream_(std::move(stream)), handler_(std::move(handler)) {}

    void Run() {
      auto done = [this](std::exception_ptr error, absl::Status status) {
        stream_->End(error ? StatusOfException(error) : std::move(status));
      };
      asio::co_spawn(stream_->executor_, handler_(stream_),
                     asio::bind_cancellation_slot(stream_->cancel_.slot(), std::move(done)));
    }

    void OnReadDone(bool ok) { stream_->ReadDone(ok); }
    void OnWriteDone(bool ok) override { stream_->WriteDone(ok); }

    void OnCancel() override {
      stream_->Break();
      if (stream_->policy_ == OnCallerGone::kRunToEnd) return;
      asio::post(stream_->executor_,
                 [stream = stream_] { stream->cancel_.emit(asio::cancellation_type::terminal); });
    }

    void OnDone() override {
      const Executor executor = stream_->executor_;
      auto release = [stream = std::move(stream_)] { stream->Release(); };
      delete this;
      asio::post(executor, std::move(release));
    }

   private:
    std::shared_ptr<BasicServerStream> stream_;
    Handler handler_;
  };

  void End(absl::Status status) {
    status_ = std::move(status);
    this->Close();
  }

  void StartReadLocked(In* message) override {
    if constexpr (!std::is_same_v<In, NoMessage>) reactor_->StartRead(message);
  }
  void StartWriteLocked(const Out* message) override { reactor_->StartWrite(message); }
  void CloseLocked() override {
    this->stopped_ = true;
    reactor_->Finish(ToGrpcStatus(status_));
  }
  std::shared_ptr<void> Self() override { return this->shared_from_this(); }

  const std::chrono::system_clock::time_point deadline_;
  const OnCallerGone policy_;
  asio::cancellation_signal cancel_;  // io thread only
  Bridge* reactor_ = nullptr;         // until stopped_
  absl::Status status_;
};

template <typename Response>
using ServerStream = BasicServerStream<NoMessage, Response, grpc::ServerWriteReactor<Response>>;

template <typename Request, typename Response>
using BidiStream = BasicServerStream<Request, Response, grpc::ServerBidiReactor<Request, Response>>;

// Serves a server-streaming call. `handler` is a callable
// `Task<absl::Status>(const Request&, std::shared_ptr<ServerStream<Response>>)`.
template <typename Response, typename Request, typename Handler>
grpc::ServerWriteReactor<Response>* ServeStream(grpc::CallbackServerContext* context,
                                                const Executor& executor, const Request* request,
                                                Handler handler,
                                                OnCallerGone policy = OnCallerGone::kCancel) {
  using Stream = ServerStream<Response>;
  auto stream = std::make_shared<Stream>(executor, context, policy);
  typename Stream::Handler bound =
      [request, handler = std::move(handler)](std::shared_ptr<Stream> s) mutable {
        return handler(*request, std::move(s));
      };
  return Stream::Serve(std::move(stream), std::move(bound));
}

// Serves a call that streams both ways. `handler` is a callable
// `Task<absl::Status>(std::shared_ptr<BidiStream<Request, Response>>)`.
template <typename Request, typename Response, typename Handler>
grpc::ServerBidiReactor<Request, Response>* ServeBidi(grpc::CallbackServerContext* context,
                                                      const Executor& executor, Handler handler,
                                                      OnCallerGone policy = OnCallerGone::kCancel) {
  using Stream = BidiStream<Request, Response>;
  auto stream = std::make_shared<Stream>(executor, context, policy);
  return Stream::Serve(std::move(stream), std::move(handler));
}

}  // namespace ferry::rpc
