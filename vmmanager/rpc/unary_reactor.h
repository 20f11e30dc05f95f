#pragma once

#include <grpcpp/support/server_callback.h>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/post.hpp>
#include <exception>
#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "bridge/runtime/task.h"
#include "vmmanager/rpc/authorization.h"
#include "vmmanager/rpc/handler_error.h"
#include "vmmanager/rpc/status_conversion.h"

// Serves a unary call with a coroutine on the io thread.
namespace ferry::rpc {

// What happens to a handler whose caller went away.
enum class OnCallerGone {
  kRunToEnd,  // for everything that changes state: half-done work helps nobody
  kCancel,    // for reads and waits
};

// A handler that is served with kCancel awaits this where it begins to change something: from there
// on it runs to its end, whether or not somebody waits for the answer.
inline Task<void> RunToEndFromHere() {
  co_await asio::this_coro::reset_cancellation_state(asio::disable_cancellation());
}

namespace internal {

// Lives until gRPC is done with the call; the handler object is kept with it, so that it may be a
// capturing lambda that is itself a coroutine.
template <typename Request, typename Response, typename Handler>
class UnaryReactor final : public grpc::ServerUnaryReactor {
 public:
  UnaryReactor(Executor executor, const Request* request, Response* response, Handler handler,
               OnCallerGone policy)
      : executor_(std::move(executor)),
        request_(request),
        response_(response),
        handler_(std::move(handler)),
        policy_(policy),
        cancel_(std::make_shared<asio::cancellation_signal>()) {}

  void Start(const absl::Status& allowed) {
    if (!allowed.ok()) {
      this->Finish(ToGrpcStatus(allowed));
      return;
    }
    asio::post(executor_, [this] { Run(); });
  }

  void OnCancel() override {
    if (policy_ == OnCallerGone::kRunToEnd) return;
    // gRPC does not report OnDone before this returns, but perhaps before the post runs.
    asio::post(executor_, [cancel = cancel_] { cancel->emit(asio::cancellation_type::terminal); });
  }

  void OnDone() override { delete this; }

 private:
  void Run() {
    asio::co_spawn(
        executor_, handler_(*request_),
        asio::bind_cancellation_slot(
            cancel_->slot(), [this](std::exception_ptr error, absl::StatusOr<Response> result) {
              if (error) result = StatusOfException(error);
              if (result.ok()) *response_ = *std::move(result);
              Finish(ToGrpcStatus(result.status()));
            }));
  }

  const Executor executor_;
  const Request* const request_;
  Response* const response_;
  Handler handler_;
  const OnCallerGone policy_;
  const std::shared_ptr<asio::cancellation_signal> cancel_;
};

}  // namespace internal

// Runs `handler`, a callable `Task<absl::StatusOr<Response>>(const Request&)`, on `executor` and
// answers the call with its result, unless the caller may not ask this (AuthorizeRequest). To be
// returned from a callback service's method. The request lives until the handler has ended.
template <typename Request, typename Response, typename Handler>
grpc::ServerUnaryReactor* ServeUnary(grpc::CallbackServerContext* context, Executor executor,
                                     const Request* request, Response* response, Handler handler,
                                     OnCallerGone policy = OnCallerGone::kRunToEnd) {
  auto* reactor = new internal::UnaryReactor<Request, Response, Handler>(
      std::move(executor), request, response, std::move(handler), policy);
  reactor->Start(AuthorizeRequest(CallerOf(*context), *request));
  return reactor;
}

}  // namespace ferry::rpc
