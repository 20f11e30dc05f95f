#pragma once

#include <grpcpp/client_context.h>
#include <grpcpp/support/client_callback.h>

#include <memory>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "vmmanager/rpc/status_conversion.h"
#include "vmmanager/rpc/stream_core.h"

// A client's side of streaming calls, for coroutines on the io thread.
namespace ferry::rpc {

// `In` comes from the server, `Out` goes to it; `Reactor` is gRPC's base class for the kind.
template <typename In, typename Out, typename Reactor>
class BasicClientStream : public StreamCore<In, Out>,
                          public std::enable_shared_from_this<BasicClientStream<In, Out, Reactor>> {
 public:
  explicit BasicClientStream(const Executor& executor) : StreamCore<In, Out>(executor) {}

  // No more writes will follow; what is queued is still sent.
  void WritesDone() { this->Close(); }

  // How the call ended. Waits for it; to be called when Read() has returned nullopt or after
  // Cancel().
  Task<absl::Status> Finish() {
    while (!done_) {
      this->changed_.Reset();
      co_await this->changed_.Wait();
    }
    co_return status_;
  }

  void Cancel() {
    context_.TryCancel();
    std::lock_guard<std::mutex> lock(this->mutex_);
    LetGoLocked();
  }

  // Used by Open(). `start` binds the reactor: `stub->async()->Method(context, ..., reactor)`.
  template <typename Start>
  void Begin(Start start) {
    reactor_ = new Bridge(this->shared_from_this());
    start(&context_, reactor_);
    reactor_->AddHold();
    reactor_->StartCall();
  }

  grpc::ClientContext& context() { return context_; }

 private:
  class Bridge final : public Reactor {
   public:
    explicit Bridge(std::shared_ptr<BasicClientStream> stream) : stream_(std::move(stream)) {}

    void OnReadDone(bool ok) override {
      stream_->ReadDone(ok);
      // A server never ends its direction before the call: from here on only OnDone can follow.
      if (!ok) stream_->Over();
    }
    void OnWriteDone(bool ok) { stream_->WriteDone(ok); }
    void OnDone(const grpc::Status& status) override {
      const Executor executor = stream_->executor_;
      auto release = [stream = std::move(stream_), status] {
        stream->status_ = FromGrpcStatus(status);
        stream->done_ = true;
        stream->Release();
      };
      delete this;
      asio::post(executor, std::move(release));
    }

   private:
    std::shared_ptr<BasicClientStream> stream_;
  };

  void Over() {
    this->Break();
    std::lock_guard<std::mutex> lock(this->mutex_);
    LetGoLocked();
  }

  // gRPC may end the call from now on, so nothing may be started from outside any more.
  void LetGoLocked() {
    if (std::exchange(this->stopped_, true)) return;
    reactor_->RemoveHold();
  }

  void StartReadLocked(In* message) override { reactor_->StartRead(message); }
  void StartWriteLocked(const Out* message) override {
    if constexpr (!std::is_same_v<Out, NoMessage>) reactor_->StartWrite(message);
  }
  void CloseLocked() override {
    if constexpr (!std::is_same_v<Out, NoMessage>) {
      if (!this->stopped_) reactor_->StartWritesDone();
    }
  }
  std::shared_ptr<void> Self() override { return this->shared_from_this(); }

  grpc::ClientContext context_;
  Bridge* reactor_ = nullptr;  // until stopped_
  bool done_ = false;          // io thread only, like status_
  absl::Status status_;
};

// Owns a client stream for one coroutine and cancels the call when it lets go.
template <typename Stream>
class StreamOwner {
 public:
  StreamOwner() = default;
  explicit StreamOwner(std::shared_ptr<Stream> stream) : stream_(std::move(stream)) {}
  StreamOwner(StreamOwner&& other) noexcept = default;
  StreamOwner& operator=(StreamOwner&& other) noexcept {
    std::swap(stream_, other.stream_);
    return *this;
  }
  ~StreamOwner() {
    if (stream_) stream_->Cancel();
  }
  Stream* operator->() const { return stream_.get(); }
  explicit operator bool() const { return stream_ != nullptr; }
  const std::shared_ptr<Stream>& shared() const { return stream_; }

 private:
  std::shared_ptr<Stream> stream_;
};

template <typename Response>
using ClientReadStream = BasicClientStream<Response, NoMessage, grpc::ClientReadReactor<Response>>;

template <typename Request, typename Response>
using ClientBidiStream =
    BasicClientStream<Response, Request, grpc::ClientBidiReactor<Request, Response>>;

// Opens a call that streams both ways: OpenBidi(executor, async, &...async_interface::Attach).
template <typename Async, typename Request, typename Response>
StreamOwner<ClientBidiStream<Request, Response>> OpenBidi(
    const Executor& executor, std::type_identity_t<Async>* async,
    void (Async::*method)(grpc::ClientContext*, grpc::ClientBidiReactor<Request, Response>*)) {
  auto stream = std::make_shared<ClientBidiStream<Request, Response>>(executor);
  stream->Begin([async, method](grpc::ClientContext* context, auto* reactor) {
    (async->*method)(context, reactor);
  });
  return StreamOwner<ClientBidiStream<Request, Response>>(std::move(stream));
}

// Opens a server-streaming call.
template <typename Async, typename Request, typename Response>
StreamOwner<ClientReadStream<Response>> OpenRead(
    const Executor& executor, std::type_identity_t<Async>* async,
    void (Async::*method)(grpc::ClientContext*, const Request*, grpc::ClientReadReactor<Response>*),
    const std::type_identity_t<Request>& request) {
  auto stream = std::make_shared<ClientReadStream<Response>>(executor);
  // gRPC serialises the request inside the call below.
  stream->Begin([async, method, &request](grpc::ClientContext* context, auto* reactor) {
    (async->*method)(context, &request, reactor);
  });
  return StreamOwner<ClientReadStream<Response>>(std::move(stream));
}

}  // namespace ferry::rpc
