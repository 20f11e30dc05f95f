#pragma once

#include <memory>
#include <optional>
#include <string>

#include "bridge/guest/redial.h"
#include "bridge/runtime/async.h"
#include "bridge/stream/stream_sender.h"
#include "bridge/stream/wire.h"
#include "bridge/transport/transport.h"

namespace ferry::bridge {

// One end of a resumable stream, as ResumableLink drives it over one connection after another.
class ResumableEnd {
 public:
  virtual ~ResumableEnd() = default;
  virtual StreamHello MakeHello() const = 0;
  virtual absl::Status OnFrame(const StreamFrame& frame) = 0;
  // The next bytes for the peer, nullopt if there are none now.
  virtual std::optional<std::string> NextBytes() = 0;
  // Nothing more will be said: close the writing side once NextBytes() is empty.
  virtual bool said_all() const = 0;
  virtual void OnDisconnect() = 0;
  // The peer closed in order after said_all(), or need not do so.
  virtual void OnPeerClosed() = 0;
  virtual bool over() const = 0;
};

// Dials, speaks, and dials again until the end is over. `transport` must outlive Run().
class ResumableLink {
 public:
  ResumableLink(Executor executor, GuestTransport& transport, uint32_t port, ResumableEnd& end)
      : transport_(transport), port_(port), end_(end), redial_(transport), wake_(executor) {}

  // `keep` owns this link and its end: what it starts may end a moment after it was cancelled.
  Task<void> Run(std::shared_ptr<void> keep);

  // The end has something to say.
  void Wake() { wake_.Set(); }

 private:
  Task<void> Serve(std::shared_ptr<void> keep, std::shared_ptr<Connection> connection);
  Task<absl::Status> ReadAll(Connection& connection);
  Task<void> WriteAll(std::shared_ptr<void> keep, std::shared_ptr<Connection> connection);

  GuestTransport& transport_;
  const uint32_t port_;
  ResumableEnd& end_;
  Redial redial_;
  AsyncEvent wake_;
  bool reading_ = false;  // the present connection is not over
};

}  // namespace ferry::bridge
