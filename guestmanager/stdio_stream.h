#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "bridge/runtime/async.h"
#include "bridge/stream/wire.h"
#include "guestmanager/link_gate.h"

namespace ferry::guest {

// The host's end of one stdio port: listens for as long as it lives, and serves the newest
// connection. It keeps no payload of its own besides what is being written.
class StdioStream : public std::enable_shared_from_this<StdioStream> {
 public:
  // The stream's state, above the connection. Calls come only while the stream is not closed.
  class Owner {
   public:
    virtual ~Owner() = default;
    // The first words on a new connection; nullopt while nobody wants its data. Wake() asks again.
    virtual std::optional<bridge::StreamHello> OwnHello() = 0;
    // Errors reset the connection.
    virtual absl::Status OnPeerHello(const bridge::StreamHello& hello) = 0;
    virtual absl::Status OnFrame(const bridge::StreamFrame& frame) = 0;
    // Whether data may be taken from the guest now. Wake() asks again.
    virtual bool WantsData() const = 0;
    // The same for an agent without resumable stdio: plain bytes on one connection.
    virtual void OnPlainUp() = 0;
    virtual void OnPlainData(std::string_view data) = 0;
    virtual void OnPlainEnd() = 0;
    virtual void OnPlainWritten(size_t size) = 0;
    virtual void OnPlainLost(const absl::Status& reason) = 0;
  };

  // `owner` must call Close() before it goes away.
  StdioStream(std::shared_ptr<LinkGate> gate, Owner* owner);

  absl::Status Listen(uint32_t port);

  // True once both hellos were exchanged (or a plain connection is there).
  bool up() const;
  bool plain() const;
  // Queued for the current connection; dropped if there is none. `counted` bytes of it are payload.
  void Send(std::string bytes, size_t counted);
  // The same for what the process reads: held back while the guest's clock may be wrong.
  void SendToProcess(std::string bytes, size_t counted);
  void EndWriting();  // plain: half-close after what is queued
  void Wake();
  // Drops the connection; the guest dials again and the hellos say where to go on.
  void Restart();
  void Close();

 private:
  struct Link;
  static Task<void> AcceptLoop(std::shared_ptr<StdioStream> self);
  static Task<void> Serve(std::shared_ptr<StdioStream> self, std::shared_ptr<Link> link);
  static Task<absl::Status> ServeResumable(std::shared_ptr<StdioStream> self,
                                           std::shared_ptr<Link> link);
  static Task<absl::Status> ServePlain(std::shared_ptr<StdioStream> self,
                                       std::shared_ptr<Link> link);
  static Task<absl::Status> Handle(std::shared_ptr<StdioStream> self, std::shared_ptr<Link> link);
  static Task<void> WriteLoop(std::shared_ptr<StdioStream> self, std::shared_ptr<Link> link);
  void Drop(const std::shared_ptr<Link>& link, const absl::Status& reason);

  std::shared_ptr<LinkGate> gate_;
  Owner* owner_;
  std::shared_ptr<bridge::Listener> listener_;
  std::shared_ptr<Link> link_;
  AsyncEvent wake_;
  bool closed_ = false;
};

}  // namespace ferry::guest
