#pragma once

#include <functional>
#include <memory>
#include <string>

#include "tests/unit/tools/ferryctl/served_commands.h"
#include "tools/ferryctl/fake_containers.h"
#include "tools/ferryctl/fake_daemon.h"

namespace ferry::ctl {

// A daemon with containers, whose init prints "hello" and exits with 3.
class ContainerCommandsTest : public ServedCommandsTest {
 protected:
  ContainerCommandsTest() {
    daemon_ = std::make_unique<FakeDaemon>(io_.get_executor(), socket_, &process_, &containers_);
    process_.home = daemon_->address();
    process_.has_stdin = false;
    process_.stdin_ended = true;
    process_.output = "hello\n";
    process_.exit_code = 3;
  }
  void TearDown() override {
    OnServer([this] {
      Spawn(io_.get_executor(), daemon_->Shutdown());
      if (other_daemon_ != nullptr) Spawn(io_.get_executor(), other_daemon_->Shutdown());
    });
    ServedCommandsTest::TearDown();
  }

  // Another host, that `other_containers_` are on. Returns its address.
  std::string StartOther() {
    other_daemon_ = std::make_unique<FakeDaemon>(io_.get_executor(), folder_.path() + "/o.sock",
                                                 &process_, &other_containers_);
    return other_daemon_->address();
  }

  void OnServer(std::function<void()> what) { asio::post(io_, std::move(what)); }

  FakeContainers containers_{io_.get_executor()};
  FakeContainers other_containers_{io_.get_executor()};
  FakeProcess process_;
  std::unique_ptr<FakeDaemon> daemon_, other_daemon_;
};

}  // namespace ferry::ctl
