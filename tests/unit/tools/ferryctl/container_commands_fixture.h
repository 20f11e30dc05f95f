#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <boost/asio/io_context.hpp>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tools/ferryctl/command.h"
#include "tools/ferryctl/fake_containers.h"
#include "tools/ferryctl/fake_daemon.h"

namespace ferry::ctl {

// A daemon with containers, whose init prints "hello" and exits with 3.
class ContainerCommandsTest : public testing::Test {
 protected:
  ContainerCommandsTest() {
    char pattern[] = "/tmp/ferry-ctr-XXXXXX";
    folder_ = ::mkdtemp(pattern);
    daemon_ = std::make_unique<FakeDaemon>(io_.get_executor(), folder_ + "/d.sock", &process_,
                                           &containers_);
    process_.home = daemon_->address();
    process_.has_stdin = false;
    process_.stdin_ended = true;
    process_.output = "hello\n";
    process_.exit_code = 3;
    thread_ = std::thread([this] { io_.run(); });
  }
  ~ContainerCommandsTest() override {
    OnServer([this] {
      Spawn(io_.get_executor(), daemon_->Shutdown());
      if (other_daemon_ != nullptr) Spawn(io_.get_executor(), other_daemon_->Shutdown());
    });
    work_.reset();
    thread_.join();
    ::rmdir(folder_.c_str());
  }

  // Another host, that `other_containers_` are on. Returns its address.
  std::string StartOther() {
    other_daemon_ = std::make_unique<FakeDaemon>(io_.get_executor(), folder_ + "/o.sock", &process_,
                                                 &other_containers_);
    return other_daemon_->address();
  }

  void OnServer(std::function<void()> what) { asio::post(io_, std::move(what)); }

  // Runs one command line against the daemon; its output is in `printed_` and `said_`.
  int Ferryctl(std::vector<const char*> arguments) {
    const std::string host = "unix:" + folder_ + "/d.sock";
    arguments.insert(arguments.begin(), {"ferryctl", "--host", host.c_str()});
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    const int code = RunFerryctl(static_cast<int>(arguments.size()), arguments.data());
    std::fflush(stdout);
    printed_ = testing::internal::GetCapturedStdout();
    said_ = testing::internal::GetCapturedStderr();
    return code;
  }

  asio::io_context io_;
  asio::executor_work_guard<asio::io_context::executor_type> work_{io_.get_executor()};
  FakeContainers containers_{io_.get_executor()};
  FakeContainers other_containers_{io_.get_executor()};
  FakeProcess process_;
  std::string folder_;
  std::unique_ptr<FakeDaemon> daemon_, other_daemon_;
  std::string printed_, said_;
  std::thread thread_;
};

}  // namespace ferry::ctl
