#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "bridge/runtime/blocking_worker.h"
#include "vmmanager/network/host_network.h"

namespace ferry::vm {

// Bridges and tap devices of this process's network namespace. The kernel lets one process at a
// time change networks, so it is asked on a thread of its own.
class LinuxHostNetwork final : public HostNetwork {
 public:
  struct Options {
    // What stands here for a bridge of that name; one that is not in it has the name itself.
    std::map<std::string, std::string> bridges;
    milliseconds limit{10'000};  // for each call
  };

  LinuxHostNetwork(Executor executor, Options options);

  Task<absl::Status> Check(schema::NetworkAdapter card) override;
  Task<absl::StatusOr<Tap>> Open(schema::NetworkAdapter card) override;
  Task<absl::Status> Carry(std::vector<int> taps) override;
  void Silence(std::vector<int> taps) override;

 private:
  const std::shared_ptr<const Options> options_;
  BlockingWorker worker_;
};

}  // namespace ferry::vm
