#pragma once

#include <grpcpp/client_context.h>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <type_traits>
#include <utility>

#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "vmmanager/rpc/status_conversion.h"

// Unary calls that a coroutine can await.
namespace ferry::rpc {

namespace internal {

// Lives until gRPC has answered, also when nobody waits any more.
template <typename Request, typename Response>
struct UnaryCall {
  explicit UnaryCall(const Executor& e) : executor(e), work(asio::make_work_guard(e)), done(e) {}

  Executor executor;
  asio::executor_work_guard<Executor> work;
  AsyncEvent done;
  grpc::ClientContext context;
  Request request;
  Response response;
  grpc::Status status;
};

// Cancels a call that its coroutine abandons.
template <typename Call>
struct CancelOnDrop {
  std::shared_ptr<Call> call;
  ~CancelOnDrop() {
    if (!call->done.is_set()) call->context.TryCancel();
  }
};

}  // namespace internal

// Calls `method`, which is e.g. `&v1::VmService::StubInterface::async_interface::GetVm`, on
// `stub->async()` and resumes with the answer on the io thread. After `timeout` the answer is
// DEADLINE_EXCEEDED. Cancelling the task cancels the call.
template <typename Async, typename Request, typename Response>
Task<absl::StatusOr<Response>> CallUnary(std::type_identity_t<Async>* async,
                                         void (Async::*method)(grpc::ClientContext*, const Request*,
                                                               Response*,
                                                               std::function<void(grpc::Status)>),
                                         std::type_identity_t<Request> request,
                                         milliseconds timeout) {
  using Call = internal::UnaryCall<Request, Response>;
  const Executor executor = co_await asio::this_coro::executor;
  auto call = std::make_shared<Call>(executor);
  internal::CancelOnDrop<Call> guard{call};
  call->request = std::move(request);
  call->context.set_deadline(std::chrono::system_clock::now() + timeout);
  std::function<void(grpc::Status)> finished = [call](grpc::Status status) mutable {
    const Executor target = call->executor;
    asio::post(target, [call = std::move(call), status = std::move(status)] {
      call->status = status;
      call->done.Set();
      call->work.reset();
    });
  };
  (async->*method)(&call->context, &call->request, &call->response, std::move(finished));
  co_await call->done.Wait();
  if (!call->status.ok()) co_return FromGrpcStatus(call->status);
  co_return std::move(call->response);
}

}  // namespace ferry::rpc
