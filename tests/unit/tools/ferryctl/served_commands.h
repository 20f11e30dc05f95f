#pragma once

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/unit/bridge/task_test.h"
#include "tools/ferryctl/command.h"
#include "vmmanager/rpc/server.h"
#include "vmmanager/rpc/unary_reactor.h"

namespace ferry::ctl {

// What a scripted service has: it answers every call, or fails it with `status`, and remembers what
// was asked.
class Scripted {
 public:
  explicit Scripted(Executor executor) : executor_(std::move(executor)) {}

  absl::Status status;
  int calls = 0;

 protected:
  template <typename Request, typename Response>
  grpc::ServerUnaryReactor* Serve(grpc::CallbackServerContext* context, const Request* request,
                                  Response* response, Request* asked, const Response& answer) {
    auto handler = [=, this](const Request& r) -> Task<absl::StatusOr<Response>> {
      *asked = r;
      ++calls;
      if (!status.ok()) co_return status;
      co_return answer;
    };
    return rpc::ServeUnary(context, executor_, request, response, handler);
  }

 private:
  const Executor executor_;
};

// Command lines against a daemon at a socket of the test's own, whose coroutines have a thread.
class ServedCommandsTest : public testing::Test {
 protected:
  // What the derived class serves is among its members: it is used no more when they go.
  void TearDown() override {
    if (server_) Spawn(io_.get_executor(), server_->Shutdown(milliseconds(0)));
    work_.reset();
    thread_.join();
  }

  void Serve(const std::vector<grpc::Service*>& services) {
    rpc::ServerOptions options;
    options.unix_socket = socket_;
    auto server = rpc::Server::Start(options, services);
    EXPECT_TRUE(server.ok()) << server.status();
    if (server.ok()) server_ = *std::move(server);
  }

  // Runs one command line; its output is in `printed_` and `said_`.
  int Ferryctl(std::vector<const char*> arguments) {
    const std::string host = "unix:" + socket_;
    arguments.insert(arguments.begin(), {"ferryctl", "--host", host.c_str()});
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    const int code = RunFerryctl(static_cast<int>(arguments.size()), arguments.data());
    std::fflush(stdout);
    printed_ = testing::internal::GetCapturedStdout();
    said_ = testing::internal::GetCapturedStderr();
    return code;
  }

  TestFolder folder_;
  const std::string socket_ = folder_.path() + "/d.sock";
  asio::io_context io_;
  asio::executor_work_guard<asio::io_context::executor_type> work_{io_.get_executor()};
  std::string printed_, said_;

 private:
  std::unique_ptr<rpc::Server> server_;
  std::thread thread_{[this] { io_.run(); }};
};

}  // namespace ferry::ctl
