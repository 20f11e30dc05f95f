#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "bridge/transport/vsock.h"

namespace ferry::bridge {

// Vsock's socket calls over Unix sockets in a folder, for tests. Each instance dials as one context
// id; instances over the same folder share the port numbers, as one kernel's sockets do.
class FakeVsockSockets final : public VsockSockets {
 public:
  FakeVsockSockets(std::string folder, uint32_t own_cid)
      : folder_(std::move(folder)), own_cid_(own_cid) {}
  ~FakeVsockSockets() override;

  absl::StatusOr<UniqueFd> Listen(uint32_t port) override;
  absl::StatusOr<std::optional<Accepted>> Accept(int listener) override;
  absl::StatusOr<UniqueFd> StartConnect(uint32_t cid, uint32_t port) override;

  int listen_calls() const { return listen_calls_; }

  // The next calls of Accept fail, as without free descriptors.
  void set_exhausted(bool exhausted) { exhausted_ = exhausted; }

 private:
  std::string Path(uint32_t port) const;

  std::string folder_;
  uint32_t own_cid_;
  int listen_calls_ = 0;
  int dials_ = 0;
  bool exhausted_ = false;
};

}  // namespace ferry::bridge
