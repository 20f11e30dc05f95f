#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "migration/connection/session_connection.h"
#include "migration/connection/tls_stream.h"
#include "vmmanager/identity/identity.h"

namespace ferry::migration {

struct RefusedConnection {
  identity::Identity peer;  // as its certificate says, if it has one
  std::string address;      // where it came from
  std::string session_id;   // that it asked for; empty if it got not so far
  std::string why;
};

struct ListenerOptions {
  // Port 0: any free one. Empty: no connections are accepted, only handed over.
  std::string address = "127.0.0.1:0";
  // What sources are told to dial: "host:port", or "host" for the port that was bound. Empty: the
  // address that was bound, which must be one that they reach.
  std::string advertised;
  std::shared_ptr<TlsContext> tls;  // null: plain TCP
  SessionLimits limits;
  // Connections that have not said hello yet; one more ends the oldest of them, so that those who
  // say nothing keep nobody out.
  size_t max_unauthenticated = 16;
  std::chrono::milliseconds hello_deadline{
      5'000};  // from the connection to its hello, TLS included
  // Told of each connection that was refused, but for those without a certificate of the CA.
  std::function<void(const RefusedConnection&)> refused;
};

// Accepts session connections at the destination and gives each to whoever expects it. A
// connection without a fitting session id and token is refused with the reason.
class SessionListener {
 public:
  // One expected session. While it lives, a source that shows the token is accepted; again only
  // after the former connection was taken by Wait().
  class Expectation {
   public:
    virtual ~Expectation() = default;
    // The connection, also if it was made before. DEADLINE_EXCEEDED after `timeout`. One waiter.
    virtual Task<absl::StatusOr<std::shared_ptr<SessionConnection>>> Wait(
        std::chrono::milliseconds timeout) = 0;
  };

  // UNAVAILABLE if it cannot listen at the address.
  static absl::StatusOr<std::unique_ptr<SessionListener>> Listen(Executor executor,
                                                                 ListenerOptions options);
  ~SessionListener();
  SessionListener(const SessionListener&) = delete;
  SessionListener& operator=(const SessionListener&) = delete;

  // Where sources are to dial; empty if it accepts no connections.
  const std::string& address() const;
  // Where it listens, as a number, with the port that was bound.
  const std::string& bound_address() const;

  // From now on the session may be opened with `token` (kSessionTokenSize random bytes), by the
  // host `peer_name` if that is given.
  absl::StatusOr<std::unique_ptr<Expectation>> Expect(const std::string& session_id,
                                                      const std::string& token,
                                                      const std::string& journal_id,
                                                      const std::string& peer_name = "");

  // Stops accepting; waiters get CANCELLED. Connections that were handed out live on.
  void Close();

 private:
  class State;
  class Entry;
  explicit SessionListener(std::shared_ptr<State> state);
  std::shared_ptr<State> state_;
};

}  // namespace ferry::migration
