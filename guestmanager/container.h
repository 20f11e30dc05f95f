#pragma once

#include <optional>
#include <string>

#include "bridge/protocol/messages.h"
#include "bridge/runtime/async.h"

namespace ferry::guest {

// Something that runs in the guest already, attached to by name. The VM itself, "" here and the
// null GUID on the wire, is the first.
class Container {
 public:
  Container(Executor executor, std::string id) : id_(std::move(id)), ended_(std::move(executor)) {}

  const std::string& id() const { return id_; }

  // Returns when the agent reported its exit, or when the guest's connection was closed for good.
  // A lost link is neither.
  Task<void> Wait() { co_await ended_.Wait(); }
  // Empty until it has exited: how, in the agent's words (GracefulExit, ForcedExit, ...).
  const std::optional<std::string>& exit_type() const { return exit_type_; }

  void Exited(const bridge::ContainerNotification& notification) {
    exit_type_ = notification.type;
    ended_.Set();
  }
  void Close() { ended_.Set(); }

 private:
  std::string id_;
  AsyncEvent ended_;
  std::optional<std::string> exit_type_;
};

}  // namespace ferry::guest
