#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>

#include "absl/status/statusor.h"
#include "guestmanager/guest_connection.h"

namespace ferry::guest {

// Ends processes that run in the guest although whoever asked for them was told otherwise: the
// answer to ExecuteProcess was lost with the link, or nobody waited for it any more. The agent is
// asked what it has, and what this host never heard of is killed.
class StrayProcesses {
 public:
  struct Host {
    std::function<bool(uint32_t pid)> knows;
    std::function<void(uint32_t pid)> acknowledge_exit;
  };

  // Nothing is called any more once `connection` is closed.
  StrayProcesses(std::shared_ptr<GuestConnection> connection, Host host)
      : connection_(std::move(connection)), host_(std::move(host)) {}

  // There may be some: looks now or, without a link, when there is one.
  void Suspect();

  // The agent is (again) there.
  void OnReady();

  // One call of ExecuteProcess. While it lasts a process that is not known may be its. Without an
  // answer there may be a stray.
  class Execution {
   public:
    explicit Execution(StrayProcesses& strays) : strays_(strays) { ++strays_.executing_; }
    Execution(const Execution&) = delete;
    Execution& operator=(const Execution&) = delete;
    ~Execution();
    void Answered() { answered_ = true; }

   private:
    StrayProcesses& strays_;
    bool answered_ = false;
  };

 private:
  void Look();
  void OnList(const absl::StatusOr<std::string>& answer);
  void Judge();
  void End(uint32_t pid);

  std::shared_ptr<GuestConnection> connection_;
  Host host_;
  int executing_ = 0;
  bool suspected_ = false;
  std::set<uint32_t> unknown_;  // not judged yet
  std::set<uint32_t> ending_;   // killed, exit not acknowledged yet
};

}  // namespace ferry::guest
